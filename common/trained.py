"""What the papers' ``load`` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError


def seed_index(folder: Path, seeds: Sequence[int], seed: int | None) -> int:
    """Place of a seed among those that a run has trained side by side; the first for None.

    Args:
        folder: the run directory, for the message.
        seeds: of the run.
        seed: the one that is wanted.

    Raises:
        UserError: if the run has no such seed.
    """
    if seed is None:
        return 0
    if seed not in seeds:
        raise UserError(f"the run in {folder} has the seeds {tuple(seeds)}, not {seed}")
    return list(seeds).index(seed)
