"""The control tasks: HalfCheetah whose direction flips, and MuJoCo as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.control.simulators import Floats, Simulators, make_simulators
from common.errors import choose

Policy = Callable[[Floats], Floats]  # observations [S, E, d] -> actions in (-1, 1) [S, E, A]
TEST_SEED = 50_000  # of the first test episode; the same for every seed and method


@dataclass(frozen=True)
class Setting:
    """What is run on a task. The defaults are the authors' (their code), for MuJoCo."""

    env: str  # Gymnasium id
    steps: int = 3_000_000  # environment steps of a seed, the warm-up included
    warm_up: int = 25_000  # steps of uniformly random actions before the first update
    phases: int = 1  # the direction flips between them; 1: none, the environment's own reward
    limit: int = 1_000  # steps of an episode
    eval_every: int = 5_000  # steps after the warm-up between two evaluations
    episodes: int = 10  # of an evaluation, in each direction
    batch: int = 256  # transitions of an update and seed
    hidden: int = 256  # units of the two hidden layers
    lr: float = 3e-4  # Adam's learning rate
    interval: int = 10_000  # gradient steps between changes of the topology
    redo_every: int = 10_000  # gradient steps between ReDo's recyclings
    capacity: int = 1_000_000  # transitions that a seed's buffer holds
    save_every: int = 50_000  # a checkpoint holds the buffer: after multiples of so many steps


_SHORT: dict[str, Any] = {"warm_up": 5_000, "episodes": 2, "lr": 1e-3}
_SHORT |= {"interval": 200, "redo_every": 1_000, "save_every": 1}

SETTINGS: dict[str, Setting] = {
    "cycle": Setting(
        *("HalfCheetah-v5", 45_000),
        **{"phases": 4, "eval_every": 2_500, "batch": 128, "hidden": 128, **_SHORT},
    ),
    "cycle-long": Setting(
        "HalfCheetah-v5", steps=101_000, phases=8, eval_every=3_000, batch=256, **_SHORT
    ),
    "cycle-paper": Setting("HalfCheetah-v5", steps=1_025_000, phases=10),
    "halfcheetah": Setting("HalfCheetah-v5"),
    "ant": Setting("Ant-v5"),
    "walker2d": Setting("Walker2d-v5"),
    "humanoid": Setting("Humanoid-v5"),
}


def direction_of(step: int, setting: Setting) -> float:
    """+1 or -1, the direction that is paid at an environment step; +1 in the warm-up."""
    trained = setting.steps - setting.warm_up
    phase = max(0, step - setting.warm_up) * setting.phases // trained
    return -1.0 if phase % 2 else 1.0


class Control:
    """Environments of all seeds. Where the direction flips, observations end with it.

    Args:
        simulators: one per seed.
        flips: the reward is d v_x - .1 |a|^2 for the direction d, instead of the environment's.
    """

    def __init__(self, simulators: Simulators, flips: bool) -> None:
        self.simulators, self.flips, self.direction = simulators, flips, 1.0

    def observe(self, states: Floats) -> Floats:
        """What the networks see. [S, d] -> [S, d (+ 1)]."""
        if not self.flips:
            return states
        return np.append(states, np.full((len(states), 1), self.direction, np.float32), axis=1)

    @property
    def observation(self) -> Floats:
        """Before the next action. [S, d (+ 1)]."""
        return self.observe(self.simulators.observation)

    def step(self, action: NDArray) -> tuple[Floats, NDArray, NDArray[np.bool_]]:
        """Next observations before any reset, rewards, terminations. [S, d (+ 1)], [S], [S]."""
        following, reward, terminated = self.simulators.step(action)
        if self.flips:
            reward = np.array([self._paid(info) for info in self.simulators.infos])
        return self.observe(following), reward, terminated

    def _paid(self, info: Mapping[str, Any]) -> float:
        return self.direction * info["x_velocity"] + info["reward_ctrl"]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"simulators": self.simulators.state(), "direction": self.direction}

    def load(self, state: Mapping[str, Any]) -> None:
        """What ``state`` gave."""
        self.simulators.load(state["simulators"])
        self.direction = float(state["direction"])


class Task:
    """A control task: environments for training, and test episodes.

    Raises:
        UserError: for an unknown name.
    """

    def __init__(self, name: str) -> None:
        choose("task", name, SETTINGS)
        self.name, self.setting = name, SETTINGS[name]
        self.flips = self.setting.phases > 1
        self.tests: list[Any] = make_simulators(self.setting.env, 1)
        self.obs_dim = self.tests[0].observation_space.shape[0] + self.flips
        self.action_dim = self.tests[0].action_space.shape[0]

    def training(self, seeds: Sequence[int], limit: int) -> Control:
        """Environments for training, one per seed."""
        envs = make_simulators(self.setting.env, len(seeds))
        return Control(Simulators(envs, [1_000 + s for s in seeds], limit), self.flips)

    def returns(self, policy: Policy, n_seeds: int, episodes: int, limit: int) -> NDArray:
        """Mean undiscounted return of test episodes, for each direction +1, -1. [D, S].

        Args:
            policy: of all seeds.
            n_seeds: S.
            episodes: of each seed; their starts are the same at every call.
            limit: steps of an episode.
        """
        n = n_seeds * episodes
        self.tests += make_simulators(self.setting.env, n - len(self.tests))
        found = []
        for direction in (1.0, -1.0) if self.flips else (1.0,):
            starts = [TEST_SEED + i % episodes for i in range(n)]
            control = Control(Simulators(self.tests[:n], starts, limit + 1), self.flips)
            control.direction = direction
            total, running = np.zeros(n), np.ones(n, dtype=bool)
            for _ in range(limit):
                seen = control.observation.reshape(n_seeds, episodes, -1)
                action = policy(seen).reshape(n, -1)
                _, reward, terminated = control.step(action)
                total += reward * running
                running &= ~terminated
                if not running.any():
                    break
            found.append(total.reshape(n_seeds, episodes).mean(1))
        return np.array(found)
