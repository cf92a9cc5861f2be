"""Agents that act in environments, and their evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.marl.episodes import Act, outcomes, play
from common.marl.protocol import BatchEnv, Bools, Floats, Ints, Seen
from common.marl.recurrent import Acting
from papers.ovmse.method import Choice, independent
from papers.ovmse.networks import Values
from papers.ovmse.task import Purpose, episode_seed

Select = Callable[[Floats, Bools, float, np.random.Generator], Choice]


class Behaviour:
    """Agents that act in E environments and count how many of them explore.

    Attributes:
        explored: of each step so far, who explored. [E, N] bool each.

    Args:
        values: whose agents act, from an empty memory.
        env: where.
        epsilon: of the exploration.
        generator: of the random choices.
        select: how utilities become actions.
    """

    def __init__(
        self,
        values: Values,
        env: BatchEnv,
        epsilon: float,
        generator: np.random.Generator,
        select: Select = independent,
    ) -> None:
        self._acting = Acting(values.agents, env.n_envs, env.n_actions)
        self._epsilon, self._generator, self._select = epsilon, generator, select
        self.explored: list[Bools] = []

    def __call__(self, seen: Seen, t: int) -> Ints:
        """Actions at step ``t``. [E, N]."""
        utilities = self._acting.values(seen)
        choice = self._select(utilities, seen.avail, self._epsilon, self._generator)
        self._acting.acted(choice.actions)
        self.explored.append(choice.explores)
        return choice.actions


def greedy_actor(values: Values, env: BatchEnv) -> Callable[[], Act]:
    """Makes the greedy policy of a round anew."""
    unused = np.random.default_rng(0)
    return lambda: Behaviour(values, env, 0.0, unused)


def evaluated(
    values: Values, env: BatchEnv, episodes: int, purpose: Purpose, seed: int
) -> dict[str, float]:
    """Win rate and return of greedy episodes, the same ones each time."""
    made = play(env, greedy_actor(values, env), episodes, episode_seed(purpose, seed))
    ended = outcomes(made)
    return {"win_rate": float(ended.won.mean()), "return": float(ended.returns.mean())}


__all__ = ["Behaviour", "Select", "evaluated", "greedy_actor"]
