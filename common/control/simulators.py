"""Gymnasium's MuJoCo environments, one per seed, stepped together and kept in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def make_simulators(env_id: str, n: int, **options: Any) -> list[Any]:
    """``n`` bare environments, without wrappers and time limit.

    Args:
        env_id: of Gymnasium ("HalfCheetah-v5").
        n: how many.
        options: of ``gymnasium.make``.
    """
    import gymnasium

    return [gymnasium.make(env_id, **options).unwrapped for _ in range(n)]


class Simulators:
    """MuJoCo environments that step together; the time limit is kept here.

    Actions in (-1, 1) are scaled to the environments' units. An episode that ends is reset at once.

    Attributes:
        observation: what the next action is for, after any reset. [S, d]
        infos: what the last step said, environment by environment.

    Args:
        envs: bare environments.
        seeds: of the first resets; later ones go on from there.
        limit: steps of an episode.
    """

    def __init__(self, envs: Sequence[Any], seeds: Sequence[int], limit: int) -> None:
        self.envs, self.limit = list(envs), limit
        self.clock = np.zeros(len(self.envs), dtype=np.int64)
        low, high = self.envs[0].action_space.low, self.envs[0].action_space.high
        self.middle, self.half = (high + low) / 2, (high - low) / 2
        first = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
        self.observation: Floats = np.stack(first).astype(np.float32)
        self.infos: list[dict[str, Any]] = [{} for _ in self.envs]

    def units(self, action: NDArray) -> NDArray:
        """A policy's action in (-1, 1) as the environments want it."""
        return self.middle + self.half * action

    def step(self, action: NDArray) -> tuple[Floats, NDArray[np.float64], NDArray[np.bool_]]:
        """One step of every environment.

        Args:
            action: in (-1, 1). [S, A]

        Returns:
            Next observations before any reset [S, d], rewards [S], and whether the episode
            terminated [S] (a time limit is no termination).
        """
        following = np.empty_like(self.observation)
        current = np.empty_like(self.observation)
        reward = np.zeros(len(self.envs))
        terminated = np.zeros(len(self.envs), dtype=bool)
        self.clock += 1
        moved = self.units(action)
        for i, env in enumerate(self.envs):
            seen, reward[i], terminated[i], _, self.infos[i] = env.step(moved[i])
            following[i] = current[i] = seen
            if terminated[i] or self.clock[i] >= self.limit:
                current[i], self.clock[i] = env.reset()[0], 0
        self.observation = current
        return following, reward, terminated

    def state(self) -> dict[str, Any]:
        """Everything from which the simulators go on bit for bit, solver warm starts included."""
        import mujoco

        kept = []
        for env in self.envs:
            spec = mujoco.mjtState.mjSTATE_INTEGRATION
            physics = np.empty(mujoco.mj_stateSize(env.model, spec))
            mujoco.mj_getState(env.model, env.data, physics, spec)
            kept.append({"physics": physics, "rng": env.np_random.bit_generator.state})
        return {"envs": kept, "clock": self.clock.copy(), "observation": self.observation.copy()}

    def load(self, state: Mapping[str, Any]) -> None:
        """What ``state`` gave."""
        import mujoco

        for env, kept in zip(self.envs, state["envs"], strict=True):
            physics = mujoco.mjtState.mjSTATE_INTEGRATION
            mujoco.mj_setState(env.model, env.data, kept["physics"], physics)
            env.np_random.bit_generator.state = kept["rng"]
        self.clock = np.array(state["clock"])
        self.observation = np.array(state["observation"])
