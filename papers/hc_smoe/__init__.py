"""HC-SMoE: retraining-free merging of sparse mixtures of experts by hierarchical clustering."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.hc_smoe.trained import Mixture


def load(
    run_directory: str | PathLike[str], seed: int | None = None, kept: float | None = None
) -> Mixture:
    """The mixture that a finished run has made: ``load(folder).score(text)``.

    Args:
        run_directory: of ``papers.hc_smoe.train``.
        seed: one of the run's seeds; default: its first.
        kept: one of the run's shares of experts; default: its first.

    Raises:
        UserError: if the run is not finished, or has no such seed or share.
    """
    from pathlib import Path

    from papers.hc_smoe import trained

    return trained.load(Path(run_directory), seed, kept)
