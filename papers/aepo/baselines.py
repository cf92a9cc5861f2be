"""What the analytic energy is compared with: other energies, and a policy without diffusion.

Reconstruction guidance is ``method.energy_target`` without its spread, learned by a network or
differentiated through eps_phi as in diffusion posterior sampling (Chung et al. 2023); guidance by
beta Q at the noisy action is ``method.energy_gradient`` of beta Q itself; implicit Q-learning's
policy is in ``common.control.iql``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clean_target(q: Tensor, beta: float) -> Tensor:
    """beta Q(s, a_0) of the clean action: the regression's minimiser is E[beta Q | a_n] <= E_n.

    Args:
        q: at the clean actions. [S, B]
        beta: inverse temperature.
    """
    return beta * q


def contrastive_loss(energy: Tensor, q: Tensor, beta: float) -> Tensor:
    """-sum_i softmax_i(beta Q_i) log softmax_i(E_i), mean over states (Lu et al. 2023). [S].

    Its minimiser is the intermediate energy up to a function of state and step, where the actions
    are samples of the behaviour.

    Args:
        energy: E_Theta at M noisy actions of a state, all at one step. [S, B, M]
        q: at the clean actions. [S, B, M]
        beta: inverse temperature.
    """
    wanted = torch.softmax(beta * q, -1).detach()
    return -(wanted * torch.log_softmax(energy, -1)).sum(-1).mean(-1)


def support_value(q: Tensor, beta: float) -> Tensor:
    """V(s) = sum_j softmax_j(beta Q_j) Q_j over M actions of the behaviour. [..., M] -> [...]."""
    return (torch.softmax(beta * q, -1) * q).sum(-1)
