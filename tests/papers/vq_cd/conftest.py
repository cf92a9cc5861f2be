"""VQ-CD's stand-ins: points that actions move, in the place of simulators and published data."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.control.episodes import Episode
from papers.vq_cd import task as tasks

DIMS = {"pendulum": (3, 1), "reacher": (10, 2), "reacher-small": (10, 2), "swimmer": (8, 2)}
DIMS |= {"halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6)}
LENGTH = 24  # steps of an episode of the data
LIMIT = 3  # steps of one of the evaluation
REAL_OFFLINE: Any = tasks.offline


def dims_of(name: str) -> tuple[int, int]:
    """Of states and actions: those of the real task, small for the rest."""
    return DIMS.get(name, (6, 2))


class Point:
    """In the place of an environment: a reward for the first action, success after two steps."""

    def __init__(self, name: str) -> None:
        self.name, (self.d, self.a) = name, dims_of(name)
        self.action_space = type("Box", (), {"low": -np.ones(self.a), "high": np.ones(self.a)})
        self.success, self.reward, self.steps = False, 0.0, 0

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        self.obs = rng.normal(size=self.d).astype(np.float32)
        return self.obs, {}

    def step(self, action: Any) -> Any:
        assert action.shape == (self.a,)
        self.steps += 1
        self.obs = 0.9 * self.obs + 0.1 * float(action.mean())
        self.reward, self.success = float(action[0]), self.steps >= 2
        return self.obs, self.reward, False, False, {"success": self.success}


def episodes_of(name: str, count: int = 10) -> list[Episode]:
    """Episodes whose actions follow the state, better ones with less noise."""
    d, a = dims_of(name)
    made = []
    for e in range(count):
        rng = np.random.default_rng([zlib.crc32(name.encode()), e])
        states = np.cumsum(0.3 * rng.normal(size=(LENGTH + 1, d)), 0) + rng.normal(size=d)
        actions = np.tanh(states[:-1, :a] + e / count * rng.normal(size=(LENGTH, a)))
        made.append(
            Episode(
                states.astype(np.float32),
                actions.astype(np.float32),
                (actions[:, 0] + 1 - e / count).astype(np.float32),
                np.zeros(LENGTH, bool),
                np.arange(LENGTH) == LENGTH - 1,
                {"success": np.arange(LENGTH) >= 4 + e},
            )
        )
    return made


def stand_in(domain: tasks.Domain) -> tasks.Offline:
    """In the place of ``task.offline``."""
    episodes = episodes_of(domain.name)
    by_success = domain.kind == "metaworld"
    if by_success:
        worth = [tasks.worth_of_success(e) for e in episodes]
    else:
        worth = tasks.worth_of_returns(episodes, 10, None if domain.ahead is None else 8)

    def batch(lanes: int, n: int) -> Any:
        points = [Point(domain.name) for _ in range(lanes * n)]
        return tasks.GymnasiumBatch(points, [*range(n)] * lanes)

    ends = (np.asarray(-2.0), 4.0)
    return tasks.Offline(
        *(episodes, worth, batch, LIMIT, lambda n: ends),
        *(by_success, domain.kind == "control", lambda: 50.0),
    )


def put_in(patch: pytest.MonkeyPatch) -> None:
    """Patch ``offline`` wherever it is looked up; evaluations measure on less."""
    import importlib

    for name in ("task", "learning", "align", "eval"):
        module = importlib.import_module(f"papers.vq_cd.{name}")
        patch.setattr(module, "offline", stand_in)
    for name, few in (("PROBES", 8), ("POINTS", 32), ("TIMINGS", 1)):
        patch.setattr(importlib.import_module("papers.vq_cd.eval"), name, few)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks without simulators."""
    put_in(monkeypatch)


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty ``$PAPERS_DATA``."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("PAPERS_DATA", str(root))
    yield root
