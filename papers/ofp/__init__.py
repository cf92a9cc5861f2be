"""One-Step Flow Policy: an action chunk in one network call, trained without a teacher model."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.ofp.trained import Trained


def load(run_directory: str | PathLike[str], seed: int | None = None, nfe: int = 1) -> Trained:
    """A trained policy: ``load("runs/…").act(frames)``, ``.reset()`` when an episode begins.

    Args:
        run_directory: a finished run of ``papers.ofp.train``.
        seed: one of those that the run has trained (with their offset); default: the first.
        nfe: network calls per chunk.

    Raises:
        UserError: if there is no finished run, or it has no such seed or number of calls.
    """
    from papers.ofp.trained import load as read

    return read(run_directory, seed, nfe)


__all__ = ["load"]
