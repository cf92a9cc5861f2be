"""A selection and the model that was trained on it, for use outside of the experiments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from common.run import Run
from common.textlab import public
from common.textlab.training import token_losses
from papers.disf import features, pool, published
from papers.disf.config import Config, ask_of, task_of
from papers.disf.method import Files, Indices
from papers.disf.methods import METHODS
from papers.disf.task import Task, model_of


class Selection:
    """What a run has chosen, and its model.

    Attributes:
        chosen: numbers of the files.
        model: of ``transformers``.
    """

    def __init__(self, cfg: Config, task: Task, chosen: Indices, model: Any) -> None:
        self._cfg, self._task, self.chosen, self.model = cfg, task, chosen, model

    def select(self, texts: Sequence[str], seed: int = 0) -> list[int]:
        """The same method on other texts: numbers of those that it takes, in their order.

        Args:
            texts: a batch or more; of a batch of b texts k are taken.
            seed: of batches and first picks.

        Raises:
            UserError: for fewer than two texts, or a method that selects towards a domain.
        """
        method = METHODS[self._cfg.method]
        if len(texts) < 2 or isinstance(texts, str):
            raise UserError("give a list of two texts or more")
        if method.targeted:
            raise UserError(f"{method.label} needs a domain for every text; see baselines.dsir")
        X = features.of_texts(self._task.features, list(texts), self._task.pieces, "cpu")
        files = Files(X, texts, np.array([""] * len(texts)))
        return [int(i) for i in method.select(files, ask_of(self._cfg, self._task, seed))]

    @torch.no_grad()
    def perplexity(self, text: str) -> float:
        """exp of the mean -log p of a text's tokens, as many as the context holds.

        Raises:
            UserError: for fewer than two tokens.
        """
        ids = self._ids(text)[: self._task.length + 1]
        if len(ids) < 2:
            raise UserError("a perplexity needs two tokens or more")
        return math.exp(float(token_losses(self.model, torch.tensor([ids])).mean()))

    def _ids(self, text: str) -> list[int]:
        if self._task.data == "slimpajama":
            return [int(i) for i in public.tokenizer(published.TOKENIZER)(text)["input_ids"]]
        there = pool.pool(self._task.files, self._task.data == "installed")
        return pool.tokenizer_of(there, self._task.vocabulary).encode([text])[0]


def load(folder: Path) -> Selection:
    """See :func:`papers.disf.load`."""
    run = Run.load(folder)
    final = run.final()
    if "model" not in final:
        raise UserError(f"{folder} has no model: give a run of papers.disf.train")
    cfg = run.config(Config)
    task = task_of(cfg)
    model = model_of(task, cfg.seed)
    model.load_state_dict(final["model"])
    chosen: NDArray[np.int64] = final["chosen"]
    return Selection(cfg, task, chosen, model.eval())
