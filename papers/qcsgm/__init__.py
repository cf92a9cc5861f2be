"""QCSBM: On Investigating the Conservative Property of Score-Based Generative Models."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.qcsgm.trained import Trained


def load(
    run_directory: str | PathLike[str], seed: int | None = None, lam: float | None = None
) -> Trained:
    """The score model of a finished run: one of its seeds and weights (default: the first).

    It has ``score``, ``sample``, ``log_prob`` and ``asymmetry``.

    Raises:
        UserError: if the run is not there, not finished, no run of a score model, or has no such
            member.
    """
    from papers.qcsgm.trained import load as read

    return read(run_directory, seed, lam)


__all__ = ["load"]
