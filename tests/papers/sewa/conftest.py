"""What SeWA's tests share: small tasks, a world of stand-ins."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.textlab.corpus import Corpus, Document, part_of
from papers.sewa import texts
from papers.sewa.config import TrajectoryConfig
from papers.sewa.task import TASKS
from papers.sewa.trajectory import train

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"steps": 24, "k": 8, "interval": 2, "K": 3, "batch": 16}
SMALL |= {"select_batch": 8, "episodes": 2, "limit": 20, "width": 8, "layers": 1, "heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "bc-hopper": {"examples": 2},
    "text": {"examples": 64, "vocabulary": 280, "length": 12},
}


@functools.cache
def small_text() -> Corpus:
    """Files of four groups, each with words of its own, some in each part."""
    made = []
    for g, group in enumerate(texts.GROUPS):
        rng = random.Random(g)
        known = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(8)]
        paths = [f"{group}/{i}.py" for i in range(400)]
        for part, n in (("train", 8), ("validation", 1), ("test", 1)):
            for path in [p for p in paths if part_of(p) == part][:n]:
                made.append(Document(path, group, " ".join(rng.choices(known, k=60))))
    return Corpus("stand-in", "tests", tuple(sorted(made, key=lambda d: d.path)))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task is small; a store of its own."""
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("common.textlab.corpus.standard_library", small_text)
    monkeypatch.setattr("papers.sewa.claims.K", 3)
    for module in ("baselines", "train"):
        monkeypatch.setattr(f"papers.sewa.{module}.DRAWS", 6)
    for name, task in TASKS.items():
        changes = {**SMALL, **KINDS.get(name, {"examples": 60} if "digits" in name else {})}
        if name.startswith("bc-d4rl"):
            changes |= {"length": 4}
        if name == "ag-news":
            changes |= {"length": 12}
        monkeypatch.setitem(TASKS, name, replace(task, **changes))


@pytest.fixture
def snapshots(tmp_path: Path, small: None) -> Path:
    """Where a finished training of digits lies: seed-0 and seed-1 below it."""
    folder = tmp_path / "scale" / "trajectory" / "digits" / "plain"
    for seed in (0, 1):
        train(TrajectoryConfig(task="digits", seed=seed, out=folder / f"seed-{seed}"))
    return folder
