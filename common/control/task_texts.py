"""Vectors of sentences that describe tasks, by a frozen sentence encoder (all-MiniLM-L6-v2).

A sentence is encoded alone, so its vector depends on its own words only, not on the other tasks;
each is kept in the cache, and the encoder is loaded only for sentences that are new.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.control.episodes import config_hash, library_versions
from common.files import cache_root, write_bytes
from common.textlab import encoder

DIM = 384


def embed_tasks(sentences: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of length 1, one per sentence. [n, 384].

    Raises:
        UserError: if the package that ships the encoder is not installed.
        ValueError: if a sentence is empty.
    """
    if not all(sentence.strip() for sentence in sentences):
        raise ValueError("a task needs a sentence that describes it")
    places = {sentence: _place(sentence) for sentence in sentences}
    missing = [sentence for sentence, path in places.items() if _read(path) is None]
    if missing:
        model, tokenizer = encoder.load()
        for sentence in missing:
            vector = encoder.normalised(encoder.embed(model, tokenizer, [sentence]))[0]
            data = io.BytesIO()
            np.save(data, vector, allow_pickle=False)
            write_bytes(places[sentence], data.getvalue())
    found = [_read(places[sentence]) for sentence in sentences]
    return np.stack([vector for vector in found if vector is not None])


def _place(sentence: str) -> Path:
    """Where the vector is kept: under a hash of the sentence and of what computes it."""
    packages = library_versions([encoder.PACKAGE, "transformers", "torch"])
    return cache_root() / "texts" / f"{config_hash({'text': sentence, **packages})}.npy"


def _read(path: Path) -> NDArray[np.float32] | None:
    """A vector that is there and whole, else None."""
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vector if vector.shape == (DIM,) and vector.dtype == np.float32 else None
