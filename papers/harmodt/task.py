"""Suites of Meta-World tasks: data, prompts, held-out episodes, goals for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.control.behaviour import wanted_actions
from common.control.decision_rollout import SimulatedBatch
from common.control.episodes import Episode
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import (
    GoalData,
    goal_episodes,
    held_out,
    near_optimal,
    sub_optimal,
)
from common.control.mtdiff import EPISODES, mtdiff_episodes
from common.control.mtdiff import STEPS as PUBLISHED_STEPS

Quality = Literal["near", "sub"]
Floats = NDArray[np.float32]
OBS_DIM, ACTION_DIM = 39, 4
STEPS = 150  # the mean of noisy actions is half as fast as the expert: 100 are too few for drawers

THREE = ("reach-v3", "drawer-close-v3", "window-open-v3")
SIX = ("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-close-v3", "window-open-v3")
TEN = (  # Meta-World's MT10
    *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3"),
    *("button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3"),
)
EIGHT = tuple(t for t in TEN if t not in ("peg-insert-side-v3", "window-close-v3"))
UNSEEN = ("reach-wall-v3", "button-press-wall-v3")
FIVE = (
    *("basketball-v3", "bin-picking-v3", "button-press-topdown-v3", "button-press-v3"),
    "button-press-wall-v3",
)
THIRTY = (
    *FIVE,
    *("coffee-button-v3", "coffee-pull-v3", "coffee-push-v3", "dial-turn-v3", "disassemble-v3"),
    *("door-close-v3", "door-lock-v3", "door-open-v3", "door-unlock-v3", "hand-insert-v3"),
    *("drawer-close-v3", "drawer-open-v3", "faucet-open-v3", "faucet-close-v3"),
    *("handle-press-side-v3", "handle-press-v3", "handle-pull-side-v3", "handle-pull-v3"),
    *("lever-pull-v3", "peg-insert-side-v3", "pick-place-wall-v3", "pick-out-of-hole-v3"),
    *("reach-v3", "push-back-v3", "push-v3"),
)
FIFTY = (
    *THIRTY,
    *("pick-place-v3", "plate-slide-v3", "plate-slide-side-v3", "plate-slide-back-v3"),
    *("plate-slide-back-side-v3", "soccer-v3", "push-wall-v3", "shelf-place-v3", "sweep-into-v3"),
    *("sweep-v3", "window-open-v3", "window-close-v3", "assembly-v3"),
    *("button-press-topdown-wall-v3", "hammer-v3", "peg-unplug-side-v3", "reach-wall-v3"),
    *("stick-push-v3", "stick-pull-v3", "box-close-v3"),
)


@dataclass(frozen=True)
class Suite:
    """Tasks that one network learns, from data of one quality.

    Attributes:
        tasks: in the order of the round robin.
        quality: of the data.
        episodes: of each task.
        unseen: tasks that only a prompt tells of.
        published: MTDiff's data in the place of scripted experts.
    """

    tasks: tuple[str, ...]
    quality: Quality
    episodes: int = 60
    unseen: tuple[str, ...] = ()
    published: bool = False

    @property
    def limit(self) -> int:
        """Steps of an episode, of data as of evaluation."""
        return PUBLISHED_STEPS if self.published else STEPS


def _suites() -> dict[str, Suite]:
    made = {"mt3-sub": Suite(THREE, "sub", episodes=8)}
    for quality in ("sub", "near"):
        made[f"mt6-{quality}"] = Suite(SIX, quality)
        made[f"mt10-{quality}"] = Suite(TEN, quality)
        made[f"mt8-{quality}"] = Suite(EIGHT, quality, unseen=UNSEEN)
        for name, tasks in (("mt5", FIVE), ("mt30", THIRTY), ("mt50", FIFTY)):
            made[f"{name}-{quality}"] = Suite(tasks, quality, EPISODES[quality], published=True)
    return made


SUITES = _suites()


@dataclass(frozen=True)
class Demonstrations:
    """What a run has of one task.

    Attributes:
        train: episodes to learn from.
        held_out: episodes of the same kind on the goals of evaluation (of MTDiff: the last two).
        wanted: per held-out episode, what an action is compared with [T, 4]: the mean of the
            behaviour's actions at that state, its noise integrated out (of MTDiff: its actions).
        behaviour_success: share of the training episodes that reach their goal; NaN: not told.
    """

    train: list[Episode]
    held_out: list[Episode]
    wanted: list[Floats]
    behaviour_success: float


def behaviour(suite: Suite, task: str) -> GoalData:
    """Who made a task's data."""
    make = near_optimal if suite.quality == "near" else sub_optimal
    return replace(make(task), episodes=suite.episodes, steps=suite.limit)


def demonstrations(
    suite: Suite, task: str, first_goal: int, goals: int, episodes: int | None
) -> Demonstrations:
    """The data of a task, generated on first use or read below ``$PAPERS_DATA``."""
    number = suite.episodes if episodes is None else episodes
    if suite.published:
        found = mtdiff_episodes(task, number)
        train, rest = found[:-2], found[-2:]
        return Demonstrations(train, rest, [e.actions for e in rest], math.nan)
    config = replace(behaviour(suite, task), episodes=number)
    unseen = replace(held_out(config, goals), first_goal=first_goal, goals=goals)
    simulator = TaskSimulator(task)
    train, _ = goal_episodes(config, simulator)
    rest, _ = goal_episodes(unseen, simulator)
    success = float(np.mean([bool(e.infos["success"][-1]) for e in train]))
    return Demonstrations(train, rest, [wanted_actions(e, unseen) for e in rest], success)


def goal_batch(task: str, first_goal: int, goals: int) -> SimulatedBatch:
    """Fresh episodes of a task on the goals, the same ones for every policy."""
    simulator = TaskSimulator(task)
    return SimulatedBatch([simulator.goal(first_goal + i) for i in range(goals)])
