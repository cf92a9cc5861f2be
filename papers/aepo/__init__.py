"""Analytic energy-guided policy optimisation: offline policies by guided diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.aepo.trained import Actor


def load(run: str | Path, seed: int | None = None, w: float | None = None) -> Actor:
    """A trained policy: ``load("runs/…/seed-0-2").act(observations)``.

    Args:
        run: a finished run directory of ``papers.aepo.train``; its behaviour and critic are looked
            for where its training found them.
        seed: one of those that it has trained; default: the first.
        w: guidance scale, one of those that it was evaluated at; default: the first.

    Raises:
        UserError: if there is no finished run, or it has no such seed or scale.
    """
    from papers.aepo.trained import load_actor

    return load_actor(Path(run), seed, w)
