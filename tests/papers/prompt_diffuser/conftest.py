"""Stand-ins for simulators and published data, worlds of a few tasks, short episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.control.episodes import Episode
from common.control.metaworld_goals import GOAL, GoalData
from papers.prompt_diffuser import suites
from papers.prompt_diffuser.task import TASKS, WORLDS

LIMIT = 8


class Hand:
    """An episode that is paid for moving towards its goal."""

    def __init__(self, goal: int) -> None:
        self.obs = np.zeros(39, np.float32)
        self.obs[GOAL] = np.random.default_rng(goal).normal(size=3)
        self.success, self.reward = False, 0.0

    def step(self, action: Any) -> None:
        self.obs = self.obs.copy()
        self.obs[:3] += 0.1 * np.asarray(action, np.float32)[:3]
        self.reward = float(np.dot(np.asarray(action)[:3], np.sign(self.obs[GOAL])))
        self.success |= bool(self.obs[0] * self.obs[36] > 0.05)


class Hands:
    """In the place of ``TaskSimulator``."""

    def goal(self, number: int) -> Hand:
        return Hand(number)


def reaching(config: GoalData, simulator: Hands) -> tuple[list[Episode], dict[str, Any]]:
    """In the place of ``goal_episodes``: the "expert" moves towards the goal."""
    episodes = []
    for n in range(config.episodes):
        goal = config.first_goal + n % config.goals
        rng = np.random.default_rng([goal, n, config.stream, int(10 * config.random)])
        hand = simulator.goal(goal)
        seen, actions, rewards = [hand.obs], [], []
        for _ in range(config.steps):
            wanted = np.append(np.sign(hand.obs[GOAL]), 0.0)
            noisy = np.clip(wanted + config.sigmas[0] * rng.normal(size=4), -1, 1)
            actions.append(rng.uniform(-1, 1, 4) if config.random else noisy)
            hand.step(actions[-1])
            seen.append(hand.obs)
            rewards.append(hand.reward)
        arrays = (np.stack(seen)[None], np.array(actions)[None], np.array(rewards)[None])
        episodes += suites.episodes_of(*arrays)
    return episodes, {}


class Walker:
    """In the place of ``Paid``: observations are the last actions, the pay is their mean."""

    def __init__(self, kind: str, goal: float, torso: bool = False) -> None:
        self.dim = {"angle": 27}.get(kind, 17 + 3 * torso)
        self.rng = np.random.default_rng(0)

    def reset(self, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        self.rng = np.random.default_rng(seed)
        return self.rng.normal(size=self.dim), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        pay = float(np.mean(action))
        return np.resize(np.append(action, pay), self.dim), pay, False, False, {}


def walking(config: Any, make: Any) -> tuple[list[Episode], dict[str, Any]]:
    """In the place of ``locomotion_episodes``."""
    quality = {"expert": 0.9, "medium": 0.5, "random": 0.0}[config.quality]
    rng = np.random.default_rng([config.seed, round(10 * quality)])
    count = config.transitions // config.steps
    actions = np.clip(quality + 0.1 * rng.normal(size=(count, config.steps, 6)), -1, 1)
    seen = rng.normal(size=(count, config.steps + 1, 17))
    found = suites.episodes_of(seen, actions, actions.mean(2))
    return found, {"ref_min_score": 0.0, "ref_max_score": 0.9 * config.steps}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every world with few training tasks, two test tasks and short episodes; no simulators."""
    monkeypatch.setattr(suites, "_simulator", lambda task: Hands())
    monkeypatch.setattr(suites, "goal_episodes", reaching)
    monkeypatch.setattr(suites, "locomotion_episodes", walking)
    monkeypatch.setattr(suites, "Paid", Walker)
    for name, world in WORLDS.items():
        suite = replace(world.suite, limit=LIMIT)  # type: ignore[type-var]
        few = {"train": world.train[:3], "demonstrations": 2}
        monkeypatch.setitem(WORLDS, name, replace(world, suite=suite, **few))
    for name, task in TASKS.items():
        monkeypatch.setitem(TASKS, name, replace(task, test=task.test[:2]))
    yield


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``published(worlds, episodes)`` writes Prompt-DT's data below ``$PAPERS_DATA``."""

    def write(worlds: tuple[str, ...], episodes: int = 55) -> Path:
        monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
        folder = tmp_path / "data" / "prompt_dt"
        folder.mkdir(parents=True, exist_ok=True)
        for name in worlds:
            world = WORLDS[name]
            goals = dict.fromkeys((*world.train, *TASKS[f"{name}-expert"].test))
            for task in goals:
                for quality, level in (("expert", 0.9), ("medium", 0.5), ("random", 0.0)):
                    rng = np.random.default_rng([int(task), round(10 * level)])
                    shape = (episodes, LIMIT, world.suite.action_dim)
                    actions = np.clip(level + 0.1 * rng.normal(size=shape), -1, 1)
                    np.savez(
                        folder / f"{name.replace('-', '_')}-{int(task)}-{quality}.npz",
                        observations=rng.normal(size=(*shape[:2], world.suite.state_dim)),
                        actions=actions,
                        rewards=actions.mean(2),
                        goal=np.float64(task),
                    )
        return folder

    return write
