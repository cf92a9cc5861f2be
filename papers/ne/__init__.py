"""ne: one sentence on what it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.ne.trained import Trained


def load(run: str | Path, seed: int | None = None) -> Trained:
    """What a run has made, ready for use.

    Args:
        run: a finished run directory.
        seed: one of its seeds; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed.
    """
    from papers.ne.trained import load_trained

    return load_trained(Path(run), seed)
