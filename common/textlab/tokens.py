"""Byte-level byte-pair tokens of a corpus, and windows of them.

The tokenizer is trained by ``tokenizers`` on the training part alone. ``<eos>``, number 0, stands
after each document. Tokens are kept under the hash of corpus and vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.textlab import store
from common.textlab.corpus import PARTS, Corpus, Part

EOS, EOS_ID = "<eos>", 0
VERSION = 1  # of what is kept


class Tokenizer:
    """Text to numbers and back.

    Attributes:
        size: of the vocabulary, ``<eos>`` included.
        digest: of its merges.
    """

    def __init__(self, content: str) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self.size = int(self._tokenizer.get_vocab_size())
        self.digest = store.key_of(content=content)

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Numbers of each text, without ``<eos>``."""
        return [e.ids for e in self._tokenizer.encode_batch(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of numbers."""
        return str(self._tokenizer.decode([int(i) for i in ids]))

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each token; ``<eos>`` has none. [V]."""
        vocabulary = self._tokenizer.get_vocab()
        lengths = np.zeros(self.size, dtype=np.int64)
        for token, number in vocabulary.items():
            # in the byte-level alphabet a character stands for a byte
            lengths[number] = 0 if token == EOS else len(token)
        return lengths


@dataclass(frozen=True)
class Tokens:
    """A part of a corpus as one sequence.

    Attributes:
        ids: numbers, ``<eos>`` after each document. [n] uint16.
        starts: where each document begins. [documents] int64.
        domains: of each document.
        tokenizer: that made them.
    """

    ids: NDArray[np.uint16]
    starts: NDArray[np.int64]
    domains: tuple[str, ...]
    tokenizer: Tokenizer

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes_per_token(self) -> float:
        """Of the text, ``<eos>`` counted as a token without bytes."""
        return float(self.tokenizer.lengths[self.ids].sum() / len(self.ids))

    def of_domain(self, domain: str) -> NDArray[np.uint16]:
        """The documents of a domain, one after the other."""
        ends = np.append(self.starts[1:], len(self.ids))
        spans = zip(self.starts, ends, self.domains, strict=True)
        return np.concatenate([self.ids[a:b] for a, b, d in spans if d == domain])


def tokenizer(corpus: Corpus, vocabulary: int) -> Tokenizer:
    """Byte-level BPE of so many tokens, trained on the training part.

    Args:
        corpus: whose training part is learnt from.
        vocabulary: tokens, 257 (all bytes and ``<eos>``) to 65,536.
    """
    if not 257 <= vocabulary <= 2**16:
        raise ValueError(f"a vocabulary has 257 to 65,536 tokens, not {vocabulary}")

    def make() -> str:
        import tokenizers

        made = tokenizers.ByteLevelBPETokenizer()
        texts = (d.text for d in corpus.parts["train"])
        made.train_from_iterator(
            texts, vocab_size=vocabulary, special_tokens=[EOS], show_progress=False
        )
        return str(made._tokenizer.to_str())

    parts = {"corpus": corpus.digest, "vocabulary": vocabulary, "version": VERSION}
    return Tokenizer(store.text("tokenizers", parts, make))


def tokens(corpus: Corpus, vocabulary: int, part: Part) -> Tokens:
    """A part of a corpus in tokens of its own tokenizer."""
    made = tokenizer(corpus, vocabulary)

    def make() -> store.Arrays:
        pieces = [[*ids, EOS_ID] for ids in made.encode(d.text for d in corpus.parts[part])]
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        flat = np.fromiter((i for piece in pieces for i in piece), dtype=np.uint16)
        return {"ids": flat, "starts": starts.astype(np.int64)}

    key = {"corpus": corpus.digest, "tokenizer": made.digest, "part": part, "version": VERSION}
    found = store.arrays("tokens", key, make)
    # kept as well: dividing a corpus into its parts takes seconds
    said = store.text("domains", key, lambda: json.dumps([d.domain for d in corpus.parts[part]]))
    return Tokens(found["ids"], found["starts"], tuple(json.loads(said)), made)


def random_windows(
    ids: NDArray[Any], batch: int, length: int, generator: torch.Generator
) -> Tensor:
    """Windows of ``length`` + 1 tokens from random places: inputs and, one on, targets.

    Args:
        ids: [n].
        generator: of the places (on the CPU), so that methods can have the same batches.

    Returns:
        [batch, length + 1] int64.
    """
    at = torch.randint(len(ids) - length, (batch,), generator=generator).numpy()
    return torch.from_numpy(ids[at[:, None] + np.arange(length + 1)].astype(np.int64))


def fixed_windows(ids: NDArray[Any], length: int, limit: int | None = None) -> Tensor:
    """Windows of ``length`` + 1 tokens that follow each other and share one token, from the first.

    Every token but the first is a target once.

    Args:
        ids: [n].
        limit: windows at most, evenly spread; default: all.

    Returns:
        [windows, length + 1] int64.

    Raises:
        ValueError: if there are too few tokens for one window.
    """
    n = (len(ids) - 1) // length
    if n < 1:
        raise ValueError(f"{len(ids)} tokens are too few for a window of {length + 1}")
    chosen = np.arange(n)
    if limit is not None and limit < n:
        chosen = np.linspace(0, n - 1, limit).round().astype(int)
    return torch.from_numpy(ids[chosen[:, None] * length + np.arange(length + 1)].astype(np.int64))


__all__ = [
    "EOS",
    "EOS_ID",
    "PARTS",
    "Tokenizer",
    "Tokens",
    "fixed_windows",
    "random_windows",
    "tokenizer",
    "tokens",
]
