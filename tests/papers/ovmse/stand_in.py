"""A battle's stand-in: two agents on a corridor, in NumPy, so that nothing is compiled in tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.marl.protocol import Bools, Ints, Seen, Step


class Corridor:
    """Both agents have to take action 1 to go right; five steps right win.

    Action 2 is not available at the left end. Begins at 0 or 1. Reward .2 a step right, -.05 else.
    """

    name = "corridor"
    n_agents, obs_dim, state_dim, n_actions, action_dim = 2, 6, 6, 3, 0
    episode_limit, n_types = 12, 1

    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs

    def reset(self, seed: int) -> Seen:
        self._rng = np.random.default_rng(seed)
        return self.reset_where(np.ones(self.n_envs, bool))

    def reset_where(self, mask: Bools) -> Seen:
        if not hasattr(self, "at"):
            self.at = np.zeros(self.n_envs, np.int64)
            self.t = np.zeros(self.n_envs, np.int64)
        fresh = self._rng.integers(2, size=self.n_envs)
        self.at = np.where(mask, fresh, self.at)
        self.t = np.where(mask, 0, self.t)
        return self._seen()

    def step(self, actions: Ints) -> Step:
        running = (self.at < 5) & (self.t < self.episode_limit)
        avail = self._seen().avail
        assert np.take_along_axis(avail, actions[..., None], -1)[..., 0][running].all()
        right = (actions == 1).all(-1)
        moved = np.where(right, self.at + 1, np.maximum(self.at - 1, 0))
        reward = np.where(right, 0.2, -0.05) * running
        self.at = np.where(running, moved, self.at)
        self.t = self.t + running
        won = self.at >= 5
        truncated = ~won & (self.t >= self.episode_limit)
        return Step(self._seen(), reward.astype(np.float32), won, truncated, won)

    def _seen(self) -> Seen:
        E, N = self.n_envs, self.n_agents
        state = np.eye(6, dtype=np.float32)[self.at]
        avail = np.ones((E, N, 3), bool)
        avail[self.at == 0, :, 2] = False
        obs = np.repeat(state[:, None], N, 1)
        return Seen(obs, state, avail, np.ones((E, N), bool), np.zeros((E, N), np.int64))

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "t": self.t, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.t = state["at"], state["t"]
        self._rng.bit_generator.state = state["rng"]


def make_env(name: str, n_envs: int) -> Corridor:
    """In the place of ``common.marl.environments.make_env``."""
    return Corridor(n_envs)


SMALL: dict[str, Any] = {
    **{"batch": 4, "hidden": 8, "embed": 4, "hypernet": 8, "envs": 4, "episodes": 4},
}
DATA = {**SMALL, "steps": 120, "evaluate_every": 60, "low": 0.0, "high": 1.0, "size": 12}
OFFLINE = {**SMALL, "updates": 12, "evaluate_every": 6, "check_every": 2, "samples": 5}
ONLINE = {**SMALL, "steps": 160, "evaluations": 8, "dip_episodes": 8, "probe": 4}


def flags(values: dict[str, Any]) -> list[str]:
    """As words of a command line."""
    return [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]


__all__ = ["DATA", "OFFLINE", "ONLINE", "SMALL", "Corridor", "flags", "make_env"]
