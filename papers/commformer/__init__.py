"""CommFormer: a learned communication graph for multi-agent reinforcement learning."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.commformer.trained import Team


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Team:
    """The team that a finished run has trained: ``load(folder).act(obs)``.

    Args:
        run_directory: of ``papers.commformer.train``.
        seed: one of the run's seeds; default: its first.

    Raises:
        UserError: if the run is not finished, has no such seed, or no network.
    """
    from pathlib import Path

    from papers.commformer import trained

    return trained.load(Path(run_directory), seed)
