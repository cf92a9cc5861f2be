"""The interface of a batch of cooperative environments (Dec-POMDPs with one team reward).

E environments of N agents are stepped together. All arrays are NumPy, floats are float32. Nothing
is reset behind the caller's back: ``step`` gives what the last action led to, also where an episode
ended, and an environment whose episode has ended stays as it is, with reward 0, until it is reset::

    seen = env.reset(seed)
    while not over.all():
        step = env.step(act(seen))
        seen, over = step.seen, over | step.terminated | step.truncated

A terminated episode has come to its end (the value of what follows is 0); a truncated one was cut
by the time limit (the value of what follows is bootstrapped).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """What is seen at one moment.

    Attributes:
        obs: observation of each agent. [E, N, O] float32.
        state: what a centralised critic or mixer may see, and no agent. [E, S] float32.
        avail: which discrete actions are available; one at least, the dead have just one.
            [E, N, A] bool; [E, N, 0] where actions are continuous.
        alive: whether the agent still acts. [E, N] bool.
        agent_type: the kind of unit (0 where all are alike or the agent is dead). [E, N] int64.
    """

    obs: Floats
    state: Floats
    avail: Bools
    alive: Bools
    agent_type: Ints


@dataclass(frozen=True)
class Step:
    """What one step gave, an entry per environment. [E] each.

    Attributes:
        seen: after the step; where the episode ended, its last observation.
        reward: of the team, float32.
        terminated: the episode is over and nothing of value follows.
        truncated: the episode was cut by the time limit (and not terminated).
        won: the episode ended in success (False throughout where the task knows none).
    """

    seen: Seen
    reward: Floats
    terminated: Bools
    truncated: Bools
    won: Bools


class BatchEnv(Protocol):
    """E environments that are stepped together.

    Attributes:
        name: of the task, as on the command line.
        n_envs: E.
        n_agents: N.
        obs_dim: O.
        state_dim: S.
        n_actions: A discrete actions; 0 where actions are continuous.
        action_dim: d numbers in [-1, 1] per agent; 0 where actions are discrete.
        episode_limit: most steps of an episode.
        n_types: kinds of units (1 where all are alike).
    """

    name: str
    n_envs: int
    n_agents: int
    obs_dim: int
    state_dim: int
    n_actions: int
    action_dim: int
    episode_limit: int
    n_types: int

    def reset(self, seed: int) -> Seen:
        """Begin an episode in every environment; the same seed, the same episodes to come."""

    def step(self, actions: NDArray[Any]) -> Step:
        """Act. Discrete actions [E, N] integers, continuous ones [E, N, d] in [-1, 1].

        Raises:
            ValueError: for an action that is not available to an agent of a running episode.
        """

    def reset_where(self, mask: Bools) -> Seen:
        """Begin anew where ``mask`` [E] is set, from the generators that ``reset`` seeded."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future depends on, as arrays, numbers and generator states."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave."""


def uniform_actions(seen: Seen, generator: np.random.Generator) -> Ints:
    """Actions drawn uniformly from those that are available. [E, N]."""
    scores = generator.random(seen.avail.shape, dtype=np.float32)
    return np.where(seen.avail, scores, -1.0).argmax(-1).astype(np.int64)


__all__ = ["BatchEnv", "Bools", "Floats", "Ints", "Seen", "Step", "uniform_actions"]
