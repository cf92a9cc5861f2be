"""RS-DisRL (Chen et al., ICML 2024): risk-sensitive distributional RL with static risk measures."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.rs_disrl.trained import Trained


def load(run_directory: str | PathLike[str], seed: int = 0, risk: str | None = None) -> Trained:
    """What a finished run plays in the end: ``load(folder).act(step, state, so_far)``.

    Args:
        run_directory: of ``papers.rs_disrl.train``.
        seed: one of the run's seeds.
        risk: one of its risk measures; default: its first.

    Raises:
        UserError: if the run is not finished, or has no such seed or measure.
    """
    from pathlib import Path

    from papers.rs_disrl import trained

    return trained.load(Path(run_directory), seed, risk)
