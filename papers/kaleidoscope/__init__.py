"""Kaleidoscope: one network and a learnable mask per agent, for heterogeneous teams."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.kaleidoscope.trained import Actors, Team


def load(run_directory: str | PathLike[str]) -> Team | Actors:
    """The team that a finished run has trained: ``load(folder).act(obs)``, obs [..., N, O].

    Args:
        run_directory: of ``papers.kaleidoscope.train`` (a team with a memory: begin an episode
            with ``.reset()``) or of ``papers.kaleidoscope.train_matd3``.

    Raises:
        UserError: if the run is not finished, or has nothing that acts on observations.
    """
    from pathlib import Path

    from papers.kaleidoscope import trained

    return trained.load(Path(run_directory))
