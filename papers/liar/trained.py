"""A pruned model, for use outside of the experiments."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from common.run import Run
from common.textlab import encoder
from common.textlab.training import token_losses
from papers.liar.architecture import FAMILIES, Architecture
from papers.liar.config import Config
from papers.liar.methods import METHODS
from papers.liar.task import TASKS
from papers.liar.work import load_decoder


def layers_from(arch: Architecture, state: dict[str, Tensor]) -> Any:
    """The model with layers of the sizes and weights of a run."""
    made = type(arch)(copy.deepcopy(arch.model))
    parts = dict(made.layers.named_modules())
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        part: Any = parts[path]
        setattr(part, kind, nn.Parameter(tensor.clone(), requires_grad=False))
        if isinstance(part, nn.Linear) and kind == "weight":
            part.out_features, part.in_features = tensor.shape
    for index, module in enumerate(made.modules):
        linear, width = module.first[-1]
        made.resized(index, linear.out_features // width)
    return made.model.eval()


class Model:
    """A pruned and reconstructed model.

    Attributes:
        model: of ``transformers``, smaller than the one it came from.
        tokenizer: its own.
        parameters: of its layers.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.parameters = FAMILIES[model.config.model_type](model).layer_parameters


class Encoder(Model):
    """A pruned sentence encoder."""

    def embed(self, texts: Sequence[str], limit: int = 64) -> NDArray[np.float32]:
        """Vectors of length 1. [n, d].

        Args:
            texts: one at least.
            limit: word pieces of each that are read.

        Raises:
            UserError: without any text.
        """
        if not len(texts) or isinstance(texts, str):
            raise UserError("give a list of one text or more")
        return encoder.normalised(encoder.embed(self.model, self.tokenizer, texts, limit=limit))


class Decoder(Model):
    """A pruned language model."""

    @torch.no_grad()
    def perplexity(self, text: str) -> float:
        """exp of the mean -log p of a text's tokens, as many as its context holds.

        Raises:
            UserError: for fewer than two tokens.
        """
        length = self.model.config.max_position_embeddings
        ids = self.tokenizer.encode([text])[0][:length]
        if len(ids) < 2:
            raise UserError("a perplexity needs two tokens or more")
        return math.exp(float(token_losses(self.model, torch.tensor([ids])).mean()))


def load(folder: Path) -> Encoder | Decoder:
    """See :func:`papers.liar.load`."""
    run = Run.load(folder)
    cfg = run.config(Config)
    state, data = run.final()["weights"], TASKS[cfg.task].data
    if not state:
        raise UserError(f"{METHODS.label(cfg.method)} has nothing to load")
    if data == "decoder":
        model, tokenizer, _ = load_decoder(cfg)
        return Decoder(layers_from(FAMILIES["llama"](model), state), tokenizer)
    if data != "code":
        raise UserError(f"load gives models of the tasks minilm and llama, not of {cfg.task}")
    model, tokenizer = encoder.load()
    if TASKS[cfg.task].layers:
        model.encoder.layer = model.encoder.layer[: TASKS[cfg.task].layers]
    return Encoder(layers_from(FAMILIES["bert"](model), state), tokenizer)
