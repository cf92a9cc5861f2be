"""A merged mixture, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common import files
from common.errors import UserError
from common.run import Run
from common.textlab.training import token_losses
from common.torch_utils import setup
from common.trained import seed_index
from papers.hc_smoe.config import Config
from papers.hc_smoe.layers import install
from papers.hc_smoe.methods import METHODS
from papers.hc_smoe.reduction import reduced
from papers.hc_smoe.subjects import Subject, subject_of
from papers.hc_smoe.train import random_of


class Mixture:
    """A language model with fewer experts.

    Attributes:
        model: of ``transformers``, with the merged layers in place.
        groups: of each layer: the group of each expert (pruned: the experts that stayed).
    """

    def __init__(self, subject: Subject, groups: list[list[int]]) -> None:
        self.model: Any = subject.model
        self.groups = groups
        self._subject = subject

    @torch.no_grad()
    def score(self, text: str) -> float:
        """Log-probability of a text's tokens after its first one. [nats].

        Raises:
            UserError: for a text that is too short or too long for the model.
        """
        ids, most = self._subject.tokenize(text), self.model.config.max_position_embeddings
        if not 2 <= len(ids) <= most + 1:
            raise UserError(f"a text has 2 to {most + 1} tokens, not {len(ids)}")
        return -float(token_losses(self.model, torch.tensor([ids])).sum())


def load(folder: Path, seed: int | None, kept: float | None) -> Mixture:
    """See :func:`papers.hc_smoe.load`."""
    run = Run.load(folder)
    if METHODS[files.read_json(folder / "config.json")["method"]].kind == "training":
        raise UserError(f"{folder} holds a training run, in which nothing is merged")
    cfg = run.config(Config)
    seed = cfg.seed[seed_index(folder, cfg.seed, seed)]
    share = cfg.kept[0] if kept is None else kept
    if share not in cfg.kept:
        raise UserError(f"the run in {folder} keeps {cfg.kept} of the experts, not {share:g}")
    device = setup("cpu", 0)
    subject = subject_of(cfg, seed, device)
    layers = reduced(METHODS[cfg.method], subject, share, cfg.most, random_of(seed, share, 0))
    install(subject.model, layers)
    groups = [] if layers is None else [o.labels if o.kept is None else o.kept for o in layers]
    return Mixture(subject, groups)
