"""Suites of Meta-World tasks: data, prompts, held-out episodes, goals for evaluation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from common.control.decision_rollout import Outcomes, SimulatedBatch
from common.control.episodes import Episode
from common.control.metaworld import TaskSimulator
from common.control.metaworld_goals import (
    GoalData,
    goal_episodes,
    held_out,
    near_optimal,
    sub_optimal,
)
from common.errors import UserError
from common.files import find_data

Quality = Literal["near", "sub"]
Floats = NDArray[np.float32]
OBS_DIM, ACTION_DIM = 39, 4
STEPS = 150  # the mean of noisy actions is half as fast as the expert: 100 are too few for drawers
PUBLISHED = {"near": 2_000, "sub": 1_000}  # episodes of a task in MTDiff's data

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
        return 500 if self.published else STEPS


def _suites() -> dict[str, Suite]:
    made = {"mt3-sub": Suite(THREE, "sub", episodes=8)}
    for quality in ("sub", "near"):
        made[f"mt6-{quality}"] = Suite(SIX, quality)
        made[f"mt10-{quality}"] = Suite(TEN, quality)
        made[f"mt8-{quality}"] = Suite(EIGHT, quality, unseen=UNSEEN)
        for name, tasks in (("mt5", FIVE), ("mt30", THIRTY), ("mt50", FIFTY)):
            made[f"{name}-{quality}"] = Suite(tasks, quality, PUBLISHED[quality], published=True)
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
        found = published_episodes(task, number)
        train, rest = found[:-2], found[-2:]
        return Demonstrations(train, rest, [e.actions for e in rest], math.nan)
    config = replace(behaviour(suite, task), episodes=number)
    unseen = replace(held_out(config, goals), first_goal=first_goal, goals=goals)
    simulator = TaskSimulator(task)
    train, _ = goal_episodes(config, simulator)
    rest, _ = goal_episodes(unseen, simulator)
    success = float(np.mean([bool(e.infos["success"][-1]) for e in train]))
    return Demonstrations(train, rest, [wanted_actions(e, unseen) for e in rest], success)


def mean_actions(clean: Floats, sigma: float, random: float) -> Floats:
    """E[action | state, sigma] of the noisy expert: (1 - p) E[clip(c + sigma e)], e normal.

    What a regression tends to that knows the episode's sigma.

    Args:
        clean: c, the expert's actions without noise [..., 4].
        sigma: of the noise.
        random: p, probability of a uniform random action, whose mean is 0.
    """
    c = clean.astype(np.float64)
    if sigma == 0:
        return ((1 - random) * c).astype(np.float32)
    low, high = (-1 - c) / sigma, (1 - c) / sigma
    inside = norm.cdf(high) - norm.cdf(low)
    mean = c * inside - sigma * (norm.pdf(high) - norm.pdf(low)) + norm.sf(high) - norm.cdf(low)
    return ((1 - random) * mean).astype(np.float32)


def wanted_actions(episode: Episode, config: GoalData) -> Floats:
    """The behaviour's mean actions in one of its episodes. [T, 4]"""
    sigma = float(episode.infos["sigma"][0])
    return mean_actions(episode.infos["expert_action"], sigma, config.random)


def published_episodes(task: str, number: int) -> list[Episode]:
    """The first episodes of a task's SAC replay (MTDiff's data), one npz file each (no pickle).

    All 2,000 are the near-optimal data, the first 1,000 the sub-optimal ones.

    Raises:
        UserError: if files are missing or lack an array.
    """
    folder = Path(
        find_data(
            "mtdiff",
            "SAC replays of Meta-World v2, published with MTDiff",
            "a folder per task (reach-v2, …) that holds 0.npz, 1.npz, …",
        )
    )
    name = task.replace("-v3", "-v2")
    found = []
    for i in range(number):
        path = folder / name / f"{i}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found.append(_episode(*(arrays[k] for k in ("observations", "actions", "rewards"))))
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path} is missing or no episode of {name} ({error})") from error
    return found


def _episode(observations: Floats, actions: Floats, rewards: Floats) -> Episode:
    """An episode of T steps; an observation after the last step is its last one where missing."""
    steps = len(actions)
    last = observations[-1:] if len(observations) == steps else observations[steps : steps + 1]
    ends = np.arange(steps) == steps - 1
    return Episode(
        np.concatenate([observations[:steps], last]).astype(np.float32),
        actions.astype(np.float32),
        rewards.reshape(steps).astype(np.float32),
        np.zeros(steps, bool),
        ends,
    )


def goal_batch(task: str, first_goal: int, goals: int) -> SimulatedBatch:
    """Fresh episodes of a task on the goals, the same ones for every policy."""
    simulator = TaskSimulator(task)
    return SimulatedBatch([simulator.goal(first_goal + i) for i in range(goals)])


def expert_outcomes(
    batch: SimulatedBatch, task: str, limit: int, config: GoalData | None = None
) -> Outcomes:
    """What the scripted expert without noise comes to.

    Args:
        batch: of episodes.
        task: theirs.
        limit: steps of an episode.
        config: acts by the mean of this behaviour's actions instead, over its sigmas: the exact
            answer of a regression that does not know sigma.
    """
    from metaworld.policies import ENV_POLICY_MAP

    experts: Sequence[Any] = [
        ENV_POLICY_MAP[task]()  # type: ignore[abstract]
        for _ in batch.episodes
    ]
    n = len(experts)
    returns, steps, active = np.zeros(n), np.zeros(n, np.int64), np.ones(n, bool)
    for _ in range(limit):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "constants may be too high", once per step
            actions = [
                e.get_action(o.astype(np.float64))
                for e, o in zip(experts, batch.observations, strict=True)
            ]
        chosen = np.clip(np.stack(actions), -1, 1).astype(np.float32)
        if config is not None:
            means = [mean_actions(chosen, sigma, config.random) for sigma in config.sigmas]
            chosen = np.mean(means, 0, dtype=np.float32)
        rewards, _ = batch.step(chosen, active)
        returns[active] += rewards[active]
        steps[active] += 1
        active &= ~batch.success
        if not active.any():
            break
    return Outcomes(returns, batch.success.copy(), steps)
