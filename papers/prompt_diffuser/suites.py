"""Families of tasks that differ in a hidden goal: what experts and others do, fresh episodes.

A goal is a number: a direction in degrees, a place's number, a velocity, a task's number. It is in
no observation: only prompts, rewards and returns tell it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from common.control.decision_rollout import Environments, GymnasiumBatch, SimulatedBatch
from common.control.episodes import Episode
from common.control.locomotion_data import LocomotionData, locomotion_episodes
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import GOAL, GoalData, goal_episodes, hidden, without_goal
from common.control.random_search import SearchConfig
from common.errors import UserError
from common.files import find_data

Quality = Literal["expert", "medium", "random"]
Role = Literal["train", "few", "full", "reference"]  # episodes of two roles have no noise in common
Floats = NDArray[np.float32]
ROLES: dict[Role, int] = {"train": 0, "few": 1, "full": 2, "reference": 3}
QUALITIES: dict[Quality, int] = {"expert": 0, "medium": 1, "random": 2}
REFERENCE_EPISODES = 20  # of random actions


class Suite(Protocol):
    """Tasks with one space of observations and one of actions, in [-1, 1]."""

    @property
    def state_dim(self) -> int:
        """Numbers of an observation."""

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""

    @property
    def limit(self) -> int:
        """Steps of an episode."""

    @property
    def alike(self) -> bool:
        """Whether all episodes of ``batch`` begin alike, so that equal prompts act equally."""

    def episodes(
        self, goals: Sequence[float], quality: Quality, role: Role, count: int, draw: int = 0
    ) -> list[list[Episode]]:
        """``count`` episodes of each goal, by goal; another ``draw`` has other noise."""

    def batch(self, goal: float, n: int) -> Environments:
        """n fresh episodes, the same ones for every policy."""

    def references(self, goal: float) -> tuple[float, float]:
        """Returns of uniform random actions and of the expert: scores 0 and 1."""

    def distances(self, goal: float, others: Sequence[float]) -> list[float]:
        """How little alike the tasks of other goals are."""


def returns_of(episodes: Sequence[Episode]) -> float:
    """Mean return."""
    return float(np.mean([e.rewards.sum(dtype=np.float64) for e in episodes]))


# -- a point that should move in a hidden direction -----------------------------------------------


def unit(degrees: float) -> NDArray[np.float64]:
    """(cos, sin)."""
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


class PointBatch:
    """Points as ``Environments``: state (x, y, vx, vy), the reward is the velocity along a goal.

    a <- a / max(1, |a|), v <- .8 v + .2 a, p <- p + .1 v, r = v . (cos, sin) with the new v.
    """

    def __init__(self, goal: float, starts: NDArray[np.float64]) -> None:
        self._direction = unit(goal)
        self._state = np.concatenate([starts, np.zeros_like(starts)], 1)  # at rest
        self.success = np.zeros(len(starts), bool)
        self.observations = self._state.astype(np.float32)

    def step(self, actions: Floats, active: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
        """See ``Environments``; they never end by themselves and have no success."""
        wanted = np.asarray(actions, np.float64)
        wanted = wanted / np.maximum(1.0, np.linalg.norm(wanted, axis=1, keepdims=True))
        place, velocity = self._state[:, :2], self._state[:, 2:]
        velocity = 0.8 * velocity + 0.2 * wanted
        moved = np.concatenate([place + 0.1 * velocity, velocity], 1)
        self._state = np.where(active[:, None], moved, self._state)
        self.observations = self._state.astype(np.float32)
        rewards = np.where(active, velocity @ self._direction, 0.0).astype(np.float32)
        return rewards, np.zeros(len(active), bool)


@dataclass(frozen=True)
class Point:
    """A point in the plane; the expert pushes in the hidden direction with noise N(0, sigma^2)."""

    state_dim: int = 4
    action_dim: int = 2
    limit: int = 40
    spread: float = 0.1  # of the first place
    sigma: float = 0.1  # of the expert's actions
    medium: float = 0.3  # of the medium one's
    alike: bool = False

    def episodes(
        self, goals: Sequence[float], quality: Quality, role: Role, count: int, draw: int = 0
    ) -> list[list[Episode]]:
        """See :class:`Suite`."""
        return [self._of(goal, quality, [ROLES[role], draw], count) for goal in goals]

    def _of(self, goal: float, quality: Quality, of: list[int], count: int) -> list[Episode]:
        key = [round(1000 * goal), QUALITIES[quality], *of]
        normal, uniform = (np.random.default_rng([*key, use]) for use in (0, 1))
        drawn = normal.standard_normal((count, self.limit + 1, 2))  # by episode: more add to them
        batch = PointBatch(goal, self.spread * drawn[:, 0])
        sigma = self.sigma if quality == "expert" else self.medium
        actions = unit(goal) + sigma * drawn[:, 1:]
        if quality == "random":
            actions = uniform.uniform(-1.0, 1.0, actions.shape)
        actions = actions.clip(-1.0, 1.0).astype(np.float32)
        seen, rewards = [batch.observations], []
        for action in actions.swapaxes(0, 1):
            rewards.append(batch.step(action, np.ones(count, bool))[0])
            seen.append(batch.observations)
        return episodes_of(np.stack(seen, 1), actions, np.stack(rewards, 1))

    def batch(self, goal: float, n: int) -> PointBatch:
        """See :class:`Suite`."""
        rng = np.random.default_rng([round(1000 * goal), 9])
        return PointBatch(goal, self.spread * rng.standard_normal((n, 2)))

    def references(self, goal: float) -> tuple[float, float]:
        """0 in expectation, and 40 - 4 (1 - .8^40) = 36.0005 without noise."""
        return 0.0, self.limit - 4.0 * (1.0 - 0.8**self.limit)

    def distances(self, goal: float, others: Sequence[float]) -> list[float]:
        """1 - cos of the angle between directions."""
        return [1.0 - float(unit(goal) @ unit(other)) for other in others]


def episodes_of(observations: Floats, actions: Floats, rewards: Floats) -> list[Episode]:
    """Episodes of one length from arrays [E, T + 1 (or T), s], [E, T, a], [E, T]."""
    steps = actions.shape[1]
    if observations.shape[1] == steps:  # what followed the last action was not kept
        observations = np.concatenate([observations, observations[:, -1:]], 1)
    ends = np.arange(steps) == steps - 1
    zeros = np.zeros(steps, bool)
    parts = (np.asarray(x, np.float32) for x in (observations, actions, rewards))
    return [Episode(o, a, r, zeros, ends) for o, a, r in zip(*parts, strict=True)]


# -- Meta-World's reach with the goal hidden ------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """A hand that should go to a hidden place; goals are numbered, 0 to 39 are for training."""

    limit: int = 100
    task: str = "reach-v3"
    state_dim: int = 39
    action_dim: int = 4
    alike: bool = True  # as in ML1

    def episodes(
        self, goals: Sequence[float], quality: Quality, role: Role, count: int, draw: int = 0
    ) -> list[list[Episode]]:
        """See :class:`Suite`; the goals are an unbroken row of numbers."""
        first, n = int(goals[0]), len(goals)
        if [int(g) for g in goals] != list(range(first, first + n)):
            raise ValueError(f"{goals} is no unbroken row of goals")
        sigmas = {"expert": (0.05, 0.1, 0.2), "medium": (0.5,), "random": (0.0,)}[quality]
        if role == "reference" and quality == "expert":
            sigmas = (0.0,)
        config = GoalData(
            *(self.task, count * n, self.limit, first, n, sigmas, float(quality == "random")),
            stream=ROLES[role] + len(ROLES) * draw,
        )
        found, _ = goal_episodes(config, _simulator(self.task))
        return [[without_goal(e) for e in found[i::n]] for i in range(n)]

    def batch(self, goal: float, n: int) -> SimulatedBatch:
        """See :class:`Suite`; a goal's episodes begin alike, so only prompts tell them apart."""
        simulator = _simulator(self.task)
        return SimulatedBatch([simulator.goal(int(goal)) for _ in range(n)], hidden)

    def references(self, goal: float) -> tuple[float, float]:
        """Measured: random actions, and the scripted expert without noise."""
        [low] = self.episodes((goal,), "random", "reference", REFERENCE_EPISODES // 4)
        [high] = self.episodes((goal,), "expert", "reference", 1)
        return returns_of(low), returns_of(high)

    def distances(self, goal: float, others: Sequence[float]) -> list[float]:
        """Metres between goals."""
        own, *rest = (_place(self.task, int(g)) for g in (goal, *others))
        return [float(np.linalg.norm(own - place)) for place in rest]


@functools.lru_cache(maxsize=1)
def _simulator(task: str) -> TaskSimulator:
    return TaskSimulator(task)


@functools.cache  # a reset takes 20 ms
def _place(task: str, goal: int) -> Floats:
    return _simulator(task).goal(goal).obs[GOAL].copy()


# -- a cheetah that should run at a hidden velocity -----------------------------------------------


class Paid:
    """A MuJoCo walker whose reward depends on a hidden goal: a velocity or a direction.

    Args:
        kind: "velocity" (-|v - goal| - .05 |a|^2), "sign" (goal v - .05 |a|^2, goal 1 or -1) of
            HalfCheetah; "angle" of Ant (v . (cos, sin) - .5 |a|^2 - contact + 1, goal in degrees).
        goal: see there.
        torso: whether the torso's place is observed (Prompt-DT's 20 numbers), which tells progress.
    """

    def __init__(self, kind: str, goal: float, torso: bool = False) -> None:
        import gymnasium

        if kind == "angle":
            made = gymnasium.make(
                "Ant-v5", include_cfrc_ext_in_observation=False, terminate_when_unhealthy=False
            )
        else:
            made = gymnasium.make("HalfCheetah-v5")
        self._env: Any = made.unwrapped
        self._kind, self._goal, self._torso = kind, goal, torso
        self.action_space = self._env.action_space
        seen: Any = self._env.observation_space.shape
        low = np.full(seen[0] + 3 * torso, -np.inf)
        self.observation_space = gymnasium.spaces.Box(low, -low, dtype=np.float64)

    def _seen(self, observation: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._torso:
            return observation
        return np.concatenate([observation, self._env.data.body("torso").xpos])

    def reset(self, seed: int | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """As gymnasium has it."""
        found, info = self._env.reset(seed=seed)
        return self._seen(found), info

    def step(self, action: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """As gymnasium has it, with the reward of the goal; never ends by itself."""
        found, _, _, _, info = self._env.step(np.asarray(action, np.float64))
        if self._kind == "angle":
            moving = np.array([info["x_velocity"], info["y_velocity"]])
            pay = float(moving @ unit(self._goal)) + info["reward_contact"] + 1.0
            pay -= 0.5 * float(np.square(action).sum())
        else:
            v = info["x_velocity"]
            pay = self._goal * v if self._kind == "sign" else -abs(v - self._goal)
            pay -= 0.05 * float(np.square(action).sum())
        return self._seen(found), float(pay), False, False, {}


@dataclass(frozen=True)
class Velocity:
    """HalfCheetah at a hidden velocity; experts are linear policies found by random search."""

    limit: int = 200
    state_dim: int = 17
    action_dim: int = 6
    iterations: int = 40  # of the search for one velocity
    alike: bool = False

    def _data(
        self, goal: float, quality: Quality, role: Role, count: int, draw: int = 0
    ) -> LocomotionData:
        search = SearchConfig(
            f"HalfCheetah-velocity-{goal:g}", steps=self.limit, iterations=self.iterations
        )
        sizes = {"transitions": count * self.limit, "reference_episodes": REFERENCE_EPISODES}
        steps = {"steps": self.limit, "scored_steps": self.limit}
        seed = ROLES[role] + len(ROLES) * draw
        return LocomotionData(search, quality, seed=seed, **sizes, **steps)

    def episodes(
        self, goals: Sequence[float], quality: Quality, role: Role, count: int, draw: int = 0
    ) -> list[list[Episode]]:
        """See :class:`Suite`; searched on first use."""
        asked = [(self._data(g, quality, role, count, draw), _maker(g)) for g in goals]
        return [locomotion_episodes(*of)[0] for of in asked]

    def batch(self, goal: float, n: int) -> GymnasiumBatch:
        """See :class:`Suite`."""
        return GymnasiumBatch([Paid("velocity", goal) for _ in range(n)], range(n))

    def references(self, goal: float) -> tuple[float, float]:
        """Measured: random actions, and the best policy that the search has found."""
        _, metadata = locomotion_episodes(self._data(goal, "expert", "few", 5), _maker(goal))
        return float(metadata["ref_min_score"]), float(metadata["ref_max_score"])

    def distances(self, goal: float, others: Sequence[float]) -> list[float]:
        """Metres per second."""
        return [abs(goal - other) for other in others]


def _maker(goal: float) -> Any:
    return lambda: Paid("velocity", goal)


# -- Prompt-DT's data -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Prompt-DT's replays of one family, a file per task and quality, below ``$PAPERS_DATA``.

    ``prompt_dt/NAME-TASK-QUALITY.npz`` with observations [E, T, s], actions, rewards, and goal.
    """

    name: str
    kind: str  # of ``Paid``
    state_dim: int
    action_dim: int
    limit: int = 200
    alike: bool = False

    def episodes(
        self, goals: Sequence[float], quality: Quality, role: Role, count: int, draw: int = 0
    ) -> list[list[Episode]]:
        """See :class:`Suite`; a role begins where the one before it can have ended.

        What was recorded is all there is: every ``draw`` is the same.

        Raises:
            UserError: if a file is missing, damaged or too short.
        """
        begin = {"train": 0, "few": 0, "full": 5, "reference": 0}[role]
        found = []
        for task in goals:
            path, arrays = self._read(task, quality)
            own = {k: array[begin : begin + count] for k, array in arrays.items() if array.ndim}
            made = episodes_of(own["observations"], own["actions"], own["rewards"])
            if len(made) < count:
                raise UserError(f"{path} holds fewer than {begin + count} episodes")
            found.append(made)
        return found

    def _read(self, task: float, quality: Quality) -> tuple[Path, dict[str, NDArray[Any]]]:
        folder = find_data(
            "prompt_dt",
            "Prompt-DT's data",
            "npz files NAME-TASK-QUALITY.npz (cheetah_vel-7-expert.npz), see the paper's NOTES.md",
        )
        path = Path(folder) / f"{self.name}-{int(task)}-{quality}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                names = ("observations", "actions", "rewards", "goal")
                return path, {k: np.asarray(file[k], np.float32) for k in names}
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path} is missing or no data of {self.name} ({error})") from error

    def goal(self, task: float) -> float:
        """What the rewards of a task depend on."""
        return float(self._read(task, "expert")[1]["goal"])

    def batch(self, goal: float, n: int) -> GymnasiumBatch:
        """See :class:`Suite`."""
        torso = self.kind != "angle"
        made = [Paid(self.kind, self.goal(goal), torso) for _ in range(n)]
        return GymnasiumBatch(made, range(n))

    def references(self, goal: float) -> tuple[float, float]:
        """Mean returns of the random and of the expert's data."""
        low, high = (
            self.episodes((goal,), quality, "reference", 5)[0] for quality in ("random", "expert")
        )
        return returns_of(low), returns_of(high)

    def distances(self, goal: float, others: Sequence[float]) -> list[float]:
        """Between what the rewards depend on; of angles 1 - cos."""
        own, *rest = (self.goal(g) for g in (goal, *others))
        if self.kind == "angle":
            return [1.0 - float(unit(own) @ unit(other)) for other in rest]
        return [abs(own - other) for other in rest]
