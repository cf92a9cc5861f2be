"""Acting in battles: the agents' greedy actions, step by step, and episodes as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.marl import episodes
from common.marl.episodes import Act
from common.marl.protocol import BatchEnv, Ints, Seen
from common.marl.recurrent import Acting, agent_inputs
from common.marl.targets import epsilon_greedy
from common.stacked import rand
from papers.dfac.learner import Net
from papers.dfac.method import QuantileNet, midpoints
from papers.dfac.networks import Batch


class Agents:
    """One network that acts, for ``common.marl.recurrent.Acting``.

    Args:
        net: of one seed.
        n_agents: n.
        levels: quantile fractions whose mean the agents maximise: fixed ones [K], or how many are
            drawn anew at every step (as released).
        generator: of those that are drawn.
    """

    def __init__(
        self,
        net: Net,
        n_agents: int,
        levels: Tensor | int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.net, self.n_agents = net, n_agents
        self.levels, self.generators = levels, [] if generator is None else [generator]

    def initial(self, n: int) -> Tensor:
        """Hidden states of ``n`` episodes."""
        return self.net.trunk.initial(n * self.n_agents)

    def step(self, inputs: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """One step. [E, n, in] -> (expected utilities [E, n, A], hidden states)."""
        E, n, _ = inputs.shape
        h = self.net.trunk.step(inputs.reshape(1, E * n, -1), h)
        features = h.view(1, E, 1, n, -1)
        omega = self._omega(features) if isinstance(self.net, QuantileNet) else None
        return self.net.means(features, omega).view(E, n, -1), h

    def _omega(self, features: Tensor) -> Tensor:
        if isinstance(self.levels, Tensor):
            at = self.levels.to(features.device)
            return at.expand(*features.shape[:3], 1, -1)
        assert isinstance(self.net, QuantileNet)
        return self.net.draws(features, self.levels, lambda *shape: rand(self.generators, *shape))


def behaviour(agents: Agents, env: BatchEnv, epsilon: float, rng: np.random.Generator) -> Act:
    """Epsilon-greedy actions, from an empty memory."""
    acting = Acting(agents, env.n_envs, env.n_actions)

    def act(seen: Seen, t: int) -> Ints:
        actions = epsilon_greedy(acting.values(seen), seen.avail, epsilon, rng)
        acting.acted(actions)
        return actions

    return act


def greedy_episodes(
    net: Net, env: BatchEnv, count: int, seed: int, levels: Tensor | int
) -> list[episodes.Episode]:
    """Episodes of the greedy policy; the same ones for the same seed.

    Args:
        levels: as in ``Agents``.
    """
    generator = torch.Generator(next(net.parameters()).device).manual_seed(seed)
    agents, rng = Agents(net, env.n_agents, levels, generator), np.random.default_rng(0)
    return episodes.play(env, lambda: behaviour(agents, env, 0.0, rng), count, seed)


def batch_of(
    chosen: Sequence[episodes.Episode], n_actions: int, reward_scale: float, device: Any
) -> Batch:
    """Episodes as a batch of one seed."""
    batch = episodes.batch_of(chosen, device)
    return Batch(
        inputs=agent_inputs(batch.obs, batch.actions, n_actions)[None],
        state=batch.state[None],
        avail=batch.avail[None],
        actions=batch.actions[None],
        reward=reward_scale * batch.reward[None],
        terminated=batch.terminated[None],
        filled=batch.filled[None],
    )


def returns_of(
    chosen: Sequence[episodes.Episode], gamma: float, reward_scale: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Discounted returns from the first step, in the learner's units. [episodes]."""
    discounted: list[float] = []
    for episode in chosen:
        reward = episode["reward"].astype(np.float64)
        discounted.append(float(reward_scale * (reward * gamma ** np.arange(len(reward))).sum()))
    return np.array(discounted)


@torch.no_grad()
def first_laws(
    net: Net, chosen: Sequence[episodes.Episode], n_actions: int, levels: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Z_jt of the first moment and the greedy joint action, at midpoint levels. [episodes, K]."""
    device = next(net.parameters()).device
    first = {"obs", "state", "avail", "alive", "agent_type"}
    cut = [{k: v if k == "won" else v[: 1 + (k in first)] for k, v in e.items()} for e in chosen]
    batch = batch_of(cut, n_actions, 1.0, device)
    h = net.trunk(batch.inputs)[:, :, :1]
    at = midpoints(levels).to(device).expand(*h.shape[:3], 1, levels)
    # what is played first is what is best there
    now = (batch.actions, batch.state[:, :, :1], batch.avail[:, :, :1])
    law = net.law(h, at, *now)[0]
    found: np.ndarray[Any, np.dtype[np.float64]] = law[0, :, 0].double().cpu().numpy()
    return found
