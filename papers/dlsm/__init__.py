"""DLSM: Denoising Likelihood Score Matching for Conditional Score-based Data Generation."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.dlsm.trained import Trained


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Trained:
    """The guided score model of a finished run of stage 2: one of its seeds (default: the first).

    It has ``log_prob`` (of the classes), ``score`` and ``sample``.

    Raises:
        UserError: if the run is not there, not finished, no run of a classifier, or has no such
            seed.
    """
    from papers.dlsm.trained import load as read

    return read(run_directory, seed)


__all__ = ["load"]
