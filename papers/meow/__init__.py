"""MEow: maximum-entropy reinforcement learning by an energy-based normalizing flow."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.meow.trained import Policy


def load(run_directory: str | PathLike[str], seed: int | None = None) -> Policy:
    """The policy that a finished run has learnt: ``load(folder).act(obs)``.

    Args:
        run_directory: of ``papers.meow.train``.
        seed: one of the run's seeds; default: its first.

    Raises:
        UserError: if the run is not finished, or has no such seed.
    """
    from pathlib import Path

    from papers.meow import trained

    return trained.load(Path(run_directory), seed)
