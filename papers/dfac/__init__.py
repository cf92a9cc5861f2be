"""DFAC: factorising the law of the joint return in multi-agent distributional Q-learning."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.dfac.trained import Policy


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Policy:
    """The agents that a finished run has learnt: ``load(folder).act(obs)``.

    Args:
        run_directory: of ``papers.dfac.train`` or ``papers.dfac.train_games``.
        seed: one of the run's seeds; default: its first.

    Raises:
        UserError: if the run is not finished, has no such seed, or has learnt nothing.
    """
    from pathlib import Path

    from papers.dfac import trained

    return trained.load(Path(run_directory), seed)
