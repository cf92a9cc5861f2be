"""MAST: value-based multi-agent learning with networks that are sparse from the first step."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.mast.trained import Team


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Team:
    """The team that a finished run has learnt: ``load(folder).act(seen)``.

    Args:
        run_directory: of ``papers.mast.train``.
        seed: of the run (it has one); default: that.

    Raises:
        UserError: if the run is not finished, or has another seed.
    """
    from pathlib import Path

    from papers.mast import trained

    return trained.load(Path(run_directory), seed)
