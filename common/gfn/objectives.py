"""Standard GFlowNet objectives as pairs (log forward flow, log backward flow) per training object.

Every function returns ``(log_p_F, log_p_B)`` of its objects, with gradient. What a paper does with
the pair is its own affair: the usual residual is ``log_p_F - log_p_B`` (here ``residual``),
squared and averaged; other papers put the opposite sign into an asymmetric loss.

Shapes: [..., T] per action, [..., T+1] per state; ``mask`` [..., T] marks the actions taken. Entry
T_i of ``log_flows`` (the state after the last action) must hold log R of the object: see
``with_reward``.
"""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def residual(pair: Pair) -> Tensor:
    """log p_F - log p_B: the family's (and most code's) sign."""
    return pair[0] - pair[1]


def mean_square(pair: Pair, weights: Tensor | None = None) -> Tensor:
    """Mean (or weighted sum) of the squared residuals: the textbook loss."""
    squared = residual(pair).square()
    return squared.mean() if weights is None else (weights * squared).sum()


def with_reward(log_flows: Tensor, log_reward: Tensor, length: Tensor) -> Tensor:
    """Replaces the flow after the last action by log R, and pads with it. [..., T+1]."""
    steps = torch.arange(log_flows.shape[-1], device=log_flows.device)
    ended = steps >= length.unsqueeze(-1)
    return torch.where(ended, log_reward.unsqueeze(-1).to(log_flows.dtype), log_flows)


def forward_looking(log_flows_tilde: Tensor, log_reward_of_states: Tensor) -> Tensor:
    """F(s) = R(s) F~(s): adds the partial reward to the head's output."""
    return log_flows_tilde + log_reward_of_states.to(log_flows_tilde.dtype)


def modified_log_flows(log_reward_of_states: Tensor, log_p_stop: Tensor) -> Tensor:
    """F(s) = R(s)/P_F(s_f|s): no flow head; all states must be terminal."""
    return log_reward_of_states.to(log_p_stop.dtype) - log_p_stop


def trajectory_balance(
    log_pf: Tensor, log_pb: Tensor, mask: Tensor, log_Z: Tensor, log_reward: Tensor
) -> Pair:
    """TB: Z prod P_F against R prod P_B. Returns [...] pairs, one per trajectory."""
    forward = log_Z + (log_pf * mask).sum(-1)
    backward = log_reward.to(log_pb.dtype) + (log_pb * mask).sum(-1)
    return forward, backward


def detailed_balance(log_flows: Tensor, log_pf: Tensor, log_pb: Tensor) -> Pair:
    """DB: F(s) P_F(s'|s) against F(s') P_B(s|s'). Returns [..., T] pairs; use only where mask."""
    return log_flows[..., :-1] + log_pf, log_flows[..., 1:] + log_pb


def subtrajectory_balance(log_flows: Tensor, log_pf: Tensor, log_pb: Tensor, mask: Tensor) -> Pair:
    """SubTB: F(s_i) prod P_F against F(s_j) prod P_B for all i < j. [..., T+1, T+1] pairs.

    Entry [i, j] is meaningful where ``subtrajectory_weights`` is positive. With cumulative sums
    C_F and C_B the pair is (F_i - C_F,i + C_F,j, F_j + C_B,j - C_B,i).
    """
    zero = torch.zeros_like(log_pf[..., :1])
    cum_f = torch.cat([zero, (log_pf * mask).cumsum(-1)], -1)
    cum_b = torch.cat([zero, (log_pb * mask).cumsum(-1)], -1)
    forward = (log_flows - cum_f).unsqueeze(-1) + cum_f.unsqueeze(-2)
    backward = (log_flows + cum_b).unsqueeze(-2) - cum_b.unsqueeze(-1)
    return forward, backward


def subtrajectory_weights(length: Tensor, n_steps: int, lam: float) -> Tensor:
    """lambda^(j-i) / sum lambda^(j-i) over 0 <= i < j <= length, per trajectory.

    [..., T+1, T+1].
    """
    steps = torch.arange(n_steps + 1, device=length.device)
    gap = steps.unsqueeze(0) - steps.unsqueeze(1)  # [i, j] -> j - i
    valid = (gap > 0) & (steps <= length.unsqueeze(-1)).unsqueeze(-2)
    # relative to the longest piece, so that lambda > 1 cannot overflow
    power = torch.tensor(lam, dtype=torch.float64, device=length.device).pow(
        gap.double() - (n_steps if lam > 1 else 0)
    )
    weights = torch.where(valid, power, torch.zeros_like(power))
    return (weights / weights.sum((-2, -1), keepdim=True)).float()


def flow_matching(
    log_inflows: Tensor, parent_mask: Tensor, log_outflows: Tensor, action_mask: Tensor
) -> Pair:
    """FM at non-initial states: sum of inflows against sum of outflows (stop edge included).

    Args:
        log_inflows: [..., A_b] log F(parent -> s).  parent_mask: the same shape, bool.
        log_outflows: [..., A] log F(s -> s').  action_mask: the same shape, bool.
    """
    low = -1e9
    forward = torch.logsumexp(log_inflows.masked_fill(~parent_mask, low), -1)
    backward = torch.logsumexp(log_outflows.masked_fill(~action_mask, low), -1)
    return forward, backward


def reward_matching(log_stop_flow: Tensor, log_reward: Tensor) -> Pair:
    """Second part of FM with a learned stop edge: F(x -> s_f) against R(x)."""
    return log_stop_flow, log_reward.to(log_stop_flow.dtype)
