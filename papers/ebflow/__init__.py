"""Training Energy-Based Normalizing Flow with Score-Matching Objectives (Chao et al. 2023)."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.ebflow.trained import Trained


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Trained:
    """The flow of a finished run, one of its seeds (default: the first).

    It has ``sample``, ``log_prob``, ``score`` and, for images, ``impute``.

    Raises:
        UserError: if the run is not there, not finished, or has no such seed.
    """
    from papers.ebflow.trained import load as read

    return read(run_directory, seed)


__all__ = ["load"]
