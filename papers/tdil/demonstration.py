"""Demonstrations on disk: an .npz without pickle, and beside it a card that says what made it."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import files
from common.errors import UserError

FOLDER = Path(__file__).parent / "demonstrations"
ARRAYS = ("observations", "actions", "next_observations", "rewards")


@dataclass(frozen=True)
class Demonstration:
    """One episode of the expert; the rewards are for reports only."""

    observations: NDArray[np.float32]  # [T, d]
    actions: NDArray  # [T, A] in the environment's units, or [T] for discrete ones
    next_observations: NDArray[np.float32]  # [T, d]
    rewards: NDArray[np.float32]  # [T]

    def __len__(self) -> int:
        return len(self.rewards)

    def first(self, n: int) -> Demonstration:
        """Its first n steps."""
        return Demonstration(**{name: getattr(self, name)[:n] for name in ARRAYS})


def digest(arrays: Mapping[str, NDArray]) -> str:
    """SHA-256 of the arrays in the order of ``ARRAYS``, as little-endian float32."""
    sha = hashlib.sha256()
    for name in ARRAYS:
        sha.update(np.ascontiguousarray(arrays[name], dtype="<f4").tobytes())
    return sha.hexdigest()


def save(stem: Path, arrays: Mapping[str, NDArray], card: Mapping[str, Any]) -> None:
    """Write ``<stem>.npz`` and ``<stem>.json``, the card with the arrays' hash."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in ARRAYS})
    files.write_bytes(stem.with_suffix(".npz"), buffer.getvalue())
    files.write_json(stem.with_suffix(".json"), {**card, "sha256": digest(arrays)}, indent=2)


def load(env: str, obtain: str | None = None) -> Demonstration:
    """The demonstration of a Gymnasium environment: ``$PAPERS_DATA/tdil``, else this folder's own.

    Args:
        env: the environment's id, as in ``expert-hopper-v5.npz``.
        obtain: what to do when there is none; default: how to make it.

    Raises:
        UserError: if it is missing, or is not what its card says.
    """
    name = f"expert-{env.lower()}"
    roots = [Path(root) / "tdil"] if (root := os.environ.get("PAPERS_DATA")) else []
    for folder in (*roots, FOLDER):
        path = folder / f"{name}.npz"
        if path.is_file():
            return _verified(path)
    make = (
        "make expert PAPER=tdil"
        if env == "Hopper-v5"
        else f"python -m papers.tdil.expert --env {env}"
    )
    raise UserError(
        f"the expert's demonstration {name}.npz is neither in {FOLDER} nor in $PAPERS_DATA/tdil; "
        + (obtain or f"make it with '{make}'")
    )


def _verified(path: Path) -> Demonstration:
    card = path.with_suffix(".json")
    if not card.is_file():
        raise UserError(
            f"{path} has no card {card.name} with its hash; put both back or make it anew"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{path} is damaged ({error}); put it back or make it anew") from error
    if digest(arrays) != files.read_json(card).get("sha256"):
        raise UserError(
            f"{path} is not the file of its card {card.name}; put it back or make it anew"
        )
    return Demonstration(**arrays)
