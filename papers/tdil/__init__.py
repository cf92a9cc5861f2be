"""TDIL: expert proximity as surrogate reward for imitation from a single demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.tdil.trained import Imitation


def load(run: str | Path, seed: int | None = None) -> Imitation:
    """A trained policy and its reward: ``load("runs/…/seed-0-1").act(observations)``.

    Args:
        run: a finished run directory.
        seed: one of those that it has trained; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.tdil.trained import load_imitation

    return load_imitation(Path(run), seed)
