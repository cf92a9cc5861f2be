"""Standard GFlowNet objectives as pairs (log forward flow, log backward flow) per training object.

Every function returns ``(log_p_F, log_p_B)`` of its objects, with gradient. What a paper does with
the pair is its own affair: the usual residual is ``log_p_F - log_p_B`` (``residual``), squared and
averaged (``loss_per_seed``); other papers put the opposite sign into an asymmetric loss.

Shapes: [..., T] per action, [..., T+1] per state; ``mask`` [..., T] marks the actions taken. Entry
T_i of ``log_flows`` (the state after the last action) must hold log R of the object: see
``with_reward``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.torch_utils import cumulative_sum

Pair = tuple[Tensor, Tensor]

#: The names that ``training_pairs`` knows.
OBJECTIVES = ("fm", "db", "tb", "stb", "fl-db", "fl-stb", "modified-db", "modified-stb")


@dataclass
class Visited:
    """What an objective needs along trajectories, with gradient; all [S, B, ...].

    What an objective does not need may be None.
    """

    log_pf: Tensor  # [S, B, T]
    log_pb: Tensor  # [S, B, T], 0 at a stop edge
    log_flow: Tensor | None  # [S, B, T+1] output of the flow head
    log_p_stop: Tensor | None  # [S, B, T+1]
    log_reward: Tensor | None  # [S, B, T+1] log R of the states passed (fl-*, modified-*)
    log_reward_last: Tensor  # [S, B]
    matching: Pair | None = None  # FM pair at the states after each action, [S, B, T] each
    stop_flow: Tensor | None = None  # FM with a stop action: log F(x -> s_f) of the object, [S, B]


def residual(pair: Pair) -> Tensor:
    """log p_F - log p_B: the family's (and most code's) sign."""
    return pair[0] - pair[1]


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
    cum_f = torch.cat([zero, cumulative_sum(log_pf * mask)], -1)
    cum_b = torch.cat([zero, cumulative_sum(log_pb * mask)], -1)
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


def mean_weights(mask: Tensor) -> Tensor:
    """Weights of a plain mean over the objects marked in mask [S, ...], per seed."""
    count = mask.flatten(1).sum(1).clamp(min=1)
    return mask / count.view(-1, *([1] * (mask.dim() - 1)))


def training_pairs(
    name: str,
    visited: Visited,
    actions: Tensor,
    mask: Tensor,
    *,
    stop: int | None,
    log_Z: Tensor | None = None,
    lam: float = 0.9,
) -> list[tuple[Pair, Tensor]]:
    """The (pair, weights) of one of OBJECTIVES on a batch: its loss is the sum of their means.

    FM with a stop action has two parts, each with its own mean: flows at states, and the stop edge
    against the reward. The weights [S, ...] sum to one per seed and part, and are zero on padding.

    Args:
        actions, mask: [S, B, T].
        stop: the stop action, or None if complete objects are terminal.
        log_Z: [S] (tb).
        lam: lambda of SubTB.
    """
    v = visited
    every_object = mean_weights(torch.ones_like(mask[..., 0]))
    moves = mask if stop is None else mask & (actions != stop)
    if name == "tb":
        assert log_Z is not None
        pair = trajectory_balance(v.log_pf, v.log_pb, mask, log_Z.unsqueeze(-1), v.log_reward_last)
        return [(pair, every_object)]
    if name == "fm":
        assert v.matching is not None
        parts = [(v.matching, mean_weights(moves))]
        if v.stop_flow is not None:
            parts.append((reward_matching(v.stop_flow, v.log_reward_last), every_object))
        return parts
    assert v.log_flow is not None
    log_flow = v.log_flow
    if name.startswith("fl-"):
        assert v.log_reward is not None
        log_flow = forward_looking(log_flow, v.log_reward)
    if name.startswith("modified-"):
        assert v.log_reward is not None and v.log_p_stop is not None
        log_flow = modified_log_flows(v.log_reward, v.log_p_stop)
    length = mask.sum(-1)
    log_flow = with_reward(log_flow, v.log_reward_last, length)
    if name.endswith("stb"):
        pair = subtrajectory_balance(log_flow, v.log_pf, v.log_pb, mask)
        return [(pair, subtrajectory_weights(length, mask.shape[-1], lam) / mask.shape[1])]
    edges = moves if name.startswith("modified-") else mask
    return [(detailed_balance(log_flow, v.log_pf, v.log_pb), mean_weights(edges))]


def loss_per_seed(parts: list[tuple[Pair, Tensor]]) -> Tensor:
    """The textbook loss: sum over parts of the weighted mean squared residual. [S]."""
    total = []
    for pair, weights in parts:
        t = torch.where(weights > 0, residual(pair), torch.zeros_like(pair[0]))
        total.append((weights * t.square()).flatten(1).sum(1))
    return torch.stack(total).sum(0)
