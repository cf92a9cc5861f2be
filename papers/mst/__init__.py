"""MST: mixed sparsity training of transformers, counted in operations."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.mst.trained import LanguageModel


def load(run_directory: str | PathLike[str]) -> LanguageModel:
    """The language model that a finished run has trained: ``load(folder).score(text)``.

    Args:
        run_directory: of ``papers.mst.train``.

    Raises:
        UserError: if the run is not finished.
    """
    from pathlib import Path

    from papers.mst import trained

    return trained.load(Path(run_directory))
