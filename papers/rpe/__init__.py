"""Random Policy Evaluation Uncovers Policies of GFlowNets (He, Bengio, Cai, Pan; ICML 2025)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.rpe.trained import Sampler


def load(run: str | Path, seed: int | None = None) -> Sampler:
    """A trained sampler: ``load("runs/…/seed-0-4").sample(10)``.

    Args:
        run: a finished run directory of an enumerated task.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.rpe.trained import load_sampler

    return load_sampler(Path(run), seed)
