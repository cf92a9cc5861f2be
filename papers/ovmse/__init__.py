"""OVMSE: offline-to-online multi-agent RL with value memory and sequential exploration."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.ovmse.trained import Team


def load(run_directory: str | PathLike[str]) -> Team:
    """The team that a finished run of any stage has learnt: ``load(folder).act(obs)``.

    Args:
        run_directory: of ``papers.ovmse.generate``, ``pretrain`` or ``train``.

    Raises:
        UserError: if the run is not finished.
    """
    from pathlib import Path

    from papers.ovmse import trained

    return trained.load(Path(run_directory))
