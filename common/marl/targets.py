"""Targets of value learning over batches of episodes, and what selects actions.

Episodes of different lengths are padded: ``filled`` [B, T] is 1 on the steps that happened.
``terminated`` is 1 where an episode came to its end; a step that is last without being terminated
was cut by the time limit, and its next value is bootstrapped.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.marl.protocol import Bools, Floats, Ints

NEVER = -1e7  # the value of an action that is not available (finite: a padded step has none)


def masked(q: Tensor, avail: Tensor) -> Tensor:
    """Utilities with those of unavailable actions at ``NEVER``. [..., A]."""
    return q.masked_fill(~avail, NEVER)


def greedy(q: Tensor, avail: Tensor) -> Tensor:
    """The best available action of each agent. [..., A] -> [...] int64."""
    return masked(q, avail).argmax(-1)


def taken(q: Tensor, actions: Tensor) -> Tensor:
    """Utilities of given actions. [..., A], [...] -> [...]."""
    return q.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def masked_mean(x: Tensor, filled: Tensor) -> Tensor:
    """Mean of ``x`` [B, T] over the steps that happened."""
    return (x * filled).sum() / filled.sum()


def one_step(reward: Tensor, terminated: Tensor, following: Tensor, gamma: float) -> Tensor:
    """y_t = r_t + gamma (1 - term_t) V_{t+1}. [B, T] each."""
    return reward + gamma * (1 - terminated) * following


def td_lambda(
    reward: Tensor,
    terminated: Tensor,
    filled: Tensor,
    following: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Lambda returns, (1 - lam) sum_n lam^{n-1} G_t^{(n)}, of each episode by itself.

    Backwards from each episode's own last step L: y_L = r_L + gamma (1 - term_L) V_{L+1}, then
    y_t = r_t + gamma ((1 - lam) V_{t+1} + lam y_{t+1}). Padding changes nothing.

    Args:
        reward, terminated, filled: [B, T].
        following: V_{t+1}, the value of what step t led to. [B, T].
        gamma: discount.
        lam: 0 gives one-step targets, 1 Monte-Carlo returns (bootstrapped where cut).

    Returns:
        [B, T], 0 on padding.
    """
    T = reward.shape[1]
    goes_on = torch.cat([filled[:, 1:], torch.zeros_like(filled[:, :1])], 1)  # t + 1 happened
    keep = gamma * (1 - terminated)
    out = torch.zeros_like(reward)
    after = torch.zeros_like(reward[:, 0])
    for t in range(T - 1, -1, -1):
        mixed = torch.where(
            goes_on[:, t] > 0, (1 - lam) * following[:, t] + lam * after, following[:, t]
        )
        after = (reward[:, t] + keep[:, t] * mixed) * filled[:, t]
        out[:, t] = after
    return out


def n_step(
    reward: Tensor,
    terminated: Tensor,
    filled: Tensor,
    following: Tensor,
    gamma: float,
    n: int,
) -> Tensor:
    """sum_{k<n} gamma^k r_{t+k} + gamma^n V_{t+n}, cut at each episode's own last step. [B, T].

    Raises:
        ValueError: if n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    goes_on = torch.cat([filled[:, 1:], torch.zeros_like(filled[:, :1])], 1)
    keep = gamma * (1 - terminated)
    out = (reward + keep * following) * filled
    for _ in range(n - 1):  # G^{(m+1)}_t = r_t + gamma G^{(m)}_{t+1}, where t + 1 happened
        shifted = torch.cat([out[:, 1:], torch.zeros_like(out[:, :1])], 1)
        out = (reward + keep * torch.where(goes_on > 0, shifted, following)) * filled
    return out


def discounted_returns(reward: Tensor, gamma: float) -> Tensor:
    """sum_{k>=0} gamma^k r_{t+k}; rewards of padding are 0. [B, T] -> [B, T]."""
    out = torch.zeros_like(reward)
    after = torch.zeros_like(reward[:, 0])
    for t in range(reward.shape[1] - 1, -1, -1):
        after = reward[:, t] + gamma * after
        out[:, t] = after
    return out


def linear(start: float, end: float, over: float, at: float) -> float:
    """A straight line from ``start`` at 0 to ``end`` at ``over``, level from there on."""
    if over <= 0:
        return end
    return start + (end - start) * min(1.0, max(0.0, at / over))


def epsilon_greedy(
    values: Floats, avail: Bools, epsilon: float, generator: np.random.Generator
) -> Ints:
    """Each agent by itself acts at random (uniformly over what is available) with ``epsilon``.

    Args:
        values: [E, N, A].
        avail: [E, N, A].
        epsilon: probability; 0 draws nothing.
        generator: of the random choices.

    Returns:
        [E, N] int64.
    """
    best = np.where(avail, values, NEVER).argmax(-1).astype(np.int64)
    if epsilon <= 0:
        return best
    scores = np.where(avail, generator.random(avail.shape, dtype=np.float32), -1.0)
    explore = generator.random(best.shape) < epsilon
    return np.where(explore, scores.argmax(-1), best).astype(np.int64)


__all__ = [
    "NEVER",
    "discounted_returns",
    "epsilon_greedy",
    "greedy",
    "linear",
    "masked",
    "masked_mean",
    "n_step",
    "one_step",
    "taken",
    "td_lambda",
]
