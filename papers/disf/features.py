"""A vector for every file, computed once and kept.

Files come in groups; several processes that need the same vectors share the work: each goes through
the groups in an order of its own and finds what others have made.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.textlab import encoder, public, store

Vectors = NDArray[np.float32]
GROUP = 1024  # files whose vectors are kept together
BUCKETS, HASHED = 4096, 64  # words and pairs of words; numbers of a vector
CONTRIEVER = "facebook/contriever"  # on the hub
VERSION = 1  # of what is kept


def hashed(texts: Sequence[str], limit: int, device: str) -> Vectors:
    """Counts of words and pairs of words in buckets, of length 1, in random directions."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {"alternate_sign": False, "dtype": np.float32}
    counts = HashingVectorizer(n_features=BUCKETS, ngram_range=(1, 2), **options).transform(texts)
    directions = np.random.default_rng(0).standard_normal((BUCKETS, HASHED)) / HASHED**0.5
    return np.asarray(counts @ directions, dtype=np.float32)


@functools.cache
def loaded(kind: str, device: str) -> tuple[Any, Any]:
    """Encoder and tokenizer.

    Raises:
        UserError: if Contriever cannot be had.
    """
    if kind == "minilm":
        model, tokenizer = encoder.load()
        return model.to(device), tokenizer
    model, tokenizer = public.obtained(CONTRIEVER, encoder.load)
    return model.to(device), tokenizer


def encoded(kind: str, texts: Sequence[str], limit: int, device: str) -> Vectors:
    """Mean of the last hidden states over word pieces, not of length 1. [n, d]."""
    return encoder.embed(*loaded(kind, device), texts, limit=limit)


def version(kind: str) -> str:
    """What the vectors depend on besides the texts."""
    if kind == "minilm":
        return f"{encoder.PACKAGE} {importlib.metadata.version(encoder.PACKAGE)}"
    return f"{kind} {VERSION}"


def group(
    kind: str, key: str, limit: int, device: str, texts: Callable[[], Sequence[str]]
) -> Vectors:
    """The vectors of a group. [n, d] float32.

    Args:
        kind: minilm, contriever or hashed.
        key: that tells the group's texts from all others.
        limit: word pieces of a text.
        texts: of the group, read only if the vectors are not there.
    """

    def make() -> store.Arrays:
        there = texts()
        if kind == "hashed":
            return {"x": hashed(there, limit, device)}
        return {"x": encoded(kind, there, limit, device)}

    parts = {"kind": version(kind), "texts": key, "limit": limit, "version": VERSION}
    return store.arrays("disf-features", parts, make)["x"]


def of_texts(kind: str, texts: Sequence[str], limit: int, device: str) -> Vectors:
    """Vectors of all texts. [N, d] float32."""
    starts = range(0, len(texts), GROUP)
    found: dict[int, Vectors] = {}
    for at in np.random.default_rng(os.getpid()).permutation(starts):  # others work here as well
        part = texts[at : at + GROUP]
        key = store.key_of(texts=list(part))
        found[int(at)] = group(kind, key, limit, device, lambda part=part: part)  # type: ignore[misc]
    return np.concatenate([found[at] for at in starts])


__all__ = ["GROUP", "group", "of_texts"]
