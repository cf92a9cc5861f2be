"""Baselines: soft and Munchausen DQN in the form whose fixed point is a GFlowNet, uniform policy.

FM, DB, TB and SubTB come from ``common.gfn.objectives``; plain (unrectified) policy evaluation is
``method`` with R' = R.

Soft RL with reward log P_B(s|s') per step (P_B = 1/B) and log R(x) at the end, temperature 1, has
the value V(s) = log F(s) and the policy of the GFlowNet with that P_B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import uniform_log_pf
from common.gfn.metrics import l1_sum_exact
from common.gfn.sampling import MASKED, masked_log_softmax
from papers.rpe.method import log_in_degree

MUNCHAUSEN_ALPHA = 0.15  # [released code]
MUNCHAUSEN_CLIP = -100.0  # l_0 [released code]


def temperature(alpha: float) -> float:
    """1/(1 - alpha): the temperature at which Munchausen DQN has the soft fixed point at 1."""
    return 1 / (1 - alpha)


def soft_value(q: Tensor, mask: Tensor, alpha: float = 0.0) -> Tensor:
    """tau log sum_a exp(Q/tau) over allowed actions. [..., A] -> [...]."""
    tau = temperature(alpha)
    return tau * torch.logsumexp((q / tau).masked_fill(~mask, MASKED), -1)


def soft_log_policy(q: Tensor, mask: Tensor, alpha: float = 0.0) -> Tensor:
    """log softmax(Q/tau) over allowed actions. [..., A]."""
    return masked_log_softmax(q / temperature(alpha), mask)


def munchausen_bonus(
    log_policy: Tensor, alpha: float, bonus_temperature: float | None = None
) -> Tensor:
    """alpha clip(tau log pi, l_0, 1), with tau = 1/(1 - alpha) inside the clip. [...]."""
    tau = temperature(alpha) if bonus_temperature is None else bonus_temperature
    return alpha * (tau * log_policy).clamp(MUNCHAUSEN_CLIP, 1.0)


def q_targets(
    log_pb: Tensor,
    log_reward: Tensor,
    ended: Tensor,
    next_value: Tensor,
    bonus: Tensor | float = 0.0,
) -> Tensor:
    """r + V(s'): log P_B + bonus + (log R if s' is complete, else the soft value). [...]."""
    return log_pb + bonus + torch.where(ended, log_reward, next_value)


def huber(error: Tensor) -> Tensor:
    """e^2/2 up to 1, |e| - 1/2 beyond. [...]."""
    size = error.abs()
    return torch.where(size <= 1, 0.5 * error.square(), size - 0.5)


def soft_iteration(
    dag: EnumeratedDAG,
    alpha: float = 0.0,
    *,
    sweeps: int = 200,
    bonus_temperature: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Tabular soft (Munchausen) value iteration. (V [N], log policy [N, A]), float64."""
    child = dag.children.clamp(min=0)
    log_pb = -log_in_degree(dag)[child]
    ended = torch.isfinite(dag.log_reward)
    log_reward = torch.where(ended, dag.log_reward, torch.zeros_like(dag.log_reward))[child]
    q = torch.zeros(dag.children.shape, dtype=torch.float64)
    sweeps = sweeps if alpha else int(dag.level.max()) + 1
    for _ in range(sweeps):
        bonus: Tensor | float = 0.0
        if alpha:
            log_policy = soft_log_policy(q, dag.forward_mask, alpha)
            bonus = munchausen_bonus(log_policy, alpha, bonus_temperature)
        value = soft_value(q, dag.forward_mask, alpha)
        q = q_targets(log_pb, log_reward, ended[child], value[child], bonus)
    value = torch.where(ended, dag.log_reward, soft_value(q, dag.forward_mask, alpha))
    return value, soft_log_policy(q, dag.forward_mask, alpha)


def uniform_policy_l1(dag: EnumeratedDAG) -> float:
    """Exact L1 of the untrained floor: every allowed action equally likely."""
    return float(l1_sum_exact(dag, uniform_log_pf(dag)))
