"""Neuroplastic Expansion: networks that grow while they learn by reinforcement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.ne.trained import Policy


def load(run: str | Path, seed: int | None = None) -> Policy:
    """A trained policy: ``load("runs/…/seed-0-4").act(observations)``.

    Args:
        run: a finished run directory of ``papers.ne.train``.
        seed: one of those that it has trained; default: the first.

    Raises:
        UserError: if there is no finished run, it has no such seed, or trained no policy of states.
    """
    from papers.ne.trained import load_policy

    return load_policy(Path(run), seed)
