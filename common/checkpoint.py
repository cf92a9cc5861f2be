"""Checkpoints: nested trees of tensors, arrays and plain values in one safetensors file.

The file's name is ``step-STEP-DIGEST.safetensors``, that of a run's last checkpoint
``step-STEP-final-DIGEST.safetensors``: STEP is the number of steps done, DIGEST the first 16 digits
of the SHA-256 of the content, so damage is noticed before anything is used, and a file is either
whole under its name or not there at all. Loading never executes code.

A tensor is named in the file by its path in the tree ("net/0.weight"), for other tools; the tree
itself, with everything that is no tensor, is JSON in the file's header.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from common import files

NAME = re.compile(r"step-(\d{1,18})-(final-)?([0-9a-f]{16})\.safetensors")


def _store(array: np.ndarray, path: str, arrays: dict[str, np.ndarray]) -> str:
    """Put ``array`` among the arrays by its path; returns the name it got."""
    wanted = path.encode(errors="replace").decode() or "tensor"
    taken = {*arrays, "__metadata__"}  # the one name that the format keeps for itself
    name, number = wanted, 1
    while name in taken:  # a key that holds a slash may look like another path
        number += 1
        name = f"{wanted}~{number}"
    arrays[name] = array
    return name


def _encode(value: Any, arrays: dict[str, np.ndarray], path: str = "") -> Any:
    """Plain JSON for ``value``; arrays are moved to ``arrays`` and referred to by name."""

    def inner(key: Any, item: Any) -> Any:
        return _encode(item, arrays, f"{path}/{key}" if path else str(key))

    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        array = np.array(value.detach().cpu().numpy(), order="C")
        return {"$torch": _store(array, path, arrays)}
    if isinstance(value, np.ndarray):
        return {"$numpy": _store(np.array(value, order="C"), path, arrays)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: inner(key, item) for key, item in value.items()}
        return {"$dict": [[key, inner(key, item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [inner(i, item) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [inner(i, item) for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} ({path})")


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Inverse of :func:`_encode`."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "$numpy" in value:
        return arrays[value["$numpy"]].copy()
    if "$torch" in value:
        import torch

        return torch.from_numpy(arrays[value["$torch"]].copy())
    if "$tuple" in value:
        return tuple(_decode(item, arrays) for item in value["$tuple"])
    if "$dict" in value:
        return {key: _decode(item, arrays) for key, item in value["$dict"]}
    return {key: _decode(item, arrays) for key, item in value.items()}


def save(folder: Path, step: int, tree: Any, note: dict[str, Any], *, last: bool = False) -> Path:
    """Write ``tree`` as the checkpoint of ``step`` and remove all but the last two.

    Args:
        folder: where checkpoints live.
        step: non-negative; orders the checkpoints.
        tree: nested dicts, lists and tuples of torch tensors, numpy arrays, numbers of any size,
            strings, booleans and None.
        note: JSON values that go with the checkpoint and not into the tree.
        last: it is the run's last, newer than others of the same step.

    Returns:
        The file's path.
    """
    arrays: dict[str, np.ndarray] = {}
    header = json.dumps({"tree": _encode(tree, arrays), "step": step, "note": note})
    data = safetensors.numpy.save(arrays, {"checkpoint": header})
    digest = ("final-" if last else "") + files.sha256(data)[:16]
    path = folder / f"step-{step:012d}-{digest}.safetensors"
    files.write_bytes(path, data)
    others = [other for other in newest_first(folder) if other != path]
    for old in others[1:]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> tuple[int, Any, dict[str, Any]] | None:
    """``(step, tree, note)`` of a checkpoint, or None if it is missing, damaged or none of ours."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if files.sha256(data)[:16] != path.stem.rsplit("-", 1)[-1]:
        return None
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["checkpoint"])
        arrays = safetensors.numpy.load(data)
        step, tree, note = header["step"], _decode(header["tree"], arrays), header["note"]
    except (
        *(struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError),
        *(RecursionError, OverflowError, MemoryError, safetensors.SafetensorError),
    ):
        return None
    if not isinstance(step, int) or not isinstance(note, dict):
        return None
    return step, tree, note


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of ``folder``, newest first; files of other names are none."""
    paths = folder.glob("step-*")
    found = [(match, path) for path in paths if (match := NAME.fullmatch(path.name))]
    key = {path: (int(match[1]), bool(match[2]), match[3]) for match, path in found}
    return sorted(key, key=key.__getitem__, reverse=True)


def step_of(path: Path) -> int:
    """The number of steps done at a checkpoint."""
    return int(path.name.split("-")[1])
