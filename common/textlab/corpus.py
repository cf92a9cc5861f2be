"""Text that every machine has: sources of Python's standard library and of installed packages.

Documents are files. They are divided into training, validation and test text **by file**, by a
hash of the path, so that no file is in two parts; documents of the training part that share half
of their 8-grams of words with the other parts are left out of it, since packages copy functions
from each other. What a corpus is depends on the Python that runs: :attr:`Corpus.about` says which,
and its digest is a hash over the hashes of the files.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import files
from common.errors import UserError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
TESTS = {"test", "tests", "idle_test"}  # folders
GRAM, COPIED = 8, 0.5  # words; share of them that makes a document a copy
DOMAINS = {  # top-level packages of the standard library by what they are about
    "concurrency": "asyncio concurrent multiprocessing threading selectors sched queue",
    "network": "email http urllib wsgiref xmlrpc ftplib imaplib poplib smtplib",
    "markup": "xml html json tomllib csv plistlib configparser",
    "numeric": "decimal _pydecimal fractions statistics random numbers colorsys",
    "tooling": "distutils ensurepip idlelib lib2to3 pydoc_data unittest venv zipapp pdb ctypes",
    "encodings": "encodings",
}
DOMAIN_OF = {name: domain for domain, names in DOMAINS.items() for name in names.split()}


@dataclass(frozen=True)
class Document:
    """A file.

    Attributes:
        path: relative to where the corpus begins, with forward slashes.
        domain: what it is about.
        text: its content.
    """

    path: str
    domain: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their paths.

    Attributes:
        name: what was read.
        about: versions that the content depends on.
        documents: all of them.
    """

    name: str
    about: str
    documents: tuple[Document, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over paths and contents."""
        lines = (f"{d.path} {files.sha256(d.text.encode())}\n" for d in self.documents)
        return files.sha256("".join(lines).encode())

    @functools.cached_property
    def parts(self) -> dict[Part, tuple[Document, ...]]:
        """Training, validation and test documents, disjoint by file and without copies."""
        made: dict[Part, list[Document]] = {part: [] for part in PARTS}
        for document in self.documents:
            made[part_of(document.path)].append(document)
        kept_out = [d for part in PARTS[1:] for d in made[part]]
        made["train"] = without_copies(made["train"], kept_out)
        return {part: tuple(documents) for part, documents in made.items()}


def part_of(path: str) -> Part:
    """The part of a file, by the first 32 bits of the SHA-256 of its path."""
    at = int(files.sha256(path.encode())[:8], 16) / 2**32
    for part in PARTS:
        at -= SHARES[part]
        if at < 0:
            return part
    return PARTS[-1]


def grams(text: str) -> set[int]:
    """Hashes of the runs of 8 words of a text."""
    words = text.split()
    return {hash(tuple(words[i : i + GRAM])) for i in range(len(words) - GRAM + 1)}


def without_copies(documents: Sequence[Document], others: Iterable[Document]) -> list[Document]:
    """The documents of which less than half of the 8-grams of words stand in ``others``."""
    known: set[int] = set()
    for document in others:
        known |= grams(document.text)
    kept = []
    for document in documents:
        own = grams(document.text)
        if len(own & known) < COPIED * max(len(own), 1):
            kept.append(document)
    return kept


def read(root: Path, suffixes: Sequence[str]) -> list[tuple[str, str]]:
    """Paths below ``root`` and texts of the files that can be read as UTF-8, sorted by path."""
    found = []
    for path in sorted(p for suffix in suffixes for p in root.rglob(f"*{suffix}")):
        relative = path.relative_to(root)
        if {"site-packages", "__pycache__"} & set(relative.parts) or not path.is_file():
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            found.append((relative.as_posix(), text))
    return found


def domain_of(path: str) -> str:
    """What a file of the standard library is about."""
    parts = path.split("/")
    if TESTS & set(parts[:-1]):
        return "test"
    return DOMAIN_OF.get(parts[0].removesuffix(".py"), "core")


@functools.cache
def standard_library(*, tests: bool = False) -> Corpus:
    """Sources of the standard library, with or without its tests (12 and 31 MB in 3.11)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = (Document(p, domain_of(p), text) for p, text in read(root, [".py"]))
    kept = tuple(d for d in documents if tests or d.domain != "test")
    name = "standard library" + " with tests" * tests
    return Corpus(name, f"Python {platform.python_version()}", kept)


@functools.cache
def installed(*packages: str, suffixes: tuple[str, ...] = (".py",)) -> Corpus:
    """Sources of installed packages; the domain is the package.

    Raises:
        UserError: if a package is not installed.
    """
    documents: list[Document] = []
    versions = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the package {package} is not installed: make setup PAPER=...")
        versions.append(f"{package} {importlib.metadata.version(package)}")
        root = Path(spec.submodule_search_locations[0])
        texts = read(root, suffixes)
        documents += [Document(f"{package}/{path}", package, text) for path, text in texts]
    return Corpus(" + ".join(packages), ", ".join(versions), tuple(documents))


def folder(relative: str, suffixes: tuple[str, ...] = (".txt", ".md", ".py")) -> Corpus:
    """Text files below ``$PAPERS_DATA/relative``; the domain is the first folder.

    Raises:
        UserError: if they are not there.
    """
    root = files.find_data(relative, "text", "any folder of text files")
    found = read(root, suffixes)
    if not found:
        raise UserError(f"{root} holds no text ({', '.join(suffixes)})")
    documents = tuple(Document(p, p.split("/")[0] if "/" in p else "text", t) for p, t in found)
    return Corpus(relative, relative, documents)


def joined(*corpora: Corpus) -> Corpus:
    """All documents of several corpora, with their names before the paths."""
    documents = tuple(
        Document(f"{c.name}/{d.path}", d.domain, d.text) for c in corpora for d in c.documents
    )
    return Corpus(
        " + ".join(c.name for c in corpora), ", ".join(c.about for c in corpora), documents
    )


__all__ = [
    "PARTS",
    "Corpus",
    "Document",
    "Part",
    "folder",
    "grams",
    "installed",
    "joined",
    "part_of",
    "standard_library",
    "without_copies",
]
