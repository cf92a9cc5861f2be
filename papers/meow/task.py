"""Environments and their settings: multi-goal (batched NumPy) and MuJoCo (gymnasium, v5).

Environments step seed by seed, gradient steps are stacked over seeds. All of them see actions in
[-1, 1]^A, which MuJoCo's are scaled from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import choose
from papers.meow.multigoal import START_STD, MultiGoal, transition

Floats = NDArray[np.floating]
Act = Callable[[NDArray[np.float32]], Floats]  # observations [S, E, obs] -> actions [S, E, A]


@dataclass(frozen=True)
class Settings:
    """What the authors set per environment (their README's commands)."""

    steps: int  # environment steps, and as many gradient steps after the random ones
    tau: float  # step of the slow copy
    alpha: float  # temperature
    learning_starts: int  # steps with uniform actions
    log_sigma: tuple[float, float]  # range of log sigma
    gamma: float = 0.99
    evaluate_every: int = 10_000  # steps; 0: after the training only
    episodes: int = 10  # per evaluation
    multigoal: bool = False  # the point on a plane; else one of MuJoCo's


NARROW, WIDE = (-5.0, -0.3), (-5.0, 2.0)
TASKS: dict[str, Settings] = {
    "multigoal": Settings(
        *(4_000, 0.0005, 2.5, 1_000, (-2.0, 1.0)), gamma=0.9, evaluate_every=0, multigoal=True
    ),
    # ours: longer, at a larger rate, to be compared with exact soft value iteration
    "multigoal-long": Settings(
        *(12_000, 0.01, 2.5, 1_000, (-2.0, 1.0)), gamma=0.9, evaluate_every=0, multigoal=True
    ),
    "HalfCheetah-v5": Settings(1_500_000, 0.003, 0.25, 10_000, WIDE),
    "Hopper-v5": Settings(1_500_000, 0.005, 0.25, 5_000, NARROW),
    "Walker2d-v5": Settings(4_000_000, 0.005, 0.1, 10_000, NARROW),
    "Ant-v5": Settings(4_000_000, 0.0001, 0.05, 5_000, NARROW),
    "Humanoid-v5": Settings(5_000_000, 0.0005, 0.125, 5_000, NARROW),
    # not in the paper: small enough for smoke and tests
    "InvertedPendulum-v5": Settings(10_000, 0.005, 0.25, 100, NARROW, evaluate_every=1_000),
}


class Environments(Protocol):
    """One environment per seed, stepped together; each resets itself when an episode ends."""

    obs_dim: int
    action_dim: int

    def reset(self) -> Floats:
        """First observations. [S, obs]."""

    def step(self, action: Floats) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
        """Action [S, A] -> (s', reward, terminated, obs to go on from).

        s' is the true last observation also when the episode ends. A time limit only resets:
        `terminated` stays False, so that the value bootstraps.
        """

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    def load(self, state: dict[str, Any]) -> Floats:
        """Restores what `state` gave; returns the present observations."""


class Mujoco:
    """gymnasium's MuJoCo environments.

    A checkpoint keeps how the current episode began and its actions, and replays them: that brings
    back the simulator bit for bit, whatever it holds inside.
    """

    def __init__(self, name: str, seeds: Sequence[int]) -> None:
        import gymnasium

        self.envs = [gymnasium.make(name) for _ in seeds]
        space = self.envs[0].action_space
        self.low, self.high = np.asarray(space.low), np.asarray(space.high)
        self.obs_dim = self.envs[0].observation_space.shape[0]
        self.action_dim = space.shape[0]
        self.seeds = list(seeds)
        self.began: list[dict[str, Any]] = [{} for _ in seeds]  # generator's state at the reset
        self.actions: list[list[Floats]] = [[] for _ in seeds]  # since the reset

    def reset(self) -> Floats:
        """First observations, from generators seeded by the seeds. [S, obs]."""
        for env, seed in zip(self.envs, self.seeds, strict=True):
            env.reset(seed=seed)  # seeds the generator
        return np.stack([self._restart(s) for s in range(len(self.envs))])

    def _restart(self, s: int) -> Floats:
        self.began[s] = self.envs[s].unwrapped.np_random.bit_generator.state
        self.actions[s] = []
        return self.envs[s].reset()[0]

    def scaled(self, action: Floats) -> Floats:
        """[-1, 1] -> the bounds of the environment."""
        return self.low + 0.5 * (action + 1) * (self.high - self.low)

    def step(self, action: Floats) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
        """See Environments."""
        reached, rewards, ends, present = [], [], [], []
        for s, (env, a) in enumerate(zip(self.envs, self.scaled(action), strict=True)):
            obs, reward, terminated, truncated, _ = env.step(a)
            self.actions[s].append(a)
            reached.append(obs)
            rewards.append(reward)
            ends.append(terminated)
            present.append(self._restart(s) if terminated or truncated else obs)
        return np.stack(reached), np.array(rewards), np.array(ends), np.stack(present)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        actions = [np.array(a).reshape(-1, self.action_dim) for a in self.actions]
        return {"began": self.began, "actions": actions}

    def load(self, state: dict[str, Any]) -> Floats:
        """Begins the current episodes anew and replays them."""
        present = []
        for s, env in enumerate(self.envs):
            env.reset(seed=self.seeds[s])
            env.unwrapped.np_random.bit_generator.state = state["began"][s]
            obs = self._restart(s)
            for a in state["actions"][s]:
                obs = env.step(a)[0]
                self.actions[s].append(a)
            present.append(obs)
        return np.stack(present)


def make_environments(task: str, seeds: Sequence[int]) -> Environments:
    """The environments of a task, one per seed."""
    choose("task", task, TASKS)
    return MultiGoal(seeds) if TASKS[task].multigoal else Mujoco(task, seeds)


# --------------------------------------------------------------------------- evaluation


class MujocoReturns:
    """Returns of E episodes per seed, all of them in lock-step; built once, used many times."""

    def __init__(self, task: str, n_seeds: int, episodes: int) -> None:
        import gymnasium

        self.shape = (n_seeds, episodes)
        self.envs = [gymnasium.make(task) for _ in range(n_seeds * episodes)]
        space = self.envs[0].action_space
        self.low, self.high = np.asarray(space.low), np.asarray(space.high)

    def __call__(self, act: Act) -> NDArray[np.float64]:
        """[S, E]; episode e starts alike for every seed and at every evaluation."""
        S, E = self.shape
        obs = np.stack([env.reset(seed=900_000 + i % E)[0] for i, env in enumerate(self.envs)])
        returns, alive = np.zeros(S * E), np.ones(S * E, dtype=bool)
        while alive.any():
            action = act(obs.reshape(S, E, -1).astype(np.float32)).reshape(S * E, -1)
            action = self.low + 0.5 * (action + 1) * (self.high - self.low)
            for i in np.flatnonzero(alive):
                obs[i], reward, terminated, truncated, _ = self.envs[i].step(action[i])
                returns[i] += reward
                alive[i] = not (terminated or truncated)
        return returns.reshape(S, E)


@dataclass(frozen=True)
class Paths:
    """Episodes of multi-goal."""

    returns: NDArray[np.float64]  # [S, E]
    goal: NDArray[np.int64]  # [S, E] index of the goal, -1: none within the cap
    positions: NDArray[np.float32]  # [S, E, cap + 1, 2], at rest after the end


def multigoal_paths(act: Act, n_seeds: int, episodes: int = 100, cap: int = 200) -> Paths:
    """Episodes from the start, the same starts for every seed."""
    from papers.meow.multigoal import GOALS

    start = START_STD * np.random.default_rng(900_000).standard_normal((episodes, 2))
    position = np.broadcast_to(start, (n_seeds, episodes, 2)).copy()
    returns, goal = np.zeros((n_seeds, episodes)), np.full((n_seeds, episodes), -1)
    track = [position.astype(np.float32)]
    for _ in range(cap):
        alive = goal < 0
        if alive.any():
            moved, reward, reached = transition(position, act(position.astype(np.float32)))
            position = np.where(alive[..., None], moved, position)
            returns += reward * alive
            nearest = np.linalg.norm(position[..., None, :] - GOALS, axis=-1).argmin(-1)
            goal = np.where(alive & reached, nearest, goal)
        track.append(position.astype(np.float32))
    return Paths(returns, goal, np.stack(track, axis=2))
