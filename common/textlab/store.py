"""What is computed once and kept: arrays and text under a hash of everything they depend on.

A key is a mapping of names to plain values (strings, numbers, lists); two machines with the same
key have the same content. Files are safetensors and JSON below ``common.files.cache_root()``; a
damaged file is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from common import files

Arrays = dict[str, NDArray[Any]]


def key_of(**parts: Any) -> str:
    """SHA-256 of named plain values, whatever their order."""
    return files.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode())


def place(kind: str, key: str, suffix: str) -> Path:
    """Where something of a kind is kept."""
    return files.cache_root() / "textlab" / kind / f"{key[:32]}{suffix}"


def arrays(kind: str, parts: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """Arrays from the store, made first if they are not there.

    Args:
        kind: folder of the store.
        parts: everything that the arrays depend on.
        make: computes them.
    """
    path = place(kind, key_of(**parts), ".safetensors")
    with files.locked(path.with_suffix(".lock"), "", wait=True):
        if path.is_file():
            try:
                return safetensors.numpy.load_file(path)
            except (SafetensorError, OSError):
                path.unlink()
        made = {name: np.ascontiguousarray(array) for name, array in make().items()}
        files.write_bytes(path, safetensors.numpy.save(made))
    return made


def text(kind: str, parts: Mapping[str, Any], make: Callable[[], str]) -> str:
    """Text from the store, made first if it is not there."""
    path = place(kind, key_of(**parts), ".json")
    with files.locked(path.with_suffix(".lock"), "", wait=True):
        if path.is_file():
            content = path.read_text(encoding="utf-8")
            try:
                json.loads(content)
            except ValueError:
                path.unlink()
            else:
                return content
        content = make()
        files.write_text(path, content)
    return content


def sequence(
    path: Path, parts: Iterable[NDArray[Any]], dtype: Any, limit: int | None = None
) -> None:
    """An array file of parts that come one after the other; it appears whole or not at all.

    Args:
        path: of the ``.npy`` file.
        parts: each of one dimension; they are never all in memory.
        dtype: of the numbers.
        limit: no further part is asked for once so many numbers are there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    raw, there = path.with_suffix(".raw"), 0
    with raw.open("wb") as file:
        for part in parts:
            file.write(np.asarray(part, dtype=dtype).tobytes())
            there += len(part)
            if limit is not None and there >= limit:
                break
    made = path.with_suffix(".part")
    whole = np.lib.format.open_memmap(made, mode="w+", dtype=dtype, shape=(there,))
    if there:
        whole[:] = np.memmap(raw, dtype=dtype, mode="r")
    whole.flush()
    made.replace(path)
    raw.unlink()


__all__ = ["Arrays", "arrays", "key_of", "place", "sequence", "text"]
