"""Data sets of episodes: one .npz file without pickle, with a header that says where it comes from.

The file holds the arrays of :func:`common.marl.episodes.joined` and ``header``, JSON as bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import files
from common.errors import UserError
from common.marl.episodes import SEEN, Episode, divided, joined, outcomes

HEADER = "header"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Header:
    """What is known of a data set.

    Attributes:
        task: the environment, as in ``common.marl.environments.make_env``.
        seed: of the behaviour's training and of the episodes.
        behaviour: who acted ("QMIX", "replay buffer of QMIX", ...).
        epsilon: share of random actions of each agent; None where it changed.
        checkpoint: environment steps that the behaviour had been trained for.
        win_rate: share of the episodes that were won.
        mean_return: undiscounted.
        episodes: how many.
        steps: environment steps of all of them.
        sha256: of the arrays.
    """

    task: str
    seed: int
    behaviour: str
    epsilon: float | None
    checkpoint: int
    win_rate: float
    mean_return: float
    episodes: int
    steps: int
    sha256: str


def digest(arrays: Arrays) -> str:
    """SHA-256 of names, types, shapes and values, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def write(
    path: Path,
    episodes: Sequence[Episode],
    *,
    task: str,
    seed: int,
    behaviour: str,
    epsilon: float | None,
    checkpoint: int,
) -> Header:
    """Write a data set; the file appears whole or not at all.

    Args:
        path: ends in .npz.
        episodes: one at least.
        task, seed, behaviour, epsilon, checkpoint: see :class:`Header`.

    Raises:
        ValueError: if there is no episode.
    """
    if not episodes:
        raise ValueError("a data set needs an episode")
    arrays = joined(episodes)
    ended = outcomes(episodes)
    header = Header(
        task=task,
        seed=seed,
        behaviour=behaviour,
        epsilon=epsilon,
        checkpoint=checkpoint,
        win_rate=float(ended.won.mean()),
        mean_return=float(ended.returns.mean()),
        episodes=len(episodes),
        steps=int(ended.lengths.sum()),
        sha256=digest(arrays),
    )
    text = json.dumps(dataclasses.asdict(header)).encode()
    data = io.BytesIO()
    np.savez_compressed(data, **{HEADER: np.frombuffer(text, np.uint8)}, **arrays)
    files.write_bytes(path, data.getvalue())
    return header


def read(path: Path) -> tuple[list[Episode], Header]:
    """The episodes of a data set and its header.

    Raises:
        UserError: if it is not there, or damaged.
    """
    arrays, header = _opened(path)
    try:
        if digest(arrays) != header.sha256:
            raise ValueError("its arrays are not those that were written")
        _check_lengths(arrays, header)
        return divided(arrays), header
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def read_header(path: Path) -> Header:
    """The header alone; nothing else is read.

    Raises:
        UserError: if it is not there, or damaged.
    """
    return _opened(path, only_header=True)[1]


def _opened(path: Path, *, only_header: bool = False) -> tuple[dict[str, Any], Header]:
    if not path.is_file():
        raise UserError(f"there is no data set at {path}; make it, or name another")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [HEADER] if only_header else archive.files
            arrays = {name: archive[name] for name in names}
        header = _header(json.loads(arrays.pop(HEADER).tobytes()))
    except (
        *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError),
        *(RuntimeError, zipfile.BadZipFile, zlib.error),
    ) as error:
        raise _damaged(path, error) from error
    return arrays, header


def _header(values: Any) -> Header:
    """A header out of JSON values, each of its kind."""
    numbers = {"seed": int, "checkpoint": int, "episodes": int, "steps": int}
    if not isinstance(values, dict):
        raise ValueError("its header is no table")
    header = Header(**values)
    for name, kind in {**numbers, "task": str, "behaviour": str, "sha256": str}.items():
        if not isinstance(getattr(header, name), kind):
            raise ValueError(f"'{name}' of its header is {getattr(header, name)!r}")
    return header


def _check_lengths(arrays: Arrays, header: Header) -> None:
    """That every array is as long as the episodes say."""
    lengths = arrays["lengths"]
    if len(lengths) != header.episodes or int(lengths.sum()) != header.steps:
        raise ValueError("its header is of other episodes")
    for name, array in arrays.items():
        wanted = header.steps + header.episodes * (name in SEEN)
        if name not in ("lengths", "won") and len(array) != wanted:
            raise ValueError(f"'{name}' has {len(array)} entries, not {wanted}")


def _damaged(path: Path, error: BaseException) -> UserError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{path} is damaged ({why}); remove it and make it again")


def card(header: Header, title: str = "") -> str:
    """A data set on a few lines of Markdown."""
    epsilon = "changing" if header.epsilon is None else f"{header.epsilon:g}"
    lines = [
        ("task", header.task),
        ("behaviour", f"{header.behaviour}, after {header.checkpoint:,} environment steps"),
        ("exploration", f"epsilon {epsilon}"),
        ("win rate", f"{header.win_rate:.3f}"),
        ("mean return", f"{header.mean_return:.3f}"),
        ("size", f"{header.episodes:,} episodes, {header.steps:,} steps"),
        ("seed", str(header.seed)),
        ("SHA-256 of the arrays", f"`{header.sha256}`"),
    ]
    body = "\n".join(f"| {name} | {value} |" for name, value in lines)
    head = f"### {title}\n\n" if title else ""
    return f"{head}| | |\n| --- | --- |\n{body}\n"


__all__ = ["Header", "card", "digest", "read", "read_header", "write"]
