"""What HC-SMoE's tests share: a small text, and mixtures trained on it for a few steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from papers.hc_smoe import pretrain, task
from papers.hc_smoe.config import TrainingConfig
from tests.papers.hc_smoe import stand_in

torch.set_num_threads(1)


def small(patch: pytest.MonkeyPatch, store: Path) -> None:
    """Every corpus is the stand-in's, and the store a folder of its own."""
    patch.setenv("PAPERS_CACHE", str(store))
    patch.setattr(task.corpus, "standard_library", stand_in.text)
    patch.setattr(task.corpus, "installed", lambda *names: stand_in.text(len(names)))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tokens and statistics are kept."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def small_text(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    """In every test of this folder."""
    small(monkeypatch, store)


@pytest.fixture(scope="session")
def stages(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale's folder in which stages 1 and 2 of seed 0 are finished; not to be changed."""
    scale = tmp_path_factory.mktemp("hc_smoe") / "scale"
    with pytest.MonkeyPatch.context() as patch:
        small(patch, store)
        out = scale / "dense" / "dense" / "dense" / "seed-0"
        pretrain.train(TrainingConfig(method="dense", task="dense", out=out, **stand_in.TRAINING))
        for name in task.FAMILIES:
            out = scale / "moe" / name / "moe" / "seed-0"
            pretrain.train(TrainingConfig(task=name, out=out, **stand_in.TRAINING))
    return scale


@pytest.fixture
def earlier(tmp_path: Path, stages: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stages, tmp_path / "scale"))
