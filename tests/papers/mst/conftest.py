"""What MST's tests share: a small text, small models."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.textlab.corpus import Corpus, Document
from papers.mst import task

pytest.importorskip("transformers", reason="the extra llm is not installed")
torch.set_num_threads(1)
SMALL = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "length": 16, "stride": 4}
SMALL |= {"batch": 4, "micro": 4, "steps": 21, "every": 2, "validation": 8}


def words(seed: int, n: int) -> str:
    """A text in which a word tells the next."""
    rng = random.Random(seed)
    known = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(20)]
    at, found = 0, []
    for _ in range(n):
        found.append(known[at])
        at = (3 * at + rng.randrange(2)) % len(known)
    return " ".join(found)


@functools.cache
def small_text() -> Corpus:
    """Sixty files."""
    documents = tuple(Document(f"{i}.py", "core", words(i, 150)) for i in range(60))
    return Corpus("stand-in", "tests", documents)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task is small, and so is every text."""
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    for name in task.CORPORA:
        monkeypatch.setitem(task.CORPORA, name, small_text)
    for name, one in task.TASKS.items():
        made = replace(one, **{**SMALL, "narrow_heads": 2})
        monkeypatch.setitem(task.TASKS, name, made)
