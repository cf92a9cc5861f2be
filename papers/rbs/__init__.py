"""Retrospective backward synthesis for goal-conditioned GFlowNets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.rbs.trained import GoalSampler


def load(run: str | Path, seed: int | None = None) -> GoalSampler:
    """A trained sampler: ``load("runs/…/seed-0-1").sample([3, 4], 10)``.

    Args:
        run: a finished run directory.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.rbs.trained import load_sampler

    return load_sampler(Path(run), seed)
