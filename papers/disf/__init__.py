"""DiSF: diversified file selection against dimensional collapse of training text."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.disf.trained import Selection


def load(run_directory: str | PathLike[str]) -> Selection:
    """The selection of a finished run, and its model: ``load(folder).select(texts)``.

    Args:
        run_directory: of ``papers.disf.train``.

    Raises:
        UserError: if the run is not finished, or trained nothing.
    """
    from pathlib import Path

    from papers.disf import trained

    return trained.load(Path(run_directory))
