"""QGFN: a GFlowNet policy P_F and an action value Q mixed by p (arXiv 2402.05234, Section 3).

Both networks learn from the same trajectories, which a mixture mu of the two samples. P_F learns by
trajectory balance on R^beta, Q by n-step Q-learning on the raw reward R. At inference any mixture
and any p can be chosen without training again.

Shapes: A actions on the last axis, T actions per trajectory, leading axes free. Policies are
returned as log mu [..., A], with -inf on what is removed; ``mask`` marks the valid actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from common.gfn.sampling import masked_log_softmax

Mixture = Callable[[Tensor, Tensor, Tensor, float], Tensor]

TIE = 1e-9  # values this close are equal (two edges to the same state)
P_OF_MAX_FLOOR = 1e-3  # p max q at or below this prunes nothing [code]
TAU_Q = 0.95  # weight of the OLD copy in the lagged network [code: 0.9-0.95]
RAMP_STEPS = 1500  # steps of the cosine ramp of p [code]


# -- mixtures: Section 3.2 -----------------------------------------------------------------------


def p_greedy(logits: Tensor, q: Tensor, mask: Tensor, p: float) -> Tensor:
    """mu = (1-p) P_F + p 1[a = argmax q]; maximisers share. log mu [..., A]."""
    log_pf = masked_log_softmax(logits, mask)
    best = maximisers(q, mask)
    log_greedy = torch.where(
        best, -best.sum(-1, keepdim=True).clamp(min=1).to(q.dtype).log(), -torch.inf
    )
    if p >= 1:
        return log_greedy
    weight = math.log(p) if p > 0 else -math.inf
    return torch.logaddexp(log_pf + math.log1p(-p), log_greedy + weight)


def p_quantile(logits: Tensor, q: Tensor, mask: Tensor, p: float) -> Tensor:
    """mu ~ P_F 1[q >= the p-quantile of the valid q] (linear interpolation). log mu [..., A].

    Not continuous at p = 0: there all actions stay, while any p > 0 removes the worst one.
    """
    ascending = q.masked_fill(~mask, torch.inf).sort(-1).values  # invalid ones last
    at = p * (mask.sum(-1, keepdim=True) - 1).clamp(min=0).to(q.dtype)
    low = at.floor().long()
    below = ascending.gather(-1, low)
    above = ascending.gather(-1, at.ceil().long())
    between = at > low
    gap = torch.where(between, above - below, 0)
    quantile = below + (at - low) * gap
    return restricted(logits, mask & ((q >= quantile - TIE) | maximisers(q, mask)))


def p_of_max(logits: Tensor, q: Tensor, mask: Tensor, p: float) -> Tensor:
    """mu ~ P_F 1[q >= p max q], q clamped at 0; p max q <= 1e-3 prunes nothing. log mu [..., A]."""
    q = q.clamp(min=0)
    bar = p * q.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    return restricted(logits, mask & ((q >= bar - TIE) | (bar <= P_OF_MAX_FLOOR)))


def maximisers(q: Tensor, mask: Tensor) -> Tensor:
    """Valid actions whose value is the largest. [..., A] bool."""
    highest = q.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    return mask & (q >= highest - TIE)


def restricted(logits: Tensor, keep: Tensor) -> Tensor:
    """P_F renormalised on the kept actions, in logits: no 0/0 where P_F underflows."""
    return torch.log_softmax(logits.masked_fill(~keep, -torch.inf), -1)


MIXTURES: dict[str, Mixture] = {
    "p-greedy": p_greedy,
    "p-quantile": p_quantile,
    "p-of-max": p_of_max,
}


def ramp(p: float, step: int, ramp_steps: int = RAMP_STEPS) -> float:
    """p_t = p/2 (1 - cos(pi step / ramp_steps)), then p: greediness starts at P_F alone."""
    if step >= ramp_steps:
        return p
    return 0.5 * p * (1 - math.cos(math.pi * step / ramp_steps))


# -- Q: Section 3.1 ------------------------------------------------------------------------------


def double_estimate(q: Tensor, q_lagged: Tensor, mask: Tensor) -> Tensor:
    """Q_lagged(s, argmax_a Q(s, a)): the online network chooses, the lagged one values. [...]."""
    best = q.masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    return q_lagged.gather(-1, best).squeeze(-1)


def n_step_targets(
    reward: Tensor, length: Tensor, n_steps: int, n: int, values: Tensor | None
) -> Tensor:
    """R(x) where t + n >= T, else the bootstrap value of s_{t+n}. No gradient. [..., n_steps].

    Args:
        reward: [...] raw reward R of the object, without the exponent.
        length: [...] number of actions T of each trajectory.
        n_steps: the longest trajectory.
        n: steps; n >= T is the Monte-Carlo return of the behaviour policy: Q^mu, not Q*.
        values: [..., n_steps] bootstrap value of the states s_0 ... s_{T-1}; None if n >= n_steps.
    """
    target = reward.unsqueeze(-1).expand(*reward.shape, n_steps)
    if n < n_steps:
        assert values is not None
        later = torch.cat([values[..., n:], target[..., :n].to(values.dtype)], -1)
        ended = torch.arange(n_steps, device=reward.device) + n >= length.unsqueeze(-1)
        target = torch.where(ended, target.to(values.dtype), later)
    return target.detach()


def q_loss(q_taken: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Huber loss (delta = 1), mean over all steps of a seed. [S, B, T] -> [S]."""
    loss = nn.functional.huber_loss(q_taken, target, reduction="none") * mask
    return loss.sum((-2, -1)) / mask.sum((-2, -1))


@torch.no_grad()
def update_lagged(lagged: Iterable[Tensor], online: Iterable[Tensor], tau: float = TAU_Q) -> None:
    """phi_lagged <- tau phi_lagged + (1 - tau) phi, in place."""
    for old, new in zip(lagged, online, strict=True):
        old.lerp_(new, 1 - tau)
