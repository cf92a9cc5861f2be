"""Files to select from on every machine: pieces of Python's standard library and of packages.

A source file is cut where lines are empty, into pieces of some 600 characters: these are the files.
Source files are divided by their path: of one part the pieces are selected from, of the other the
text for evaluation is taken. Pieces of which half of the 8-grams of words stand in that text are
left out, and of equal pieces all but the first.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common import files
from common.errors import UserError
from common.textlab import corpus, store, tokens
from common.textlab.corpus import Corpus, Document
from common.textlab.tokens import EOS_ID, Tokenizer, Tokens

SIZE, LONGEST = 600, 1200  # characters of a piece: at least (but for a file's last one), at most
HELD_OUT = 60_000  # characters of each domain for evaluation
LEAST = 4_000  # characters that a domain needs to be evaluated
VERSION = 1  # of what is kept
MERGED = {"markup": "network"}  # too small alone


def domain_of(package: str, path: str, domain: str) -> str:
    """What a source file is about."""
    if package == "standard library":
        return MERGED.get(domain, domain)
    if corpus.TESTS & set(path.split("/")[:-1]):
        return "test"
    if path.endswith((".pyi", ".h")):
        return "stubs"
    return "numeric" if package == "numpy" else package


def sources(large: bool) -> Corpus:
    """The standard library with its tests and NumPy; the large one with PyTorch, transformers."""
    parts = [("standard library", corpus.standard_library(tests=True))]
    parts += [("numpy", corpus.installed("numpy", suffixes=(".py", ".pyi", ".h")))]
    if large:
        parts += [(name, corpus.installed(name)) for name in ("torch", "transformers")]
    documents = tuple(
        Document(f"{name}/{d.path}", domain_of(name, d.path, d.domain), d.text)
        for name, part in parts
        for d in part.documents
    )
    about = ", ".join(part.about for _, part in parts)
    return Corpus(" + ".join(name for name, _ in parts), about, documents)


def pieces(text: str) -> Iterator[str]:
    """A source file in pieces."""
    part, size = list[str](), 0
    for line in text.splitlines(keepends=True):
        if part and ((size >= SIZE and not line.strip()) or size + len(line) > LONGEST):
            yield "".join(part)
            part, size = [], 0
        part.append(line[:LONGEST])
        size += len(part[-1])
    if "".join(part).strip():
        yield "".join(part)


@dataclass(frozen=True)
class Pool:
    """Files to select from, in the order of their paths, and text for evaluation.

    Attributes:
        documents: path, domain and text of each file.
        held_out: text of each domain.
        about: versions that the content depends on.
    """

    documents: tuple[Document, ...]
    held_out: dict[str, str]
    about: str

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The files as a corpus."""
        return Corpus("pool", self.about, self.documents)

    @functools.cached_property
    def domains(self) -> NDArray[np.str_]:
        """Of each file. [N]."""
        return np.array([d.domain for d in self.documents])

    @functools.cached_property
    def texts(self) -> list[str]:
        """Of each file."""
        return [d.text for d in self.documents]


def evaluated(documents: Sequence[Document]) -> dict[str, str]:
    """Text of each domain that has enough of it, from source files in the order of a hash."""
    found: dict[str, str] = {}
    for document in sorted(documents, key=lambda d: files.sha256(d.path.encode())):
        there = found.get(document.domain, "")
        room = HELD_OUT - len(there)
        found[document.domain] = there + document.text[: max(0, room)]
    return {domain: text for domain, text in sorted(found.items()) if len(text) >= LEAST}


def made(read: Corpus, n: int) -> Pool:
    """The pool of a corpus.

    Raises:
        UserError: if there are fewer pieces.
    """
    parts: dict[bool, list[Document]] = {True: [], False: []}
    for document in read.documents:
        parts[corpus.part_of(document.path) == "train"].append(document)
    held_out = evaluated(parts[False])
    known: dict[str, Document] = {}
    for d in parts[True]:
        for i, text in enumerate(pieces(d.text)):
            if d.domain in held_out:
                known.setdefault(text, Document(f"{d.path}#{i}", d.domain, text))
    asked = [Document("", name, text) for name, text in held_out.items()]
    left = corpus.without_copies(list(known.values()), asked)
    if len(left) < n:
        raise UserError(f"{read.name} gives {len(left)} files, not {n}; ask for fewer --files")
    drawn = np.sort(np.random.default_rng(0).permutation(len(left))[:n])
    return Pool(tuple(left[i] for i in drawn), held_out, read.about)


@functools.cache
def pool(n: int, large: bool) -> Pool:
    """So many files, made once and kept."""
    read = sources(large)

    def make() -> str:
        found = made(read, n)
        plain = [[d.path, d.domain, d.text] for d in found.documents]
        return json.dumps({"documents": plain, "held_out": found.held_out})

    key = {"corpus": read.digest, "n": n, "size": SIZE, "held_out": HELD_OUT, "version": VERSION}
    found = json.loads(store.text("disf-pools", key, make))
    documents = tuple(Document(*entry) for entry in found["documents"])
    return Pool(documents, found["held_out"], read.about)


def tokenizer_of(files_: Pool, vocabulary: int) -> Tokenizer:
    """Byte-level BPE, learnt from the files."""
    return tokens.tokenizer(files_.corpus, vocabulary)


def numbers(texts: Sequence[str], made_by: Tokenizer, key: str) -> store.Arrays:
    """``ids``: tokens of all texts, <eos> after each; ``ends``: where each text ends."""

    def make() -> store.Arrays:
        rows = [[*ids, EOS_ID] for ids in made_by.encode(texts)]
        flat = np.fromiter((i for row in rows for i in row), dtype=np.uint16)
        return {"ids": flat, "ends": np.cumsum([len(row) for row in rows]).astype(np.int64)}

    parts = {"texts": key, "tokenizer": made_by.digest, "version": VERSION}
    return store.arrays("disf-tokens", parts, make)


def held_out_tokens(files_: Pool, made_by: Tokenizer) -> Tokens:
    """The text for evaluation in tokens, a document per domain."""
    names, texts = tuple(files_.held_out), list(files_.held_out.values())
    found = numbers(texts, made_by, store.key_of(texts=texts))
    starts = np.append(0, found["ends"][:-1]).astype(np.int64)
    return Tokens(found["ids"], starts, names, made_by)


__all__ = ["Pool", "held_out_tokens", "numbers", "pieces", "pool", "sources", "tokenizer_of"]
