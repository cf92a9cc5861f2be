"""Adversarial Network Optimization under Bandit Feedback: NSO and UMO²."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.umo2.trained import Scheduler


def load(run: str | Path, seed: int | None = None, setting: int = 0) -> Scheduler:
    """A scheduler as a run left it: ``load("runs/…/seed-0-19").act(queues)``.

    Args:
        run: a finished run directory.
        seed: one of its seeds; default: the first.
        setting: which of its settings (horizon, rho, kappa, V), in the order of its command line.

    Raises:
        UserError: if there is no finished run, or it has no such seed or setting.
    """
    from papers.umo2.trained import load_scheduler

    return load_scheduler(Path(run), seed, setting)
