"""uniINF: best-of-both-worlds heavy-tailed bandits without parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.uniinf.trained import Learner


def load(run: str | Path, seed: int | None = None, alpha: float | None = None) -> Learner:
    """A learner where a run left it: ``load("runs/…/seed-0-2").choose()``.

    Args:
        run: a finished run directory.
        seed: one of its seeds; default: the first.
        alpha: one of its tail parameters; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed or alpha.
    """
    from papers.uniinf.trained import load_learner

    return load_learner(Path(run), seed, alpha)
