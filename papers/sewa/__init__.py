"""SeWA: which of the last snapshots of a training to average, learnt by a probabilistic mask."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.sewa.trained import Averaged


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Averaged:
    """The averaged model of a finished run: ``load(folder).predict(inputs)``.

    Args:
        run_directory: of ``papers.sewa.train``.
        seed: one of the run's; default: its first.

    Raises:
        UserError: if the run is not finished, or the training that it chose from is gone.
    """
    from pathlib import Path

    from papers.sewa import trained

    return trained.load(Path(run_directory), seed)
