"""The paper's files: SlimPajama with Contriever's features and LLaMA's tokenizer.

A group of files is one file of the data set (some ten thousand texts). Features are made group by
group and kept, so that a run that was stopped goes on, and several share the work. Texts are read
as a stream: 590 million of them fit into no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common import files
from common.errors import UserError
from common.textlab import public, store, tokens
from papers.disf import features
from papers.disf.method import Files, Indices
from papers.disf.task import Task

NAME, TOKENIZER = "cerebras/SlimPajama-627B", "huggyllama/llama-7b"  # on the hub
SEEN = 10_000  # texts for evaluation: the first ones of the validation part
FIELD = "redpajama_set_name"  # where a text comes from


def rows(name: str) -> Iterator[dict[str, Any]]:
    """The lines of one file, as a stream."""
    import datasets

    yield from datasets.load_dataset("json", data_files=name, split="train", streaming=True)


def domain(row: dict[str, Any]) -> str:
    """Where a text comes from."""
    return str((row.get("meta") or {}).get(FIELD, "text"))


@dataclass(frozen=True)
class Vectors:
    """Features of all groups, of which a slice is read when it is asked for.

    Attributes:
        names: of the data set's files.
        ends: where each group ends.
        task: says which encoder.
        device: where it works.
    """

    names: tuple[str, ...]
    ends: tuple[int, ...]
    task: Task
    device: str

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, at: slice | Indices) -> NDArray[np.float32]:
        """Features of one whole group, a slice, or of files by their sorted numbers."""
        if isinstance(at, slice):
            return self.group(int(np.searchsorted(self.ends, at.start, side="right")))
        groups = np.searchsorted(self.ends, at, side="right")
        starts = (0, *self.ends)
        parts = [self.group(int(g))[at[groups == g] - starts[g]] for g in np.unique(groups)]
        return np.concatenate(parts)

    def group(self, number: int) -> NDArray[np.float32]:
        """Features of one file of the data set."""
        name = self.names[number]

        def texts() -> list[str]:
            return [row["text"] for row in rows(name)]

        kind, limit = self.task.features, self.task.pieces
        return features.group(kind, name, limit, self.device, texts)

    def __array__(self, *_: Any, **__: Any) -> NDArray[np.float32]:
        raise UserError("this selection looks at all files at once: too many here; choose another")


@dataclass(frozen=True)
class Stream:
    """All texts, one after the other, as often as they are asked for."""

    names: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        for name in self.names:
            for row in rows(name):
                yield row["text"]


@dataclass
class SlimPajama:
    """See :class:`papers.disf.source.Source`.

    Attributes:
        files: what can be selected.
        tokenizer: of transformers.
        length: of a window.
        names: of the data set's files.
        validation: those of its validation part.
    """

    files: Files
    tokenizer: Any
    length: int
    names: tuple[str, ...]
    validation: tuple[str, ...]

    def numbers(self, texts: Sequence[str]) -> Iterator[NDArray[np.uint16]]:
        """Tokens of each text, the end token after it."""
        end = self.tokenizer.eos_token_id
        for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
            yield np.array([*ids, end], dtype=np.uint16)

    def packed(self, chosen: Indices, seed: int, limit: int) -> NDArray[np.uint16]:
        """See ``Source.packed``. Data-set files come in an order of the seed, texts within them
        too; the result lies on disk.
        """
        path = files.cache_root() / "disf" / f"{store.key_of(**self._key(chosen, seed, limit))}.npy"
        with files.locked(path.with_suffix(".lock"), "", wait=True):
            if not path.is_file():
                store.sequence(path, self._texts(chosen, seed), np.uint16, limit)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def _key(self, chosen: Indices, seed: int, limit: int) -> dict[str, Any]:
        said = files.sha256(np.ascontiguousarray(chosen).tobytes())
        return {"names": list(self.names), "chosen": said, "seed": seed, "limit": limit}

    def _texts(self, chosen: Indices, seed: int) -> Iterator[NDArray[np.uint16]]:
        rng, spans = np.random.default_rng([seed, 2]), self.files.spans
        for number in rng.permutation(len(spans)):
            a, b = spans[number]
            wanted = chosen[np.searchsorted(chosen, a) : np.searchsorted(chosen, b)] - a
            if len(wanted):
                texts = [row["text"] for row in rows(self.names[number])]
                yield from self.numbers([texts[i] for i in rng.permutation(wanted)])

    def windows(self, limit: int) -> dict[str, Tensor]:
        """See ``Source.windows``."""
        found: dict[str, list[NDArray[np.uint16]]] = {}
        seen = 0
        for name in self.validation:
            for row in rows(name):
                part = found.setdefault(domain(row), [])
                if sum(map(len, part)) <= limit * self.length:
                    part += self.numbers([row["text"]])
                seen += 1
                if seen >= SEEN:
                    break
            if seen >= SEEN:
                break
        long = {name: np.concatenate(part) for name, part in sorted(found.items())}
        return {
            name: tokens.fixed_windows(ids, self.length, limit)
            for name, ids in long.items()
            if len(ids) > self.length
        }

    def bytes_of(self, windows: Tensor) -> int:
        """See ``Source.bytes_of``."""
        texts = self.tokenizer.batch_decode(windows[:, 1:].tolist())
        return sum(len(text.encode()) for text in texts)


def sizes(names: Sequence[str]) -> tuple[tuple[int, ...], NDArray[np.str_]]:
    """Where each group ends, and the domain of each file; read once and kept."""
    ends, found, at = list[int](), list[NDArray[np.str_]](), 0
    for name in names:

        def make(name: str = name) -> store.Arrays:
            there = "\n".join(domain(row) for row in rows(name))
            return {"domains": np.frombuffer(there.encode(), dtype=np.uint8)}

        kept = store.arrays("disf-domains", {"name": name, "version": features.VERSION}, make)
        part = np.array(kept["domains"].tobytes().decode().split("\n"))
        at += len(part)
        ends.append(at)
        found.append(part)
    return tuple(ends), np.concatenate(found)


def source(task: Task, device: str) -> SlimPajama:
    """SlimPajama, or as many of its files as hold ``task.files`` texts.

    Raises:
        UserError: for what cannot be had.
    """
    names, validation = (
        public.parts(NAME, f"{part}/**/*.jsonl*") for part in ("train", "validation")
    )
    made_by = public.tokenizer(TOKENIZER)
    if len(made_by) > task.vocabulary:
        raise UserError(f"the tokenizer has {len(made_by)} tokens, the model {task.vocabulary}")
    ends, domains = sizes(names)
    if task.files:
        n = int(np.searchsorted(ends, task.files)) + 1
        ends, names = ends[:n], names[:n]
        domains = domains[: ends[-1]]
    there = tuple(names)
    vectors: Any = Vectors(there, ends, task, device)
    chosen_from = Files(vectors, Stream(there), domains, ends)
    return SlimPajama(chosen_from, made_by, task.length, there, tuple(validation))


__all__ = ["SlimPajama", "domain", "rows", "source"]
