"""Weighted QMIX (Rashid et al. 2020) and regularised softmax (RES; Pan et al. 2021) targets."""

from __future__ import annotations

import torch
from torch import Tensor

from common.marl.targets import NEVER, taken


def optimistic_weights(q_tot: Tensor, target: Tensor, alpha: float) -> Tensor:
    """OW-QMIX: 1 where Q_tot underestimates its target, else alpha. [...] -> [...]."""
    return torch.where(q_tot < target, 1.0, alpha)


def central_weights(
    is_greedy: Tensor, target: Tensor, greedy_value: Tensor, alpha: float
) -> Tensor:
    """CW-QMIX: 1 where the joint action is the greedy one or better than that seems, else alpha.

    Args:
        is_greedy: whether the joint action taken is that of the agents' best actions. [...] bool.
        target: y of the action taken. [...].
        greedy_value: the central network's value of the greedy joint action. [...].
        alpha: weight of the rest, in (0, 1].
    """
    return torch.where(is_greedy | (target > greedy_value), 1.0, alpha)


def deviations(q: Tensor, actions: Tensor) -> Tensor:
    """Utilities of the joint actions in which one agent leaves ``actions``.

    Args:
        q: [..., N, A].
        actions: a joint action. [..., N] int64.

    Returns:
        [..., N, A, N]: entry (i, a, j) is q_j of agent j's action where agent i takes a.
    """
    N, A = q.shape[-2:]
    base = taken(q, actions)  # [..., N]
    own = torch.eye(N, dtype=torch.bool, device=q.device)[:, None, :]  # [N, 1, N]
    out = torch.where(own, q.unsqueeze(-1), base[..., None, None, :])
    return out.expand(*q.shape[:-2], N, A, N)


def softmax_value(avail: Tensor, q_tot: Tensor, q_tot_target: Tensor, beta: float) -> Tensor:
    """RES: softmax of Q_tot over the greedy joint action's neighbours, of the target's Q_tot.

    sum_u softmax_u(beta Q_tot(s, u)) Q_tot^-(s, u) over the N A joint actions that differ from the
    greedy one in at most one agent (the greedy action occurs N times, as in the paper's code).

    Args:
        avail: of each agent's action. [..., N, A] bool.
        q_tot, q_tot_target: of the neighbours, in the order of ``deviations``. [..., N * A].
        beta: inverse temperature.
    """
    allowed = avail.flatten(-2)
    weights = torch.softmax((beta * q_tot).masked_fill(~allowed, NEVER), -1)
    return (weights * q_tot_target).sum(-1)


__all__ = ["central_weights", "deviations", "optimistic_weights", "softmax_value"]
