"""What LIAR's tests share: a tiny encoder and a tiny corpus in the place of the real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.textlab import corpus
from papers.liar import pretrain, texts
from papers.liar.config import DecoderConfig
from papers.liar.task import TASKS
from tests.papers.liar import stand_in

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's folder; not to be changed."""
    return stand_in.encoder(tmp_path_factory.mktemp("liar") / "encoder")


@pytest.fixture(scope="session")
def library() -> corpus.Corpus:
    """Sixteen files."""
    return stand_in.library()


@pytest.fixture
def small(checkpoint: Path, library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny encoder, pairs and corpus; a store of its own."""
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("common.textlab.encoder.folder", lambda: checkpoint)
    monkeypatch.setattr(texts, "pairs", stand_in.pairs)
    monkeypatch.setattr("common.textlab.corpus.standard_library", lambda: library)
    for name in ("minilm", "minilm-2", "llama"):
        few = replace(TASKS[name], texts=stand_in.TEXTS)
        monkeypatch.setitem(TASKS, name, few)


@pytest.fixture
def decoder(tmp_path: Path, small: None) -> Path:
    """A finished run of the first stage, seed 0."""
    out = tmp_path / "decoder" / "llama" / "llama" / "seed-0"
    pretrain.train(DecoderConfig(out=out, **stand_in.DECODER))
    return out
