"""The tasks of the command line: a suite, goals to train the policy on, goals to tune on, a pool.

``NAME-QUALITY``: QUALITY is that of the *pool*, the episodes that prompts and the diffusion's data
are drawn from. The episodes that actions are learned from are an expert's, the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import choose
from papers.prompt_diffuser.suites import (
    QUALITIES,
    Point,
    Published,
    Quality,
    Reach,
    Suite,
    Velocity,
)

FEW = 5  # episodes of a test task


@dataclass(frozen=True)
class World:
    """What one policy is trained on.

    Attributes:
        suite: of tasks.
        train: goals that the policy and the generators are trained on.
        scale: returns are divided by it.
        demonstrations: episodes of each training task and quality.
        target: return asked for; None: the mean over training tasks of their best expert episode.
    """

    suite: Suite
    train: tuple[float, ...]
    scale: float
    demonstrations: int = 20
    target: float | None = None


THREE_QUADRANTS = tuple(11.25 * (k + 0.5) for k in range(24))  # degrees
VELOCITIES = tuple(round(0.2 * (k + 1), 1) for k in range(12))  # m/s
CHEETAH_TEST = (2, 7, 15, 23, 26)
ANT_TEST = (6, 17, 23, 30, 41)


def _without(n: int, out: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(float(i) for i in range(n) if i not in out)


WORLDS = {
    "point": World(Point(), THREE_QUADRANTS, 36.0, target=36.0),
    "reach": World(Reach(), tuple(map(float, range(40))), 900.0, demonstrations=5),
    "velocity": World(Velocity(), VELOCITIES, 200.0, target=0.0),
    "cheetah-dir": World(Published("cheetah_dir", "sign", 20, 6), (0.0, 1.0), 1000.0, 50, 1500.0),
    "cheetah-vel": World(
        Published("cheetah_vel", "velocity", 20, 6), _without(40, CHEETAH_TEST), 500.0, 50, 0.0
    ),
    "ant-dir": World(
        Published("ant_dir", "angle", 27, 8), _without(50, ANT_TEST), 500.0, 50, 500.0
    ),
    "reach-500": World(Reach(500), tuple(map(float, range(45))), 650.0, 20, 650.0),
}


@dataclass(frozen=True)
class Task:
    """One name of the command line.

    Attributes:
        world: name of what the policy was trained on.
        test: goals that are tuned on, one by one.
        pool: quality of the episodes that prompts are drawn from.
    """

    world: str
    test: tuple[float, ...]
    pool: Quality


_TEST: dict[str, tuple[str, tuple[float, ...]]] = {
    "point": ("point", (33.75, 101.25, 168.75, 236.25)),  # each between two directions of training
    "ood": ("point", (281.25, 303.75, 326.25, 348.75)),  # in the quadrant that is left out
    "tune": ("point", (67.5, 202.5)),  # neither: for the tuning alone
    "reach": ("reach", (40.0, 41.0, 42.0, 43.0)),
    "velocity": ("velocity", (0.3, 0.9, 1.5, 2.1)),
    "cheetah-dir": ("cheetah-dir", (0.0, 1.0)),
    "cheetah-vel": ("cheetah-vel", tuple(map(float, CHEETAH_TEST))),
    "ant-dir": ("ant-dir", tuple(map(float, ANT_TEST))),
    "reach-500": ("reach-500", tuple(map(float, range(45, 50)))),
}
TASKS = {
    f"{name}-{quality}": Task(world, test, quality)
    for name, (world, test) in _TEST.items()
    for quality in QUALITIES
}


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: for an unknown one, with the nearest names.
    """
    return TASKS[choose("task", name, TASKS)]


def pools_of(world: str) -> tuple[Quality, ...]:
    """The qualities that a generator can be trained on beforehand."""
    return tuple(dict.fromkeys(task.pool for task in TASKS.values() if task.world == world))
