"""LIAR: pruned models reconstructed by linear interpolation of the weights that are left."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.liar.trained import Decoder, Encoder


def load(run_directory: str | PathLike[str]) -> Encoder | Decoder:
    """The pruned model of a finished run: ``load(folder).embed(texts)``, ``.perplexity(text)``.

    Args:
        run_directory: of ``papers.liar.train``; its first setting's model, or that of ``--keep``.

    Raises:
        UserError: if the run is not finished, or nothing was pruned.
    """
    from pathlib import Path

    from papers.liar import trained

    return trained.load(Path(run_directory))
