"""CompoFormer: policies of earlier tasks, composed by attention, for tasks that come one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.compoformer.trained import Policy


def load(run: str | Path, seed: int | None = None) -> Policy:
    """A trained policy: ``load(folder)``, then ``begin(task, n)`` and ``act(...)`` every step.

    Args:
        run: a finished run directory of ``papers.compoformer.train``.
        seed: that it was trained with, to be sure.

    Raises:
        UserError: if there is no finished run, it has another seed, or nothing was learned in it.
    """
    from papers.compoformer.trained import load_policy

    return load_policy(Path(run), seed)
