"""Bifurcated Generative Flow Networks (Li, Liu, Liu, Cai, Pan; 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.bn.trained import Sampler


def load(run: str | Path, seed: int | None = None) -> Sampler:
    """A trained sampler: ``load("runs/…/seed-0-4").sample(1000)``.

    Args:
        run: a finished run directory of an enumerated task.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.bn.trained import load_sampler

    return load_sampler(Path(run), seed)
