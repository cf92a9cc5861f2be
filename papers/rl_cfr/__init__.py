"""RL-CFR: reinforcement learning chooses the bet sizes that CFR solves with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.rl_cfr.trained import Chooser


def load(run: str | Path, seed: int | None = None) -> Chooser:
    """An abstraction that a run has learned or prepared: ``load("runs/…/seed-0").choose(…)``.

    Args:
        run: a finished run directory of the task preflop43.
        seed: the run's own (a run of this paper has one).

    Raises:
        UserError: if there is no finished run, or it has another seed.
    """
    from papers.rl_cfr.trained import load_chooser

    return load_chooser(Path(run), seed)
