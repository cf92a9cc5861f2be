"""QGFN: Controllable Greediness with Action Values (Lau et al., NeurIPS 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.qgfn.trained import Sampler


def load(run: str | Path, seed: int | None = None) -> Sampler:
    """A trained pair of P_F and Q: ``load("runs/…/seed-0-1").sample(1000, p=0.9)``.

    Args:
        run: a finished run directory of a string task.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.qgfn.trained import load_sampler

    return load_sampler(Path(run), seed)
