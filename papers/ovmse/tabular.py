"""The exact case: a chain of five states on which Q-learning unlearns what it was given.

Two agents with three actions each. The joint action (1, 1) moves right, any other moves left (not
below state 0) with reward -0.1; arriving at state 4 ends the episode with reward 1. Offline values
are right at states 0 to 2 and nearly as low as everything unseen at state 3, so that a bootstrap
through state 3 pulls the right values down. Seeds are stacked: all tables are [seeds, ...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papers.ovmse.method import independent, memory_target, memory_weight, sequential

STATES, AGENTS, ACTIONS = 4, 2, 3  # states that are acted in; state 4 is the end
RIGHT = 4  # the joint action (1, 1) as 3 a_1 + a_2
GAMMA, LIMIT, STEP_REWARD = 0.95, 30, -0.1
Table = NDArray[np.float64]


def dynamics() -> tuple[NDArray[np.int64], Table]:
    """Next state (4: the end) and reward of each state and joint action. [4, 9] each."""
    following = np.maximum(np.arange(STATES)[:, None] - 1, 0).repeat(ACTIONS**AGENTS, 1)
    reward = np.full((STATES, ACTIONS**AGENTS), STEP_REWARD)
    following[:, RIGHT] = np.arange(STATES) + 1
    reward[:, RIGHT] = 0.0
    reward[-1, RIGHT] = 1.0
    return following, reward


def optimal() -> Table:
    """Q* by value iteration. [4, 9]."""
    following, reward = dynamics()
    q = np.zeros_like(reward)
    for _ in range(1_000):
        value = np.append(q.max(1), 0.0)
        q = reward + GAMMA * value[following]
    return q


def offline_values() -> Table:
    """Q_off: exact where the data went, -0.9 at (3, (1, 1)), -1 elsewhere. [4, 9]."""
    q = np.full((STATES, ACTIONS**AGENTS), -1.0)
    q[:3, RIGHT] = optimal()[:3, RIGHT]
    q[3, RIGHT] = -0.9
    return q


@dataclass(frozen=True)
class Setting:
    """One way to learn on the chain.

    Attributes:
        memory: lambda_0; 0 is plain Q-learning.
        anneal: episodes over which it falls to 0; 0: never.
        epsilon: of the exploration.
        sequential: epsilon / 2 for each of the two agents, else epsilon.
        noise: standard deviation of what is added to each reward.
        episodes: how many.
        rate: of the updates.
    """

    memory: float = 0.0
    anneal: int = 30
    epsilon: float = 0.2
    sequential: bool = False
    noise: float = 0.0
    episodes: int = 60
    rate: float = 0.5


def learn(setting: Setting, seeds: Sequence[int], q_off: Table | None = None) -> Table:
    """Q(0, (1, 1)) at the start and after each episode. [seeds, episodes + 1].

    Args:
        setting: how.
        seeds: one table for each; each draws from a generator of its own.
        q_off: what is begun with and remembered; default: ``offline_values()``.
    """
    following, reward = dynamics()
    off = offline_values() if q_off is None else q_off
    S = len(seeds)
    q = np.repeat(off[None], S, 0)
    at = np.arange(S)
    found = [q[:, 0, RIGHT].copy()]
    for episode in range(setting.episodes):
        weight = setting.memory
        if setting.anneal:
            weight = memory_weight(episode, setting.anneal, setting.memory)
        state, running = np.zeros(S, np.int64), np.ones(S, bool)
        streams = Streams(seeds, episode)
        for _ in range(LIMIT):
            live = np.minimum(state, STATES - 1)
            action = joint_actions(q[at, live], setting, streams)
            after = following[live, action]
            value = np.concatenate([q.max(-1), np.zeros((S, 1))], 1)[at, after]
            y = reward[live, action] + GAMMA * value
            if setting.noise:
                y = y + setting.noise * streams.standard_normal()
            y = memory_target(y, off[live, action], weight)
            moved = q[at, live, action] + setting.rate * (y - q[at, live, action])
            q[at, live, action] = np.where(running, moved, q[at, live, action])
            state = np.where(running, after, state)
            running = running & (state < STATES)
            if not running.any():
                break
        found.append(q[:, 0, RIGHT].copy())
    return np.stack(found, 1)


class Streams(np.random.Generator):
    """A generator for each seed of one episode; what is drawn has the seeds as its first axis."""

    def __init__(self, seeds: Sequence[int], episode: int) -> None:
        super().__init__(np.random.PCG64(0))  # never drawn from
        self._each = [np.random.default_rng((seed, episode)) for seed in seeds]

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Uniform numbers. [seeds, ...]."""
        return np.stack([generator.random(size[1:], dtype) for generator in self._each])

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Normal numbers. [seeds]."""
        return np.array([generator.standard_normal() for generator in self._each])


def joint_actions(q: Table, setting: Setting, streams: Streams) -> NDArray[np.int64]:
    """What the two agents do, of joint values: each its part of the best. [seeds, 9]."""
    best = np.stack(np.unravel_index(q.argmax(-1), (ACTIONS,) * AGENTS), -1)  # [seeds, 2]
    values = np.eye(ACTIONS, dtype=np.float32)[best]
    choose = sequential if setting.sequential else independent
    chosen = choose(values, np.ones(values.shape, bool), setting.epsilon, streams).actions
    return chosen[:, 0] * ACTIONS + chosen[:, 1]


def summary(setting: Setting, seeds: Sequence[int]) -> dict[str, Any]:
    """Of each seed: the lowest value of the good action over Q*, the last, and the mean value."""
    best = float(optimal()[0, RIGHT])
    curves = learn(setting, seeds)
    return {
        "worst": curves.min(1) / best,
        "last": curves[:, -1] / best,
        "mean": curves[:, 1:].mean(1),
        "curve": curves,
    }


__all__ = [
    "GAMMA",
    "RIGHT",
    "Setting",
    "dynamics",
    "joint_actions",
    "learn",
    "offline_values",
    "optimal",
    "summary",
]
