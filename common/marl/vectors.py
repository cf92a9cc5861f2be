"""E single environments, stepped one after the other, as a batch of them.

For simulators that know one episode at a time. Every episode has a seed of its own, drawn from the
generator of its environment, and depends on that seed and on its actions alone: not on how many
environments stand beside it. That is also how a running episode is kept: by its seed and the
actions so far, which are taken again when it is loaded. It is exact for any simulator that repeats
itself, whatever hidden state it has, and costs the steps of the episodes that were running.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.marl.protocol import Bools, Floats, Ints, Seen, Step

SLACK = 1e-5  # by which rounding may carry a continuous action beyond [-1, 1]


@dataclass(frozen=True)
class View:
    """What is seen of one environment: :class:`common.marl.protocol.Seen` without the axis E."""

    obs: Floats  # [N, O]
    state: Floats  # [S]
    avail: Bools  # [N, A]
    alive: Bools  # [N]
    agent_type: Ints  # [N]


@dataclass(frozen=True)
class Outcome:
    """What one step of one environment gave: :class:`common.marl.protocol.Step` without E."""

    view: View
    reward: float
    terminated: bool
    truncated: bool
    won: bool = False


class Single(Protocol):
    """One environment; the attributes are those of :class:`common.marl.protocol.BatchEnv`."""

    n_agents: int
    obs_dim: int
    state_dim: int
    n_actions: int
    action_dim: int
    episode_limit: int
    n_types: int

    def reset(self, seed: int) -> View:
        """Begin an episode; the same seed and actions, the same episode."""

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Act: discrete actions [N], continuous ones [N, d]. Not called once an episode is over."""


S = TypeVar("S", bound=Single)


class Vectors(Generic[S]):
    """E environments of one kind in one process.

    Once an episode is over, ``terminated``, ``truncated`` and ``won`` stay as they are until the
    environment is reset.

    Args:
        name: of the task.
        n_envs: E.
        make: one environment; called E times.

    Raises:
        UserError: if ``n_envs`` is below 1.
    """

    def __init__(self, name: str, n_envs: int, make: Callable[[], S]) -> None:
        if n_envs < 1:
            raise UserError(f"{n_envs} environments: there must be one at least")
        self.singles = [make() for _ in range(n_envs)]
        first = self.singles[0]
        self.name, self.n_envs, self.n_agents = name, n_envs, first.n_agents
        self.obs_dim, self.state_dim = first.obs_dim, first.state_dim
        self.n_actions, self.action_dim = first.n_actions, first.action_dim
        self.episode_limit, self.n_types = first.episode_limit, first.n_types
        self._generators: list[np.random.Generator] = []
        self._views: list[View] = []
        self._seeds = np.zeros(n_envs, np.int64)
        self._taken: list[list[NDArray[Any]]] = [[] for _ in range(n_envs)]
        self._terminated = np.zeros(n_envs, bool)
        self._truncated = np.zeros(n_envs, bool)
        self._won = np.zeros(n_envs, bool)

    # -- the protocol ---------------------------------------------------------------------------

    def reset(self, seed: int) -> Seen:
        """Begin an episode in every environment; the same seed, the same episodes to come."""
        streams = [np.random.SeedSequence(seed, spawn_key=(e,)) for e in range(self.n_envs)]
        self._generators = [np.random.default_rng(stream) for stream in streams]
        for e in range(self.n_envs):
            self._begin(e, self._next_seed(e))
        return self._seen()

    def reset_where(self, mask: Bools) -> Seen:
        """Begin anew where ``mask`` [E] is set."""
        where = np.asarray(mask, bool)
        if where.shape != (self.n_envs,):
            raise ValueError(f"the mask is {where.shape}, not ({self.n_envs},)")
        self._check_begun()
        for e in np.flatnonzero(where).tolist():
            self._begin(e, self._next_seed(e))
        return self._seen()

    def step(self, actions: NDArray[Any]) -> Step:
        """Act, integers [E, N] or numbers in [-1, 1], [E, N, d].

        Raises:
            ValueError: for an action that is not available to an agent of a running episode.
        """
        self._check_begun()
        running = ~(self._terminated | self._truncated)
        checked = self._checked(np.asarray(actions), running)
        reward = np.zeros(self.n_envs, np.float32)
        for e in np.flatnonzero(running).tolist():
            outcome = self._advance(e, checked[e])
            reward[e] = outcome.reward
        return Step(
            self._seen(),
            reward,
            self._terminated.copy(),
            self._truncated.copy(),
            self._won.copy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Generators, and the seed and the actions so far of each episode."""
        self._check_begun()
        lengths = np.array([len(taken) for taken in self._taken])
        shape, dtype = self._action_form()
        actions = np.zeros((self.n_envs, int(lengths.max()), *shape), dtype)
        for e, taken in enumerate(self._taken):
            if taken:
                actions[e, : len(taken)] = np.stack(taken)
        return {
            "generators": [g.bit_generator.state for g in self._generators],
            "seeds": self._seeds.copy(),
            "lengths": lengths,
            "actions": actions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave: running episodes are played again up to there.

        Raises:
            ValueError: if it is that of another task, or of another number of environments.
        """
        self._load_generators(state)
        shape, _ = self._action_form()
        if state["actions"].shape[2:] != shape:
            raise ValueError(f"actions {state['actions'].shape} are none of {self.name}")
        for e in range(self.n_envs):
            self._begin(e, int(state["seeds"][e]))
            for actions in state["actions"][e, : int(state["lengths"][e])]:
                self._advance(e, actions)

    # -- one environment ------------------------------------------------------------------------

    def _next_seed(self, e: int) -> int:
        return int(self._generators[e].integers(2**31 - 1))

    def _begin(self, e: int, seed: int) -> None:
        view = self.singles[e].reset(seed)
        self._views[e : e + 1] = [view]
        self._seeds[e] = seed
        self._taken[e] = []
        self._terminated[e] = self._truncated[e] = self._won[e] = False

    def _advance(self, e: int, actions: NDArray[Any]) -> Outcome:
        outcome = self.singles[e].step(actions)
        self._taken[e].append(np.array(actions))
        self._views[e] = outcome.view
        self._terminated[e] = outcome.terminated
        late = len(self._taken[e]) >= self.episode_limit
        self._truncated[e] = not outcome.terminated and (outcome.truncated or late)
        self._won[e] = outcome.won
        return outcome

    # -- checks and forms -----------------------------------------------------------------------

    def _action_form(self) -> tuple[tuple[int, ...], type[np.generic]]:
        """Shape and type of the actions of one environment."""
        if self.action_dim:
            return (self.n_agents, self.action_dim), np.float32
        return (self.n_agents,), np.int64

    def _load_generators(self, state: dict[str, Any]) -> None:
        if len(state["generators"]) != self.n_envs:
            raise ValueError(
                f"{len(state['generators'])} environments were kept, here are {self.n_envs}"
            )
        self._generators = [np.random.default_rng(0) for _ in range(self.n_envs)]
        for generator, kept in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = kept

    def _check_begun(self) -> None:
        if not self._generators:
            raise ValueError("no episode has begun: call reset first")

    def _seen(self) -> Seen:
        """Copies of what each environment shows, [E, ...]."""
        views = self._views
        return Seen(
            obs=np.stack([v.obs for v in views]),
            state=np.stack([v.state for v in views]),
            avail=np.stack([v.avail for v in views]),
            alive=np.stack([v.alive for v in views]),
            agent_type=np.stack([v.agent_type for v in views]),
        )

    def _checked(self, actions: NDArray[Any], running: Bools) -> NDArray[Any]:
        shape, dtype = self._action_form()
        shape = (self.n_envs, *shape)
        kinds = "f" if self.action_dim else "iu"
        if actions.shape != shape or actions.dtype.kind not in kinds:
            expected = f"{shape} {'floats' if self.action_dim else 'integers'}"
            raise ValueError(f"the actions are {actions.shape} {actions.dtype}, not {expected}")
        if self.action_dim:
            inside = (np.abs(actions) <= 1 + SLACK).all(-1)  # False for NaN, too
            wrong = running[:, None] & ~inside
        else:
            inside = (actions >= 0) & (actions < self.n_actions)
            avail = np.stack([v.avail for v in self._views])
            chosen = np.where(inside, actions, 0)[..., None]
            wrong = running[:, None] & ~(inside & np.take_along_axis(avail, chosen, 2)[..., 0])
        if wrong.any():
            e, n = np.argwhere(wrong)[0]
            raise ValueError(
                f"action {actions[e, n]} is not available to agent {n} of environment {e}"
            )
        if self.action_dim:
            return np.clip(actions, -1, 1).astype(dtype)
        return actions.astype(dtype)


__all__ = ["Outcome", "Single", "Vectors", "View"]
