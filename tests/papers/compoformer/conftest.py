"""Meta-World's stand-in: a hand that actions move, episodes that random actions make."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.control.episodes import Episode
from common.control.metaworld_goals import GoalData
from papers.compoformer import task as tasks

SHORT = 10  # steps of an episode
EASY = ("handle-press-side-v3", "window-close-v3")  # their episodes always end well


class Moving:
    """An episode that ends well by itself after three steps: always, or on even goals."""

    def __init__(self, key: list[int], well: bool) -> None:
        rng = np.random.default_rng(key)
        self.obs = rng.normal(size=39).astype(np.float32)
        self.success, self.reward, self.steps, self.well = False, 0.0, 0, well

    def step(self, action: Any) -> None:
        self.obs = self.obs.copy()
        self.obs[:4] += np.asarray(action, np.float32)
        self.steps += 1
        self.reward = float(np.abs(action).mean())
        self.success |= self.well and self.steps >= 3


class Simulator:
    """In the place of ``TaskSimulator``."""

    def __init__(self, task: str) -> None:
        self.key, self.easy = zlib.crc32(task.encode()), task in EASY

    def goal(self, number: int) -> Moving:
        return Moving([self.key, number], self.easy or number % 2 == 0)


def made(config: GoalData, simulator: Simulator, steps: int = 7) -> tuple[list[Episode], dict]:
    """Episodes of the stand-in; the "expert" is a function of the state and the task."""
    episodes = []
    for n in range(config.episodes):
        rng = np.random.default_rng([simulator.key, config.stream, n])
        episode = simulator.goal(config.first_goal + n % config.goals)
        observations, actions, wanted = [episode.obs], [], []
        sigma = config.sigmas[n % len(config.sigmas)]
        for _ in range(steps):
            wanted.append(np.tanh(np.roll(episode.obs, simulator.key % 7)[:4]))
            actions.append(np.clip(wanted[-1] + sigma * rng.normal(size=4), -1, 1))
            episode.step(actions[-1])
            observations.append(episode.obs)
        episodes.append(
            Episode(
                np.stack(observations),
                np.array(actions, np.float32),
                np.abs(np.array(actions, np.float32)).mean(1),
                np.zeros(steps, bool),
                np.arange(steps) == steps - 1,
                {
                    "sigma": np.full(steps, sigma),
                    "success": np.full(steps, n % 2 == 0),
                    "expert_action": np.array(wanted, np.float32),
                },
            )
        )
    return episodes, {}


def vectors(sentences: Sequence[str]) -> np.ndarray:
    """In the place of the sentence encoder: sentences that share words are near each other."""
    words = [[w.lower() for w in s.split()] for s in sentences]
    found = np.zeros((len(sentences), 384), np.float32)
    for i, of in enumerate(words):
        for word in of:
            found[i] += np.random.default_rng(zlib.crc32(word.encode())).normal(size=384)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks without a simulator, sentences without an encoder."""
    monkeypatch.setattr(tasks, "TaskSimulator", Simulator)
    monkeypatch.setattr(tasks, "goal_episodes", made)
    monkeypatch.setattr(tasks, "embed_tasks", vectors)
    monkeypatch.setattr(tasks, "_simulators", {})
    for name in ("LIMIT", "LONG", "STEPS"):  # of episodes, some of which never end well
        monkeypatch.setattr(tasks, name, SHORT)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``published(names, episodes)`` writes data of MTDiff's format below ``$PAPERS_DATA``."""

    def write(names: Sequence[str], episodes: int) -> Path:
        monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
        for name in names:
            folder = tmp_path / "data" / "mtdiff" / name.replace("-v3", "-v2")
            folder.mkdir(parents=True)
            for i in range(episodes):
                rng = np.random.default_rng([zlib.crc32(name.encode()), i])
                np.savez(
                    folder / f"{i}.npz",
                    observations=rng.normal(size=(6, 39)),
                    actions=rng.uniform(-1, 1, (6, 4)),
                    rewards=rng.uniform(size=6),
                    terminals=np.zeros(6, bool),
                )
        return tmp_path / "data" / "mtdiff"

    return write
