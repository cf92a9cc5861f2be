"""What DiSF's tests share: a tiny pool, a tiny encoder, small tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.textlab.corpus import Corpus
from papers.disf import features, pool
from papers.disf.task import TASKS
from tests.papers.disf import stand_in

pytest.importorskip("transformers", reason="the extra llm is not installed")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's folder; not to be changed."""
    return stand_in.encoder(tmp_path_factory.mktemp("disf") / "encoder")


@pytest.fixture(scope="session")
def library() -> Corpus:
    """Ninety source files of three domains."""
    return stand_in.library()


@pytest.fixture
def small(
    checkpoint: Path, library: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The tiny encoder and corpus, small tasks, a store of its own."""
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("common.textlab.encoder.folder", lambda: checkpoint)
    monkeypatch.setattr(pool, "sources", lambda large: library)
    monkeypatch.setattr(pool, "SIZE", 60)
    monkeypatch.setattr(pool, "LEAST", 400)
    monkeypatch.setattr(features, "GROUP", 32)
    for name in ("library", "library-small", "library-large"):
        task = replace(TASKS[name], **stand_in.TASK)
        monkeypatch.setitem(TASKS, name, task)
    monkeypatch.setitem(TASKS, "timing", replace(TASKS["timing"], batch=12, picks=4))
    pool.pool.cache_clear()
    features.loaded.cache_clear()
    yield
    pool.pool.cache_clear()
    features.loaded.cache_clear()
