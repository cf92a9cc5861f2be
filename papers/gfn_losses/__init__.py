"""Beyond Squared Error: regression losses for GFlowNets and the f-divergences they minimise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.gfn_losses.trained import Sampler


def load(run: str | Path, seed: int | None = None) -> Sampler:
    """A trained sampler: ``load("runs/…/seed-0-19").sample(1000)``.

    Args:
        run: a finished run directory.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.gfn_losses.trained import load_sampler

    return load_sampler(Path(run), seed)
