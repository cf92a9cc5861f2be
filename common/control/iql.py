"""Implicit Q-learning (Kostrikov et al. 2022), with the networks of all seeds stacked.

Pieces, no trainer, beside those of :mod:`common.sac` (``TwinCritic``, ``critic_loss``, ``polyak``,
``Batch``). Losses return one value per seed; ``loss.sum().backward()`` gives every seed its own
gradients. One update: V on the target critic, then the policy and Q, then ``polyak``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from common.control.trajectories import Trajectories
from common.control.windows import Standardizer
from common.sac import Batch
from common.stacked import MLP, randint

LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True)
class Transitions:
    """All transitions of a data set on a device; every seed draws from them."""

    obs: Tensor  # [N, o]
    action: Tensor  # [N, a]
    reward: Tensor  # [N]
    next_obs: Tensor  # [N, o]
    terminated: Tensor  # [N], 1 where the episode ended by itself; time limits are 0

    def sample(self, generators: Sequence[torch.Generator], batch: int) -> Batch:
        """``batch`` transitions per seed, with replacement; generators on the data's device."""
        index = randint(generators, len(self.reward), batch)  # [S, B]
        return Batch(
            self.obs[index],
            self.action[index],
            self.reward[index],
            self.next_obs[index],
            self.terminated[index],
        )


def transitions(
    trajectories: Trajectories,
    *,
    reward_scale: float = 1.0,
    standardizer: Standardizer | None = None,
    device: torch.device | str = "cpu",
) -> Transitions:
    """Put trajectories on a device; at a time limit the true last observation comes next."""
    seen, following = trajectories.observations, trajectories.next_observations
    if standardizer is not None:
        seen, following = standardizer(seen), standardizer(following)
    rewards = (trajectories.rewards * reward_scale).astype(np.float32)
    ended = trajectories.terminated.astype(np.float32)
    arrays = (seen, trajectories.actions, rewards, following, ended)
    return Transitions(*(torch.from_numpy(x).to(device) for x in arrays))


def locomotion_scale(returns: NDArray[np.float64]) -> float:
    """1000 / (best - worst return), by which the paper scales rewards of locomotion.

    Raises:
        ValueError: if all returns are the same.
    """
    spread = float(returns.max() - returns.min())
    if not spread > 0:
        raise ValueError("all episodes have the same return; there is nothing to scale by")
    return 1000.0 / spread


class Value(nn.Module):
    """V(s) of every seed. [S, B, o] -> [S, B]."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.net = MLP(generators, [obs_dim, *hidden, 1], F.relu)

    def forward(self, obs: Tensor) -> Tensor:
        """See the class."""
        return self.net(obs).squeeze(-1)


class GaussianPolicy(nn.Module):
    """N(tanh(mean(s)), std^2) with a std per action that does not depend on the state."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.net = MLP(generators, [obs_dim, *hidden, action_dim], F.relu)
        self.log_std = nn.Parameter(torch.zeros(len(generators), 1, action_dim))

    def forward(self, obs: Tensor) -> Tensor:
        """The mean, which is the action in evaluation. [S, B, o] -> [S, B, a]."""
        return torch.tanh(self.net(obs))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """log pi(a | s), without a Jacobian: the mean is squashed, not the sample. [S, B]."""
        log_std = self.log_std.clamp(*LOG_STD_RANGE)
        standard = (action - self(obs)) * torch.exp(-log_std)
        return (-0.5 * standard.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """L_2^tau(u) = |tau - 1(u < 0)| u^2, element by element (Eq. 5)."""
    return (tau - (error < 0).to(error.dtype)).abs() * error.square()


def value_loss(v: Tensor, target_q: Tensor, tau: float) -> Tensor:
    """Mean of L_2^tau(min_i Q_i(s, a) - V(s)) (Eq. 5). [S].

    Args:
        v: [S, B].
        target_q: the target critics'. [S, 2, B]
    """
    return expectile_loss(target_q.amin(1).detach() - v, tau).mean(-1)


def critic_target(reward: Tensor, terminated: Tensor, next_v: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - d) V(s') (Eq. 6), for ``common.sac.critic_loss``. [S, B]."""
    return (reward + gamma * (1 - terminated) * next_v).detach()


def advantage_weights(
    target_q: Tensor, v: Tensor, temperature: float, largest: float = 100.0
) -> Tensor:
    """min(exp(temperature (min_i Q_i(s, a) - V(s))), largest). [S, 2, B], [S, B] -> [S, B]."""
    exponent = temperature * (target_q.amin(1) - v)
    return exponent.clamp(max=math.log(largest)).exp().detach()


def policy_loss(log_prob: Tensor, weights: Tensor) -> Tensor:
    """-mean of w log pi(a | s): advantage-weighted regression (Eq. 7). [S, B] each -> [S]."""
    return -(weights * log_prob).mean(-1)
