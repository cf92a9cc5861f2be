"""What AEPO's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from papers.aepo import task
from tests.papers.aepo.stand_in import Point, episodes

REFERENCES = {"ref_min_score": -9.0, "ref_max_score": 1.0}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The point in the place of all simulators and published data; bandits of few samples."""
    steps = 5

    def published(dataset: str, parts: tuple[str, ...] = ()) -> Any:
        return episodes(4 if parts else 3), REFERENCES

    cheap = {name: replace(found, steps=steps) for name, found in task.D4RL.items()}
    original = task.control_data
    monkeypatch.setattr(
        task, "control_data", lambda name: replace(original(name), scored_steps=steps)
    )
    monkeypatch.setattr(task, "locomotion_episodes", lambda config: (episodes(), REFERENCES))
    monkeypatch.setattr(task, "maker", lambda name: Point)
    monkeypatch.setattr(task, "load_minari", published)
    monkeypatch.setattr(task, "D4RL", cheap)
    monkeypatch.setattr(task, "POINTS", 96)
    monkeypatch.setattr("papers.aepo.prior.GRID", 6)
    monkeypatch.setattr("papers.aepo.prior.DRAWS", 16)
    for name, few in (("POINTS", 8), ("STATES", 3), ("DRAWN", 6), ("ASKED", 2)):
        monkeypatch.setattr(f"papers.aepo.accuracy.{name}", few)
    monkeypatch.setattr("papers.aepo.eval.EXACT_STEPS", 4)

    def make(environment: str) -> Point:
        return Point(("observation", "desired_goal") if environment.startswith("Ant") else ())

    monkeypatch.setattr(task, "_gymnasium", make)
    task.offline.cache_clear()
    yield
    task.offline.cache_clear()
