"""Soft actor-critic (Haarnoja et al. 2018), with the networks of all seeds stacked.

Pieces, no trainer: networks, a replay buffer, and the losses as functions that return one value
per seed. ``loss.sum().backward()`` gives every seed its own gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.ema import follow
from common.stacked import MLP, randint

LOG_STD_RANGE = (-20.0, 2.0)


@dataclass(frozen=True)
class Batch:
    """Transitions of all seeds."""

    obs: Tensor  # [S, B, obs]
    action: Tensor  # [S, B, action]
    reward: Tensor  # [S, B]
    next_obs: Tensor  # [S, B, obs]
    terminated: Tensor  # [S, B], 1 where the episode ended by itself; time limits are 0


class ReplayBuffer:
    """The last ``capacity`` transitions of every seed; all seeds step together.

    Only termination is stored: a time limit does not end the return, so it bootstraps, from the
    true last observation.
    """

    def __init__(
        self,
        n_seeds: int,
        capacity: int,
        obs_dim: int,
        action_dim: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.size, self.place = capacity, 0, 0
        lead = (n_seeds, capacity)
        self.data = {
            "obs": torch.empty(*lead, obs_dim, device=device),
            "action": torch.empty(*lead, action_dim, device=device),
            "reward": torch.empty(*lead, device=device),
            "next_obs": torch.empty(*lead, obs_dim, device=device),
            "terminated": torch.empty(*lead, device=device),
        }
        self.rows = torch.arange(n_seeds, device=device).unsqueeze(1)

    def add(self, **transition: Any) -> None:
        """Stores one transition per seed: obs, action, reward, next_obs, terminated. [S, ...]."""
        if transition.keys() != self.data.keys():
            raise ValueError(f"a transition holds {sorted(self.data)}, not {sorted(transition)}")
        for name, value in transition.items():
            store = self.data[name]
            store[:, self.place] = torch.as_tensor(value, dtype=store.dtype, device=store.device)
        self.place = (self.place + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, generators: Sequence[torch.Generator], batch: int) -> Batch:
        """``batch`` transitions per seed, independently and with replacement."""
        index = randint(generators, self.size, batch)
        return Batch(**{name: store[self.rows, index] for name, store in self.data.items()})

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the filled part."""
        filled = {name: store[:, : self.size].clone() for name, store in self.data.items()}
        return {"data": filled, "size": self.size, "place": self.place}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state`` gave."""
        self.size, self.place = int(state["size"]), int(state["place"])
        for name, store in self.data.items():
            store[:, : self.size] = state["data"][name]


class Actor(nn.Module):
    """A tanh-squashed Gaussian policy for every seed; actions lie in (-1, 1)."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.net = MLP(generators, [obs_dim, *hidden, 2 * action_dim], activation)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing. [S, B, obs] -> 2 x [S, B, action]."""
        mean, log_std = self.net(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions tanh(mean + std noise) and their log-probabilities, reparametrised.

        Args:
            obs: [S, B, obs].
            noise: standard normal draws. [S, B, action]
        """
        mean, log_std = self(obs)
        return squash(mean, log_std, noise)

    def mode(self, obs: Tensor) -> Tensor:
        """tanh(mean), the deterministic action. [S, B, action]."""
        return torch.tanh(self(obs)[0])


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(u), u = mean + std noise, and log pi(a) = log N(u) - sum log(1 - tanh(u)^2)."""
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_jacobian = 2 * (math.log(2) - u - F.softplus(-2 * u))  # log(1 - tanh(u)^2), stable
    return torch.tanh(u), (log_normal - log_jacobian).sum(-1)


class TwinCritic(nn.Module):
    """Two independent Q networks for every seed, in one stack."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        twice = [g for g in generators for _ in range(2)]
        self.net = MLP(twice, [obs_dim + action_dim, *hidden, 1], activation)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q_1 and Q_2. [S, B, obs], [S, B, action] -> [S, 2, B]."""
        x = torch.cat((obs, action), -1).repeat_interleave(2, dim=0)
        return self.net(x).view(len(obs), 2, -1)


def critic_target(
    reward: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    next_log_prob: Tensor,
    alpha: Tensor | float,
    gamma: float,
) -> Tensor:
    """y = r + gamma (1 - d) (min_i Q_i(s', a') - alpha log pi(a'|s')), a' ~ pi. [S, B].

    Args:
        next_q: the target critics'. [S, 2, B]
        alpha: temperature, [S, 1] or a number.
    """
    soft_value = next_q.amin(1) - alpha * next_log_prob
    return (reward + gamma * (1 - terminated) * soft_value).detach()


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """1/2 sum_i mean (Q_i - y)^2. [S, 2, B], [S, B] -> [S]."""
    return 0.5 * (q - target.unsqueeze(1)).square().mean(-1).sum(-1)


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor | float) -> Tensor:
    """mean of alpha log pi(a|s) - min_i Q_i(s, a). [S, 2, B], [S, B] -> [S]."""
    return (alpha * log_prob - q.amin(1)).mean(-1)


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log alpha mean(log pi + target entropy): raises alpha where entropy is short. [S]."""
    return -log_alpha * (log_prob.detach() + target_entropy).mean(-1)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through the modules but not to their parameters."""
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def polyak(target: nn.Module, source: nn.Module, tau: float) -> None:
    """theta' <- (1 - tau) theta' + tau theta."""
    follow(target.parameters(), source.parameters(), tau)
