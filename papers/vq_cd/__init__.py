"""VQ-CD: continual offline reinforcement learning by shares of weights on quantised spaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.vq_cd.trained import Agent


def load(run: str | Path, seed: int | None = None) -> Agent:
    """A trained planner: ``load(folder)``, then ``act(observations, task)`` every step.

    Args:
        run: a finished run directory of ``papers.vq_cd.train``.
        seed: one of those that it was trained with; default: the first.

    Raises:
        UserError: if there is no finished run, it has no such seed, or nothing was learned in it.
    """
    from papers.vq_cd.trained import load_agent

    return load_agent(Path(run), seed)
