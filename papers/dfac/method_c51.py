"""DFAC with categorical laws (C51; the unified framework of 2023): the shape is a convolution.

Each agent has probabilities p_i of m atoms on a common grid. The sum of *independent* utilities has
the convolution p_1 * ... * p_n as law; it is shifted by Psi(Q) - sum_i Q_i, so that its mean is
Psi(Q), and projected onto the m joint atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.marl.targets import masked
from common.stacked import StackedLinear
from common.torch_utils import cumulative_sum
from papers.dfac.method import DFACConfig, masked_mean_per_seed
from papers.dfac.networks import Batch, Generators, Psi, Sizes, Trunk, rows

SMALLEST = 1e-8  # probability within the logarithm


def convolve(p: Tensor, q: Tensor) -> Tensor:
    """Law of the sum of two independent variables on grids of one spacing.

    [..., k], [..., m] -> [..., k + m - 1].
    """
    m = q.shape[-1]
    windows = F.pad(p, (m - 1, m - 1)).unfold(-1, m, 1)  # [..., k + m - 1, m]
    return (windows @ q.flip(-1).unsqueeze(-1)).squeeze(-1)


def project(p: Tensor, atoms: Tensor, low: float, spacing: float, n: int) -> Tensor:
    """C51's projection: each atom's mass goes to the two nearest of n grid points, linearly.

    What lies outside of the grid goes to its ends. The mean is kept for what lies within.

    Args:
        p: masses. [..., k].
        atoms: where they lie. [..., k].
        low: the first grid point.
        spacing: of the grid.
        n: grid points.

    Returns:
        [..., n].
    """
    at = ((atoms - low) / spacing).clamp(0, n - 1).expand_as(p)  # in grid points
    left = at.detach().floor().clamp(max=n - 2)
    right_share = at - left
    found = p.new_zeros(*p.shape[:-1], n)
    found = found.scatter_add(-1, left.long(), p * (1 - right_share))
    return found.scatter_add(-1, left.long() + 1, p * right_share)


def joint_masses(p: Tensor, value: Tensor, low: float, spacing: float) -> Tensor:
    """The joint law: the convolution of the agents' laws with its mean moved to Psi(Q).

    Args:
        p: masses of the actions taken. [..., n, m].
        value: Psi(Q), the mean that the joint law gets (up to what the grid cuts off). [...].
        low: the first atom, of the agents' laws and of the joint one.
        spacing: of the atoms.

    Returns:
        [..., m].
    """
    m = p.shape[-1]
    joint = p[..., 0, :]
    for i in range(1, p.shape[-2]):
        joint = convolve(joint, p[..., i, :])
    steps = spacing * torch.arange(joint.shape[-1], dtype=p.dtype, device=p.device)
    first = value - (joint @ steps)  # the convolution's own mean is sum_i Q_i
    return project(joint, first.unsqueeze(-1) + steps, low, spacing, m)


class CategoricalNet(nn.Module):
    """Agents with probabilities of atoms, and Psi: DDN and DMIX with C51."""

    def __init__(self, psi: Psi, generators: Generators, sizes: Sizes) -> None:
        super().__init__()
        self.trunk = Trunk(generators, sizes.n_in, sizes.hidden)
        self.head = StackedLinear(generators, sizes.hidden, sizes.n_actions * sizes.atoms)
        self.psi, self.n_atoms = psi, sizes.atoms
        self.low, high = sizes.support
        self.spacing = (high - self.low) / (sizes.atoms - 1)

    def grid(self, like: Tensor) -> Tensor:
        """The atoms. [m]."""
        steps = torch.arange(self.n_atoms, dtype=like.dtype, device=like.device)
        return self.low + self.spacing * steps

    def probabilities(self, h: Tensor) -> Tensor:
        """p_i of all actions. [..., n, H] -> [..., n, A, m]."""
        return rows(self.head, h).unflatten(-1, (-1, self.n_atoms)).softmax(-1)

    def means(self, h: Tensor, omega: Tensor | None = None) -> Tensor:
        """Q_i of all actions; with omega the mean of their quantiles there. -> [..., n, A]."""
        p = self.probabilities(h)
        if omega is None:
            return p @ self.grid(h)
        return quantiles(p, self.grid(h), omega.unsqueeze(-2).expand(*p.shape[:-1], -1)).mean(-1)

    def masses(self, h: Tensor, actions: Tensor, state: Tensor) -> Tensor:
        """Masses of the joint action's m atoms. [S, B, T, m]."""
        index = actions[..., None, None].expand(*actions.shape, 1, self.n_atoms)
        p = self.probabilities(h).gather(-2, index).squeeze(-2)  # [S, B, T, n, m]
        q = p @ self.grid(h)
        value, _ = self.psi(q, q, actions, state)
        return joint_masses(p, value, self.low, self.spacing)

    def law(
        self, h: Tensor, omega: Tensor, actions: Tensor, state: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Quantiles of joint actions at omega [S, B, T, 1, K], as ``QuantileNet.law``."""
        p = self.masses(h, actions, state)
        return quantiles(p, self.grid(h), omega.squeeze(-2)), p.new_zeros(len(p))


def quantiles(p: Tensor, grid: Tensor, omega: Tensor) -> Tensor:
    """Smallest atoms whose cumulative mass reaches omega. [..., m], [m], [..., K] -> [..., K]."""
    below = cumulative_sum(p).unsqueeze(-2) < omega.unsqueeze(-1)  # [..., K, m]
    return grid[below.sum(-1).clamp(max=p.shape[-1] - 1)]


def c51_loss(
    net: CategoricalNet, target: CategoricalNet, batch: Batch, cfg: DFACConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy between the projected law of r + gamma Z_jt^-(s', u*) and Z_jt(s, u).

    Returns as ``method.dfac_loss``.
    """
    h_online = net.trunk(batch.inputs)
    p = net.masses(h_online[:, :, :-1], batch.actions, batch.state[:, :, :-1])
    grid = net.grid(p)
    with torch.no_grad():
        h = target.trunk(batch.inputs)[:, :, 1:]
        chooser, seen = (net, h_online[:, :, 1:]) if cfg.double_q else (target, h)
        best = masked(chooser.means(seen), batch.avail[:, :, 1:]).argmax(-1)
        after = target.masses(h, best, batch.state[:, :, 1:])
        keep = cfg.gamma * (1 - batch.terminated).unsqueeze(-1)
        y = batch.reward.unsqueeze(-1) + keep * grid
        wanted = project(after, y, net.low, net.spacing, net.n_atoms)
    found = masked_mean_per_seed(-(wanted * (p + SMALLEST).log()).sum(-1), batch.filled)
    value = p.detach() @ grid
    spread = (p.detach() @ grid.square() - value.square()).clamp(min=0).sqrt()
    logged = {
        "value": masked_mean_per_seed(value, batch.filled),
        "spread": masked_mean_per_seed(spread, batch.filled),
    }
    return found, {"loss": found.detach(), **logged}
