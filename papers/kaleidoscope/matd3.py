"""The host of the continuous tasks: MATD3's networks, its n-step replay, its losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.marl.protocol import Floats, Seen
from common.stacked import StackedLayerNorm
from papers.kaleidoscope.agents import apply
from papers.kaleidoscope.baselines import PlainLinear
from papers.kaleidoscope.method import CRITIC, MaskedLinear, ensemble_target
from papers.kaleidoscope.methods import Learner


class Actors(nn.Module):
    """Deterministic policies of N agents, three layers, shared as the method does.

    Args:
        method: how the layers are shared, and whether agents see their number.
        n_agents: N.
        obs_dim, action_dim: of an agent.
        hidden: width.
        generator: of all that is drawn.
    """

    def __init__(
        self,
        method: Learner,
        n_agents: int,
        obs_dim: int,
        action_dim: int,
        hidden: int,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_agents, self.ids = n_agents, method.ids
        own = [generator] * (n_agents if method.sharing == "none" else 1)
        sizes = [obs_dim + n_agents * self.ids, hidden, hidden, action_dim]
        self.layers = nn.ModuleList(
            MaskedLinear(sizes[i], sizes[i + 1], n_agents, generator=generator)
            if method.sharing == "masks"
            else PlainLinear(own, sizes[i], sizes[i + 1])
            for i in range(3)
        )

    @property
    def masked(self) -> list[MaskedLinear]:
        """The layers with learnable masks."""
        return [layer for layer in self.layers if isinstance(layer, MaskedLinear)]

    def forward(self, obs: Tensor) -> Tensor:
        """Actions in [-1, 1]. [B, N, obs] -> [B, N, action]."""
        B, N, _ = obs.shape
        if self.ids:
            numbers = torch.eye(N, device=obs.device).expand(B, N, N)
            obs = torch.cat([obs, numbers], -1)
        weights = [layer.effective() for layer in self.layers]  # type: ignore[operator]
        return torch.tanh(apply(weights, obs.transpose(0, 1), None)).transpose(0, 1)


class Critics(nn.Module):
    """M critics of state and joint action: masks of one network, or networks of their own.

    Args:
        masks: M masks of one network (Kaleidoscope); else M networks (MATD3's two).
        n_critics: M.
        state_dim: S.
        joint_dim: width of all actions together.
        hidden: width of the two hidden layers, each under a layer norm.
        generator: of all that is drawn.
    """

    def __init__(
        self,
        masks: bool,
        n_critics: int,
        state_dim: int,
        joint_dim: int,
        hidden: int,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_critics = n_critics
        sizes = [state_dim + joint_dim, hidden, hidden, 1]
        self.layers = nn.ModuleList(
            MaskedLinear(sizes[i], sizes[i + 1], n_critics, start=CRITIC, generator=generator)
            if masks
            else PlainLinear([generator] * n_critics, sizes[i], sizes[i + 1])
            for i in range(3)
        )
        self.norms = nn.ModuleList(
            StackedLayerNorm(1 if masks else n_critics, hidden) for _ in range(2)
        )

    @property
    def masked(self) -> list[MaskedLinear]:
        """The layers with learnable masks."""
        return [layer for layer in self.layers if isinstance(layer, MaskedLinear)]

    def forward(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q_j. [B, S], [B, N, action] -> [M, B]."""
        x = torch.cat([state, actions.flatten(1)], -1).expand(self.n_critics, -1, -1)
        for i, layer in enumerate(self.layers):
            weight, bias = layer.effective()  # type: ignore[operator]
            x = torch.baddbmm(bias, x, weight)
            if i < 2:
                x = F.relu(self.norms[i](x))
        return x.squeeze(-1)


def slow_copy(net: nn.Module) -> nn.Module:
    """A target network: a copy of everything, thresholds included."""
    return copy.deepcopy(net).requires_grad_(False)


@dataclass(frozen=True)
class Transitions:
    """B transitions over up to n steps each.

    Attributes:
        obs, next_obs: [B, N, O].
        state, next_state: [B, S].
        actions: [B, N, action].
        reward: sum of gamma^k r_{t+k} over the steps taken. [B].
        discount: gamma to the number of steps taken; 0 where the episode terminated. [B].
    """

    obs: Tensor
    next_obs: Tensor
    state: Tensor
    next_state: Tensor
    actions: Tensor
    reward: Tensor
    discount: Tensor


class Replay:
    """The latest steps of E environments, with n-step returns made when they are drawn.

    Args:
        length: steps of each environment.
        n_envs: E.
        shapes: of obs, state and actions of one environment, by these names.
    """

    def __init__(self, length: int, n_envs: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.length, self.n_envs = length, n_envs
        self.size = self.place = 0
        lead = (length, n_envs)
        self.data: dict[str, np.ndarray] = {
            **{name: np.zeros((*lead, *shape), np.float32) for name, shape in shapes.items()},
            **{f"next_{n}": np.zeros((*lead, *shapes[n]), np.float32) for n in ("obs", "state")},
            **{name: np.zeros(lead, np.float32) for name in ("reward", "terminated", "ended")},
        }

    def add(self, seen: Seen, actions: Floats, step: Any) -> None:
        """A step of every environment: what was seen, done, and came of it (``protocol.Step``)."""
        values = {
            **{"obs": seen.obs, "state": seen.state, "actions": actions},
            **{"next_obs": step.seen.obs, "next_state": step.seen.state},
            **{"reward": step.reward, "terminated": step.terminated},
            "ended": step.terminated | step.truncated,
        }
        for name, value in values.items():
            self.data[name][self.place] = value
        self.place = (self.place + 1) % self.length
        self.size = min(self.size + 1, self.length)

    def sample(
        self, batch: int, n: int, gamma: float, rng: np.random.Generator, device: Any = "cpu"
    ) -> Transitions:
        """Transitions of at most n steps; the end of an episode and the latest step cut them."""
        age = rng.integers(0, self.size, batch)  # steps before the latest
        e = rng.integers(0, self.n_envs, batch)
        t = (self.place - 1 - age) % self.length
        reward, discount = np.zeros(batch, np.float32), np.ones(batch, np.float32)
        last, going = t.copy(), np.ones(batch, bool)
        for k in range(n):
            now = (t + k) % self.length
            reward = np.where(going, reward + discount * self.data["reward"][now, e], reward)
            last = np.where(going, now, last)
            discount = np.where(going, discount * np.float32(gamma), discount)
            going &= (self.data["ended"][now, e] == 0) & (k < age)
        discount = discount * (1 - self.data["terminated"][last, e])

        def tensor(name: str, at: Any) -> Tensor:
            return torch.from_numpy(self.data[name][at, e]).to(device)

        return Transitions(
            **{name: tensor(name, t) for name in ("obs", "state", "actions")},
            **{name: tensor(name, last) for name in ("next_obs", "next_state")},
            reward=torch.from_numpy(reward.astype(np.float32)).to(device),
            discount=torch.from_numpy(discount.astype(np.float32)).to(device),
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the filled part."""
        filled = {name: array[: self.size] for name, array in self.data.items()}
        return {"data": filled, "size": self.size, "place": self.place}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` gave."""
        self.size, self.place = int(state["size"]), int(state["place"])
        for name, array in self.data.items():
            array[: self.size] = state["data"][name]


@torch.no_grad()
def critic_target(
    actors: nn.Module, critics: nn.Module, batch: Transitions, noise: Tensor, limit: float
) -> Tensor:
    """y = r^(n) + gamma^n (1 - term) min_j Q_j(s', a'), with a' smoothed by clipped noise. [B].

    Args:
        actors, critics: the slow copies.
        batch: of transitions.
        noise: normal, with the smoothing's deviation. [B, N, action].
        limit: it is clipped there.
    """
    following = (actors(batch.next_obs) + noise.clamp(-limit, limit)).clamp(-1, 1)
    value = ensemble_target(critics(batch.next_state, following))
    return batch.reward + batch.discount * value


def critic_loss(q: Tensor, y: Tensor) -> Tensor:
    """sum_j mean (Q_j - y)^2. [M, B], [B] -> []."""
    return (q - y).square().mean(-1).sum()


def with_own(actions: Tensor, own: Tensor, agent: int) -> Tensor:
    """The joint action of the replay with one agent's replaced by its policy's. [B, N, action]."""
    parts = list(actions.unbind(1))
    parts[agent] = own
    return torch.stack(parts, 1)
