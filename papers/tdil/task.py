"""The tasks at all scales, behind one interface: grid maze, continuous maze, MuJoCo, Adroit.

A task knows its demonstration, steps one environment per seed for training, and rolls policies
out for tests. Rewards of the environment go into reports only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import choose
from papers.tdil import mazes
from papers.tdil.demonstration import Demonstration, load
from papers.tdil.method import TDILConfig

Policy = Callable[[NDArray[np.float32]], NDArray]  # obs [S, E, d] -> actions [S, E, ...]


@dataclass(frozen=True)
class Setting:
    """What is run on a task; steps and evaluations are ours below `paper`."""

    steps: int  # environment steps per seed, the warm-up included
    eval_every: int  # steps between two evaluations
    tdil: TDILConfig = field(default_factory=TDILConfig)
    env: str = ""  # Gymnasium id
    options: dict[str, Any] = field(default_factory=dict)  # of the environment
    limit: int = 1_000  # steps of an episode
    episodes: int = 10  # test episodes of an evaluation (authors' code)
    save_every: int = 1  # a checkpoint after multiples of so many steps: it holds the buffer


_SMALL = {"tau": 0.005, "tau_n": 0.005, "batch": 128, "hidden": 128}  # a run of minutes (ours)
_UPRIGHT = {"terminate_when_unhealthy": False}  # the authors' flag for Hopper and Walker2d
_GRID = TDILConfig(
    gamma=0.8, tau=0.005, tau_n=0.005, kappa=0.1, hard_negatives=False, rho=0.5
)  # authors' code


def _mujoco(env: str, **more: Any) -> Setting:
    """A MuJoCo task of the authors: a checkpoint holds up to a million transitions a seed."""
    return Setting(3_000_000, 5_000, env=env, save_every=50_000, **more)


SETTINGS: dict[str, Setting] = {
    "grid": Setting(6_000, 250, replace(_GRID, **_SMALL)),
    "continuous": Setting(
        # kappa of the authors' maze: at .99 negatives weigh too little for 8 000 updates
        *(10_000, 400, TDILConfig(gamma=0.95, kappa=0.1, rho=0.5, **_SMALL))
    ),
    "hopper-200": Setting(
        *(12_000, 500, TDILConfig(expert_states=50, **_SMALL)),
        **{"env": "Hopper-v5", "options": _UPRIGHT, "limit": 200, "episodes": 5},
    ),
    # long: a step between, on one machine
    "hopper-long": Setting(
        *(300_000, 10_000, TDILConfig(expert_states=50, **_SMALL)),
        **{"env": "Hopper-v5", "options": _UPRIGHT, "save_every": 10_000},
    ),
    "halfcheetah-long": Setting(
        *(300_000, 10_000, TDILConfig(expert_states=50, **_SMALL)),
        **{"env": "HalfCheetah-v5", "save_every": 10_000},
    ),
    # paper: the authors' configuration (their 5 episodes between evaluations)
    "grid-paper": Setting(15_000, 250, _GRID),
    "hopper": _mujoco("Hopper-v5", options=_UPRIGHT),
    "walker2d": _mujoco("Walker2d-v5", options=_UPRIGHT),
    "ant": _mujoco("Ant-v5"),
    "halfcheetah": _mujoco("HalfCheetah-v5"),
    "humanoid": _mujoco("Humanoid-v5"),
    "adroit-door": Setting(
        *(1_000_000, 1_000, TDILConfig(hard_negatives=False, rho=0.005)),
        **{"env": "AdroitHandDoor-v1", "limit": 200, "save_every": 50_000},
    ),
}


@dataclass(frozen=True)
class Rollout:
    """Test episodes of all seeds; what comes after an episode's end is masked by `alive`."""

    obs: NDArray[np.float32]  # [S, E, L, d]
    next_obs: NDArray[np.float32]  # [S, E, L, d]
    reward: NDArray  # [S, E, L], the environment's
    alive: NDArray[np.bool_]  # [S, E, L]: the episode was running when this step was made

    def first(self, episodes: int) -> Rollout:
        """The first few episodes of every seed."""
        return Rollout(
            *(x[:, :episodes] for x in (self.obs, self.next_obs, self.reward, self.alive))
        )


class Environment(Protocol):
    """One environment per seed, stepped together; an episode that ends is reset at once."""

    @property
    def observation(self) -> NDArray[np.float32]:
        """Current states. [S, d]."""

    def step(self, action: NDArray) -> tuple[NDArray[np.float32], NDArray]:
        """Next states, before any reset, and the environment's rewards. [S, d], [S]."""

    def state(self) -> dict[str, object]:
        """For a checkpoint."""

    def load(self, state: dict[str, object]) -> None:
        """What `state` gave."""


class Task(Protocol):
    """See the module's docstring. Actions of `demonstration` are those that a policy gives."""

    name: str
    obs_dim: int
    action_dim: int  # for discrete actions their number
    discrete: bool
    score: str  # of `scores`, what blind selection should find
    demonstration: Demonstration

    def training(self, seeds: Sequence[int]) -> Environment:
        """Environments for training, one per seed."""

    def rollout(self, policy: Policy, n_seeds: int, episodes: int) -> Rollout:
        """Test episodes of S deterministic policies, the same for every seed and method."""

    def scores(self, rollout: Rollout) -> dict[str, NDArray]:
        """What a rollout came to, [S] each, by the environment's own measure."""


def generators(seeds: Sequence[int]) -> list[np.random.Generator]:
    """NumPy generators of the training environments."""
    return [np.random.default_rng((7, seed)) for seed in seeds]


class _MazeTask(ABC):
    """Both mazes: two coordinates, deterministic, tested from a fixed set of starts."""

    obs_dim, score = 2, "success"

    def _rollout(self, policy: Policy, n_seeds: int, starts: NDArray, advance: Callable) -> Rollout:
        at = np.broadcast_to(starts, (n_seeds, *starts.shape)).copy()  # [S, E, ...]
        track = [at]
        for _ in range(mazes.LIMIT):
            at = advance(at, policy(self.observe(at)))
            track.append(at)
        states = np.stack([self.observe(x) for x in track], axis=2)  # [S, E, L + 1, 2]
        here = states[:, :, :-1]
        alive = np.ones(here.shape[:-1], dtype=bool)
        return Rollout(here, states[:, :, 1:], np.zeros(alive.shape), alive)

    @abstractmethod
    def observe(self, at: NDArray) -> NDArray[np.float32]:
        """What networks see of cells or positions."""


class GridTask(_MazeTask):
    """The authors' 10 x 10 maze; tested from all 100 cells, in a fixed random order."""

    name, action_dim, discrete = "grid", 4, True

    def __init__(self) -> None:
        self.demonstration = mazes.grid_demonstration()
        self.starts = np.random.default_rng(0).permutation(mazes.SIDE**2)

    def observe(self, at: NDArray) -> NDArray[np.float32]:
        """States of cell numbers."""
        return mazes.scaled(mazes.CELLS[at])

    def cells(self, states: NDArray[np.float32]) -> NDArray[np.int64]:
        """Cell numbers of states."""
        rows = np.rint(states * 10 + 5).astype(np.int64)
        return rows[..., 0] * mazes.SIDE + rows[..., 1]

    def training(self, seeds: Sequence[int]) -> Environment:
        return mazes.GridMaze(generators(seeds))

    def rollout(self, policy: Policy, n_seeds: int, episodes: int) -> Rollout:
        """From all cells; the goal ends an episode."""

        def advance(at: NDArray, action: NDArray) -> NDArray:
            return np.where(at == mazes.GOAL_CELL, at, mazes.SUCCESSORS[at, action])

        found = self._rollout(policy, n_seeds, self.starts, advance)
        alive = self.cells(found.obs) != mazes.GOAL_CELL
        arrived = alive & (self.cells(found.next_obs) == mazes.GOAL_CELL)
        return Rollout(found.obs, found.next_obs, arrived.astype(float), alive)

    def scores(self, rollout: Rollout) -> dict[str, NDArray]:
        """Shares of the starts; see `mazes.follow_scores`."""
        track = np.concatenate((rollout.obs[:, :, :1], rollout.next_obs), axis=2)
        each = [mazes.follow_scores(self.cells(x)) for x in track]
        return {name: np.array([_mean(s[name]) for s in each]) for name in each[0]}


class ContinuousTask(_MazeTask):
    """The continuous maze of ours; tested from the centres of its 100 cells."""

    name, action_dim, discrete = "continuous", 2, False
    near = 0.5  # an episode succeeds that comes so close to the path's last point

    def __init__(self) -> None:
        self.demonstration = mazes.continuous_demonstration()
        order = np.random.default_rng(0).permutation(mazes.SIDE**2)
        self.starts = mazes.CELLS[order] + 0.5

    def observe(self, at: NDArray) -> NDArray[np.float32]:
        """States of positions."""
        return mazes.scaled(at)

    def training(self, seeds: Sequence[int]) -> Environment:
        return mazes.ContinuousMaze(generators(seeds))

    def rollout(self, policy: Policy, n_seeds: int, episodes: int) -> Rollout:
        """From all starts, 50 steps each."""

        def advance(at: NDArray, action: NDArray) -> NDArray:
            moved = mazes.move(at.reshape(-1, 2), action.reshape(-1, 2).astype(np.float64))
            return moved.reshape(at.shape)

        return self._rollout(policy, n_seeds, self.starts, advance)

    def scores(self, rollout: Rollout) -> dict[str, NDArray]:
        """Shares of the starts that come near the path's last point, or near any point of it."""
        track = np.concatenate((rollout.obs[:, :, :1], rollout.next_obs), axis=2) * 10  # [S,E,L,2]
        path = self.demonstration.next_observations * 10
        to_end = np.linalg.norm(track - path[-1], axis=-1)
        to_path = np.stack([np.linalg.norm(track - p, axis=-1) for p in path]).min(axis=0)
        return {
            "success": (to_end < self.near).any(axis=2).mean(axis=1),
            "reach": (to_path < self.near).any(axis=2).mean(axis=1),
        }


class _Simulators:
    """One Gymnasium MuJoCo environment per seed, with the time limit kept here."""

    def __init__(self, envs: Sequence[Any], seeds: Sequence[int], limit: int, units: Any) -> None:
        self.envs, self.limit, self.units = envs, limit, units
        self.clock = np.zeros(len(envs), dtype=np.int64)
        first = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)]
        self.observation = np.stack(first).astype(np.float32)

    def step(self, action: NDArray) -> tuple[NDArray[np.float32], NDArray]:
        following = np.empty_like(self.observation)
        rewards = np.zeros(len(self.envs))
        current = following.copy()
        self.clock += 1
        for i, env in enumerate(self.envs):
            obs, rewards[i], terminated, _, _ = env.step(self.units(action[i]))
            following[i] = current[i] = obs
            if terminated or self.clock[i] >= self.limit:
                current[i], self.clock[i] = env.reset()[0], 0
        self.observation = current
        return following, rewards

    def state(self) -> dict[str, object]:
        """Everything from which the simulators go on bit for bit, solver warm starts included."""
        import mujoco

        kept = []
        for env in self.envs:
            spec = mujoco.mjtState.mjSTATE_INTEGRATION
            physics = np.empty(mujoco.mj_stateSize(env.model, spec))
            mujoco.mj_getState(env.model, env.data, physics, spec)
            # resets draw from the generator, and Adroit's move a body of the model
            rng, bodies = env.np_random.bit_generator.state, env.model.body_pos.copy()
            kept.append({"physics": physics, "bodies": bodies, "rng": rng})
        return {"envs": kept, "clock": self.clock.copy(), "observation": self.observation}

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        import mujoco

        for env, kept in zip(self.envs, state["envs"], strict=True):
            env.model.body_pos[:] = kept["bodies"]
            mujoco.mj_setState(
                env.model, env.data, kept["physics"], mujoco.mjtState.mjSTATE_INTEGRATION
            )
            env.np_random.bit_generator.state = kept["rng"]
        self.clock, self.observation = state["clock"].copy(), state["observation"]


class SimulatorTask:
    """A MuJoCo or Adroit task with its expert's demonstration, cut to the task's time limit."""

    discrete, score = False, "return"

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self.setting = name, setting
        obtain = None
        if setting.env.startswith("Adroit"):
            obtain = (
                "store one episode of a DAPG or D4RL demonstration as arrays observations, "
                "actions, next_observations, rewards with papers.tdil.demonstration.save"
            )
        demonstration = load(setting.env, obtain).first(setting.limit)
        self.tests: list[Any] = []
        env = self.make()
        low, high = env.action_space.low, env.action_space.high
        self.middle, self.half = (high + low) / 2, (high - low) / 2
        actions = (demonstration.actions - self.middle) / self.half
        self.demonstration = replace(demonstration, actions=actions.astype(np.float32))
        self.obs_dim, self.action_dim = env.observation_space.shape[0], len(low)

    def make(self) -> Any:
        """One bare environment."""
        import gymnasium

        if self.setting.env.startswith("Adroit"):
            import gymnasium_robotics

            gymnasium.register_envs(gymnasium_robotics)
        return gymnasium.make(self.setting.env, **self.setting.options).unwrapped

    def units(self, action: NDArray) -> NDArray:
        """A policy's action in (-1, 1) as the environment wants it."""
        return self.middle + self.half * action

    def training(self, seeds: Sequence[int]) -> Environment:
        envs = [self.make() for _ in seeds]
        return _Simulators(envs, [1_000 + s for s in seeds], self.setting.limit, self.units)

    def rollout(self, policy: Policy, n_seeds: int, episodes: int) -> Rollout:
        """`episodes` resets that are the same at every call."""
        S, E = n_seeds, episodes
        while len(self.tests) < S * E:
            self.tests.append(self.make())
        obs = np.stack([self.tests[i].reset(seed=50_000 + i % E)[0] for i in range(S * E)])
        running = np.ones(S * E, dtype=bool)
        steps = []
        for _ in range(self.setting.limit):
            obs = obs.astype(np.float32)
            action = policy(obs.reshape(S, E, -1)).reshape(S * E, -1)
            following, reward, alive = obs.copy(), np.zeros(S * E), running.copy()
            for i in np.flatnonzero(running):
                following[i], reward[i], terminated, _, _ = self.tests[i].step(
                    self.units(action[i])
                )
                running[i] = not terminated
            steps.append((obs, following, reward, alive))
            obs = following
        stacked = (np.stack(x, axis=1) for x in zip(*steps, strict=True))
        return Rollout(*(x.reshape(S, E, *x.shape[1:]) for x in stacked))

    def scores(self, rollout: Rollout) -> dict[str, NDArray]:
        """Mean return, and its ratio to the demonstration's over as many steps."""
        value = (rollout.reward * rollout.alive).sum(axis=2).mean(axis=1)
        return {"return": value, "relative_return": value / self.demonstration.rewards.sum()}


def _mean(x: NDArray) -> float:
    """Mean of what is finite; NaN if nothing is."""
    return float(np.nanmean(x)) if np.isfinite(x).any() else float("nan")


def make_task(name: str) -> Task:
    """The task `name`; simulators are imported here and nowhere earlier.

    Raises:
        UserError: for an unknown task, or where its demonstration is missing.
    """
    choose("task", name, SETTINGS)
    if name.startswith("grid"):
        return GridTask()
    if name == "continuous":
        return ContinuousTask()
    return SimulatorTask(name, SETTINGS[name])
