"""BVVI: risk-sensitive RL in partially observable environments with hindsight observation."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.bvvi.trained import Trained


def load(
    run_directory: str | PathLike[str],
    seed: int = 0,
    gamma: float | None = None,
    c: float | None = None,
) -> Trained:
    """The policy that a finished run has learnt: ``load(folder).act([o_1, ..., o_h])``.

    Args:
        run_directory: of ``papers.bvvi.train``.
        seed: one of the run's seeds.
        gamma: one of its risk parameters; default: its first.
        c: one of its bonus scales; default: its first.

    Raises:
        UserError: if the run is not finished, or has no such seed, gamma or c.
    """
    from pathlib import Path

    from papers.bvvi import trained

    return trained.load(Path(run_directory), seed, gamma, c)
