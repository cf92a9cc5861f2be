"""Files, their tokens and text for evaluation: what selections and models work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.textlab import store, tokens
from common.textlab.tokens import Tokens
from papers.disf import features, pool
from papers.disf.method import Files, Indices
from papers.disf.task import Task

Numbers = NDArray[np.uint16]


class Source(Protocol):
    """A task's text.

    Attributes:
        files: what can be selected.
    """

    files: Files

    def packed(self, chosen: Indices, seed: int, limit: int) -> Numbers:
        """Tokens of the files, one file after the other in an order of the seed, about ``limit``
        at most (whole files).
        """

    def windows(self, limit: int) -> dict[str, Tensor]:
        """Text for evaluation: windows of each domain, ``limit`` at most. [n, T + 1]."""

    def bytes_of(self, windows: Tensor) -> int:
        """Bytes of the text that windows predict."""


@dataclass
class Library:
    """Pieces of the standard library and of packages.

    Attributes:
        files: what can be selected.
        held_out: text for evaluation, a document per domain.
        ids, ends: tokens of all files.
        length: of a window.
    """

    files: Files
    held_out: Tokens
    ids: Numbers
    ends: Indices
    length: int

    def packed(self, chosen: Indices, seed: int, limit: int) -> Numbers:
        """See :meth:`Source.packed`."""
        order = np.random.default_rng([seed, 2]).permutation(chosen)
        starts = np.append(0, self.ends[:-1])
        sizes = np.cumsum(self.ends[order] - starts[order])
        order = order[: int(np.searchsorted(sizes, limit)) + 1]
        return np.concatenate([self.ids[starts[i] : self.ends[i]] for i in order])

    def windows(self, limit: int) -> dict[str, Tensor]:
        """See :meth:`Source.windows`."""
        return {
            name: tokens.fixed_windows(self.held_out.of_domain(name), self.length, limit)
            for name in self.held_out.domains
        }

    def bytes_of(self, windows: Tensor) -> int:
        """See :meth:`Source.bytes_of`."""
        return int(self.held_out.tokenizer.lengths[windows[:, 1:].numpy()].sum())


def source_of(task: Task, device: str) -> Source:
    """The files of a task with their features, and text for evaluation.

    Raises:
        UserError: for what cannot be had.
    """
    if task.data == "slimpajama":
        from papers.disf import published

        return published.source(task, device)
    there = pool.pool(task.files, task.data == "installed")
    X = features.of_texts(task.features, there.texts, task.pieces, device)
    made_by = pool.tokenizer_of(there, task.vocabulary)
    found = pool.numbers(there.texts, made_by, store.key_of(corpus=there.corpus.digest))
    files = Files(X, there.texts, there.domains)
    held_out = pool.held_out_tokens(there, made_by)
    return Library(files, held_out, found["ids"], found["ends"], task.length)


__all__ = ["Library", "Source", "source_of"]
