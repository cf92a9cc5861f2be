"""What methods are compared on: behaviours with a known answer, and offline reinforcement learning.

*Bandits* have no state: a Gaussian behaviour with quadratic Q (concave, convex), and samples of
two-dimensional sets that carry energies. *Control* tasks have data of a random search's snapshots
(``common.control.locomotion_data``), on scales of their own; *d4rl* tasks are D4RL's data as Minari
publishes them (*maze*: those with goals).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.control.episodes import Episode, load_minari
from common.control.locomotion_data import LocomotionData, locomotion_episodes
from common.control.random_search import SEARCHES, maker
from common.control.scores import D4RL_RETURNS, references
from common.errors import choose
from common.toy_data import checkerboard

Kind = Literal["gaussian", "set", "control", "d4rl", "maze"]
Floats = NDArray[np.float64]
POINTS = 10_000  # of a bandit's data and seed
QUALITIES = ("medium", "replay", "medium-expert")
CONTROL = {
    "halfcheetah": "HalfCheetah-v5",
    "reacher": "Reacher-v5",
    "pendulum": "InvertedDoublePendulum-v5",
}


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: on the command line and in the rows.
        kind: see the module.
        source: whose behaviour and critic: tasks with the same source share them.
        curvature: of Q, where it is quadratic.
    """

    name: str
    kind: Kind
    source: str
    curvature: float = 0.0

    @property
    def bandit(self) -> bool:
        """Whether there is no state."""
        return self.kind in ("gaussian", "set")


# -- two-dimensional sets ------------------------------------------------------------------------


def eight_gaussians(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Eight modes on a circle; energy k / 7 of mode k."""
    mode = rng.integers(0, 8, n)
    angle = 2 * np.pi * mode / 8
    centre = 4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return (centre + 0.5 * rng.standard_normal((n, 2))) / 1.414, mode / 7


def rings(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Four rings; energies .667, .333, 1, 0 from the outermost to the innermost."""
    ring = rng.integers(0, 4, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = np.array([1.0, 0.75, 0.5, 0.25])[ring]
    points = 3 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    noise = 0.08 * 3 * rng.standard_normal((n, 2))
    return points + noise, np.array([0.667, 0.333, 1.0, 0.0])[ring]


def chequered(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """The checkerboard; energy 1 in the cells of the odd columns."""
    points = checkerboard(rng, n, scale=2.0)
    return points, np.floor(points[:, 0] / 2.0) % 2


def moons(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Two moons; the energy is the label."""
    from sklearn.datasets import make_moons

    seed = int(rng.integers(2**31))
    points, label = make_moons(n, noise=0.1, random_state=seed)
    return 2 * points + np.array([-1.0, -0.2]), label.astype(float)


def swiss_roll(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """The roll seen from the side; energy |a|^2 / 9."""
    turn = 1.5 * np.pi * (1 + 2 * rng.uniform(0, 1, n))
    points = turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
    points = (points + rng.standard_normal((n, 2))) / 5.0
    return points, (points**2).sum(1) / 9.0


SETS: dict[str, Callable[[np.random.Generator, int], tuple[Floats, Floats]]] = {
    "8gaussians": eight_gaussians,
    "rings": rings,
    "checkerboard": chequered,
    "moons": moons,
    "swissroll": swiss_roll,
}


# -- published data ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Data sets of Minari (put together) and the environment that a policy is scored in."""

    datasets: tuple[str, ...]
    environment: str
    steps: int  # of an episode
    parts: tuple[str, ...] = ()  # of observations that come in parts
    reward_shift: float = 0.0  # added to every reward (AntMaze: -1)


def _published() -> dict[str, Published]:
    found = {}
    for name in ("halfcheetah", "hopper", "walker2d"):
        env = {"halfcheetah": "HalfCheetah", "hopper": "Hopper", "walker2d": "Walker2d"}[name]
        ids = {q: f"mujoco/{name}/{q}-v0" for q in ("medium", "expert")}
        made = Published((ids["medium"],), f"{env}-v5", 1000)
        found[f"{name}-medium-d4rl"] = made
        both = (ids["medium"], ids["expert"])
        found[f"{name}-medium-expert-d4rl"] = Published(both, f"{env}-v5", 1000)
    for hand, steps in (("pen", 200), ("door", 300), ("hammer", 400), ("relocate", 400)):
        for quality in ("human", "cloned", "expert"):
            ids = (f"D4RL/{hand}/{quality}-v2",)
            made = Published(ids, f"AdroitHand{hand.capitalize()}-v1", steps)
            found[f"{hand}-{quality}-d4rl"] = made
    mazes = {
        "umaze": ("AntMaze_UMaze-v4", 700),
        "umaze-diverse": ("AntMaze_UMaze-v4", 700),
        "medium-play": ("AntMaze_Medium-v4", 1000),
        "medium-diverse": ("AntMaze_Medium-v4", 1000),
        "large-play": ("AntMaze_Large-v4", 1000),
        "large-diverse": ("AntMaze_Large-v4", 1000),
    }
    for maze, (environment, steps) in mazes.items():
        parts = ("observation", "desired_goal")
        ids = (f"D4RL/antmaze/{maze}-v1",)
        found[f"antmaze-{maze}-d4rl"] = Published(ids, environment, steps, parts, -1.0)
    return found


D4RL = _published()
TASKS: dict[str, Task] = {
    "concave": Task("concave", "gaussian", "gauss", -2.0),
    "convex": Task("convex", "gaussian", "gauss", 2.0),
    **{name: Task(name, "set", name) for name in SETS},
    **{
        f"{name}-{quality}": Task(f"{name}-{quality}", "control", f"{name}-{quality}")
        for name in CONTROL
        for quality in QUALITIES
    },
    **{n: Task(n, "maze" if n.startswith("antmaze") else "d4rl", n) for n in D4RL},
}


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: for an unknown one.
    """
    return TASKS[choose("task", name, TASKS)]


def source_of(name: str) -> Task:
    """A task whose behaviour and critic have that name.

    Raises:
        UserError: for an unknown one.
    """
    sources = {task.source: task for task in TASKS.values()}
    return sources[choose("source", name, sources)]


# -- data ----------------------------------------------------------------------------------------


def bandit_data(
    task: Task, seeds: tuple[int, ...], points: int | None = None
) -> tuple[Tensor, Tensor]:
    """Actions [S, N, 2] of each seed, and their energies [S, N] (0 where Q is a formula).

    Args:
        task: a bandit.
        seeds: S of them.
        points: N; default: ``POINTS``.
    """
    points = points or POINTS
    actions, energies = [], []
    for seed in seeds:
        rng = np.random.default_rng([seed, 11])
        if task.kind == "gaussian":
            from papers.aepo.exact import Gaussian

            mu = Gaussian()
            points_of = mu.mean + mu.std * rng.standard_normal((points, 2))
            energy = np.zeros(points)
        else:
            points_of, energy = SETS[task.source](rng, points)
        actions.append(points_of)
        energies.append(energy)
    stacked = [torch.from_numpy(np.stack(x).astype(np.float32)) for x in (actions, energies)]
    return stacked[0], stacked[1]


@dataclass(frozen=True)
class Offline:
    """A data set of episodes and how a policy is scored on it.

    Attributes:
        episodes: of the data.
        make: makes the environment.
        steps: of an episode of the evaluation.
        low, high: returns of random actions and of the expert: scores 0 and 100.
        reward_shift: added to every reward.
        parts: of observations that come in parts.
    """

    episodes: list[Episode]
    make: Callable[[], Any]
    steps: int
    low: float
    high: float
    reward_shift: float = 0.0
    parts: tuple[str, ...] = ()


def control_data(name: str) -> LocomotionData:
    """What a control task's data are made of."""
    environment, quality = name.split("-", 1)
    search = SEARCHES[CONTROL[environment]]
    steps = {"reacher": 50}.get(environment, 200)
    return LocomotionData(search, quality, steps=steps, scored_steps=steps)  # type: ignore[arg-type]


@lru_cache(maxsize=2)
def offline(name: str) -> Offline:
    """The data of a control or d4rl task, made or fetched on first use.

    Raises:
        UserError: if published data are missing.
    """
    if task_of(name).kind == "control":
        config = control_data(name)
        episodes, metadata = locomotion_episodes(config)
        low, high = references(metadata)
        return Offline(episodes, maker(config.search.environment), config.scored_steps, low, high)
    published = D4RL[name]
    found = [load_minari(dataset, parts=published.parts) for dataset in published.datasets]
    episodes = [episode for part, _ in found for episode in part]
    environment = name.split("-")[0]
    if environment in D4RL_RETURNS:
        low, high = D4RL_RETURNS[environment]
    elif environment == "antmaze":
        low, high = 0.0, 1.0  # the return is whether the goal was reached
    else:
        low, high = references(found[0][1])
    return Offline(
        *(episodes, lambda: _gymnasium(published.environment), published.steps, low, high),
        *(published.reward_shift, published.parts),
    )


def _gymnasium(environment: str) -> Any:
    import gymnasium

    if environment.startswith(("AntMaze", "Adroit")):
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make(environment).unwrapped


def observed(found: Any, parts: tuple[str, ...]) -> NDArray[np.float32]:
    """An environment's observation as one vector."""
    if not parts:
        return np.asarray(found, np.float32)
    return np.concatenate([np.asarray(found[part], np.float32) for part in parts])


__all__ = [
    "CONTROL",
    "D4RL",
    "SETS",
    "TASKS",
    "Offline",
    "Task",
    "bandit_data",
    "control_data",
    "observed",
    "offline",
    "source_of",
    "task_of",
]
