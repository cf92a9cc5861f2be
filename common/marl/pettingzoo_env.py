"""PettingZoo's parallel environments in batches.

``PettingZoo("mpe2.simple_spread_v3", 8)`` takes any module that has a ``parallel_env``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.marl.protocol import Bools, Floats
from common.marl.vectors import Outcome, Vectors, View

REWARDS = ("sum", "mean")  # of the agents' rewards: the team's


class ParallelSingle:
    """One environment of PettingZoo's parallel API as a :class:`common.marl.vectors.Single`.

    Observations of different sizes are padded with zeros, actions of different numbers by what is
    not available; a continuous action of d numbers in [-1, 1] is scaled to the bounds of its space
    (its first numbers, for an agent that has fewer). Action masks are read from observations
    ``{"observation", "action_mask"}`` or from ``info["action_mask"]``. An agent that has left the
    environment is not alive, and has action 0 alone. The state is the environment's own, or else
    all observations side by side. An episode is terminated when every agent has terminated,
    truncated when it is over without that; it is won where ``info["won"]`` says so.

    Args:
        env: the environment.
        reward: the team's: "sum" or "mean" of the agents' rewards.
        limit: most steps of an episode; None for the environment's own (``max_cycles``).

    Raises:
        UserError: if agents have actions that are neither all ``Discrete`` nor all bounded
            vectors, or nobody knows the limit.
    """

    n_types = 1

    def __init__(self, env: Any, *, reward: str = "sum", limit: int | None = None) -> None:
        self.env = env
        self._scale = 1.0 if choose("reward", reward, REWARDS) == "sum" else 1.0 / _count(env)
        self.agents: list[Any] = list(env.possible_agents)
        self.n_agents = len(self.agents)
        self.episode_limit = _limit(env, limit)
        self._actions_of(env)
        self._spaces = {a: _observed(env.observation_space(a)) for a in self.agents}
        from gymnasium.spaces import flatdim

        self.obs_dim = max(flatdim(space) for space in self._spaces.values())
        self._alive = np.ones(self.n_agents, bool)
        self._ended: set[Any] = set()
        self.state_dim = len(self.reset(0).state)

    def _actions_of(self, env: Any) -> None:
        """Read the action spaces."""
        from gymnasium.spaces import Box, Discrete

        spaces = [env.action_space(a) for a in self.agents]
        self._low = self._high = np.zeros((0, 0))
        self._counts = self._starts = np.zeros(self.n_agents, np.int64)
        self.n_actions = self.action_dim = 0
        if all(isinstance(space, Discrete) for space in spaces):
            self._counts = np.array([space.n for space in spaces])
            self._starts = np.array([space.start for space in spaces])
            self.n_actions = int(self._counts.max())
        elif all(isinstance(s, Box) and len(s.shape) == 1 and s.is_bounded() for s in spaces):
            self._counts = np.array([space.shape[0] for space in spaces])
            self.action_dim = int(self._counts.max())
            self._low = np.stack([self._padded(space.low) for space in spaces])
            self._high = np.stack([self._padded(space.high) for space in spaces])
        else:
            raise UserError(
                f"{env}: actions have to be Discrete or bounded vectors, the same for all agents; "
                f"they are {', '.join(sorted({str(space) for space in spaces}))}"
            )

    def _padded(self, numbers: NDArray[Any]) -> NDArray[np.float64]:
        return np.pad(numbers.astype(np.float64), (0, self.action_dim - len(numbers)))

    def reset(self, seed: int) -> View:
        """Begin an episode."""
        observations, infos = self.env.reset(seed=seed)
        self._alive = self._present()
        self._ended = set()
        return self._view(observations, infos)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Act: integers [N] or numbers [N, d]."""
        chosen = self._chosen(actions)
        observations, rewards, terminations, truncations, infos = self.env.step(
            {a: chosen[i] for i, a in enumerate(self.agents) if self._alive[i]}
        )
        ended = {a for a, flag in terminations.items() if flag}
        self._ended |= ended
        cut = {a for a, flag in truncations.items() if flag}
        over = all(a in ended or a in cut for a in self.env.agents)
        if over:  # all have left: those whom time has cut would have gone on
            self._alive &= np.array([a not in ended for a in self.agents])
        else:
            self._alive = self._present()
        terminated = over and len(self._ended) == self.n_agents
        return Outcome(
            view=self._view(observations, infos),
            reward=self._scale * float(sum(rewards.values())),
            terminated=terminated,
            truncated=over and not terminated,
            won=over and any(info.get("won", False) for info in infos.values()),
        )

    def _present(self) -> Bools:
        return np.array([a in self.env.agents for a in self.agents])

    def _chosen(self, actions: NDArray[Any]) -> list[Any]:
        """What the environment understands, of every agent."""
        if not self.action_dim:
            return [int(action) for action in actions + self._starts]
        share = (actions.astype(np.float64) + 1.0) / 2.0  # -1 to 1 comes back to the last bit
        scaled = (self._low + share * (self._high - self._low)).astype(np.float32)
        return [scaled[i, : self._counts[i]] for i in range(self.n_agents)]

    def _view(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> View:
        from gymnasium.spaces import Box, flatten

        obs = np.zeros((self.n_agents, self.obs_dim), np.float32)
        avail = np.zeros((self.n_agents, self.n_actions), bool)
        for i, agent in enumerate(self.agents):
            seen: Any = observations.get(agent)
            mask = infos.get(agent, {}).get("action_mask")
            if isinstance(seen, Mapping) and "action_mask" in seen:
                seen, mask = seen["observation"], seen["action_mask"]
            if seen is not None:
                space = self._spaces[agent]
                flat = np.ravel(seen) if isinstance(space, Box) else flatten(space, seen)
                obs[i, : len(flat)] = flat
            if self.n_actions:
                avail[i] = self._available(i, mask)
        return View(
            obs=obs,
            state=self._state(obs),
            avail=avail,
            alive=self._alive.copy(),
            agent_type=np.zeros(self.n_agents, np.int64),
        )

    def _available(self, i: int, mask: Any) -> Bools:
        """What agent ``i`` may do: of its own actions, those of the mask; 0 if there is none."""
        available = np.zeros(self.n_actions, bool)
        if self._alive[i]:
            count = self._counts[i]
            available[:count] = True if mask is None else np.asarray(mask, bool)[:count]
        available[0] |= not available.any()
        return available

    def _state(self, obs: Floats) -> Floats:
        try:
            state = self.env.state()
        except (RuntimeError, AttributeError):
            return obs.ravel()
        return np.array(state, np.float32).ravel()


def _count(env: Any) -> int:
    return len(env.possible_agents)


def _limit(env: Any, limit: int | None) -> int:
    """Most steps of an episode."""
    inner = env.unwrapped
    own = [getattr(e, "max_cycles", None) for e in (inner, getattr(inner, "env", None))]
    known = [int(number) for number in (limit, *own) if number is not None]
    if not known or min(known) < 1:
        raise UserError(f"{env} does not say how long an episode is; give limit=STEPS, 1 or more")
    return min(known)


def _observed(space: Any) -> Any:
    """The space of what is seen, without that of an action mask."""
    from gymnasium.spaces import Dict

    if isinstance(space, Dict) and "action_mask" in space.spaces:
        return space["observation"]
    return space


class PettingZoo(Vectors[ParallelSingle]):
    """A task of PettingZoo, or of anybody who has its parallel API.

    Args:
        module: what is imported: "mpe2.simple_spread_v3", "pettingzoo.butterfly.pistonball_v6", ...
        n_envs: E.
        reward: the team's: "sum" or "mean" of the agents' rewards.
        limit: most steps of an episode; needed if the environment has no ``max_cycles``.
        options: what ``parallel_env`` takes ("continuous_actions", "N", "max_cycles", ...).

    Raises:
        UserError: if there is no such module, or its environment doesn't fit (see
            :class:`ParallelSingle`).
    """

    def __init__(
        self,
        module: str,
        n_envs: int,
        *,
        reward: str = "sum",
        limit: int | None = None,
        **options: Any,
    ) -> None:
        parallel_env = _parallel_env(module)
        super().__init__(
            f"pettingzoo:{module}",
            n_envs,
            lambda: ParallelSingle(parallel_env(**options), reward=reward, limit=limit),
        )


def _parallel_env(name: str) -> Any:
    """``parallel_env`` of a module."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    above, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name or not above:
            raise UserError(
                f"'{name}' needs the package '{error.name}', which is missing: install it with pip"
            ) from error
        siblings = pkgutil.iter_modules(importlib.import_module(above).__path__)
        choose(f"module of {above}", last, [m.name for m in siblings])
        raise
    if not hasattr(module, "parallel_env"):
        raise UserError(f"the module '{name}' has no parallel_env")
    return module.parallel_env


__all__ = ["REWARDS", "ParallelSingle", "PettingZoo"]
