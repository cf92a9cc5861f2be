"""EGFN: a population evolved for reward feeds the replay buffer of a GFlowNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.egfn.trained import Star


def load(run: str | Path, seed: int | None = None) -> Star:
    """A trained star: ``load("runs/…/seed-0-1").sample(1000)``.

    Args:
        run: a finished run directory of a hypergrid or of AB10.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.egfn.trained import load_star

    return load_star(Path(run), seed)
