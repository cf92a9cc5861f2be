"""Functions of the standard library as pairs (docstring, body), divided by file.

Query and candidates of a code search are docstrings and bodies of files that neither calibration
nor the probe has seen; the class of a text is the package that it comes from.
"""

from __future__ import annotations

import ast
import collections
import functools
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from common import files
from common.errors import UserError
from common.textlab import corpus, store

WORDS = 8  # a docstring and a body have as many or more
CLASSES = 10  # packages: the largest ones of several files
SEEN = 0.4  # share of the files for calibration and for the probe


class Pair(NamedTuple):
    """A function.

    Attributes:
        path: of its file.
        docstring: its first statement.
        body: the rest.
    """

    path: str
    docstring: str
    body: str

    @property
    def package(self) -> str:
        """The folder below the standard library."""
        return self.path.split("/")[0]

    @property
    def seen(self) -> bool:
        """Its file is one of those for calibration and the probe."""
        return int(files.sha256(f"liar {self.path}".encode())[:8], 16) / 2**32 < SEEN


def functions(path: str, text: str) -> Iterator[Pair]:
    """Functions of a file that have a docstring; none of a file that is not of this Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node) or ""
        body = "\n".join(map(ast.unparse, node.body[1:]))
        if min(len(docstring.split()), len(body.split())) >= WORDS:
            yield Pair(path, docstring, body)


@functools.cache
def pairs() -> tuple[Pair, ...]:
    """All pairs of the largest packages; those whose docstring occurs twice are left out."""
    library = corpus.standard_library()

    def make() -> str:
        folders = [d for d in library.documents if "/" in d.path]
        found = [pair for d in folders for pair in functions(d.path, d.text)]
        often = collections.Counter(pair.docstring for pair in found)
        return json.dumps([pair for pair in found if often[pair.docstring] == 1])

    text = store.text("liar-pairs", {"corpus": library.digest, "words": WORDS, "version": 1}, make)
    found = [Pair(*entry) for entry in json.loads(text)]
    sizes = collections.Counter(pair.package for pair in found)
    largest = {name for name, _ in sizes.most_common(CLASSES)}
    return tuple(pair for pair in found if pair.package in largest)


def classes() -> tuple[str, ...]:
    """The packages, sorted."""
    return tuple(sorted({pair.package for pair in pairs()}))


def drawn(seen: bool, n: int, seed: int) -> list[Pair]:
    """Pairs of seen or unseen files, without repetition.

    Raises:
        UserError: if there are not so many.
    """
    pool = [pair for pair in pairs() if pair.seen is seen]
    if n > len(pool):
        raise UserError(f"there are {len(pool)} pairs of such files, not {n}; ask for fewer")
    rng = np.random.default_rng([seed, int(seen)])
    return [pool[i] for i in rng.permutation(len(pool))[:n]]


def calibration(n: int, seed: int) -> list[tuple[str, str]]:
    """Texts for calibration, docstrings and bodies in turn, with their package.

    Raises:
        UserError: if there are not so many.
    """
    both = drawn(True, -(-n // 2), seed)
    texts = [(text, pair.package) for pair in both for text in (pair.docstring, pair.body)]
    return texts[:n]


__all__ = ["CLASSES", "Pair", "calibration", "classes", "drawn", "functions", "pairs"]
