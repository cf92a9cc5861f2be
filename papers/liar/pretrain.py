"""Stage 1: a small Llama is trained on the sources of the standard library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.cli import run_cli
from common.errors import choose
from common.run import Run
from common.textlab import corpus, tokens
from common.textlab.models import logits
from common.textlab.training import adamw, cosine, descend
from common.torch_utils import setup
from papers.liar.config import DecoderConfig
from papers.liar.work import fresh_decoder


def backward(model: Any, windows: Tensor) -> float:
    """Gradients of the mean -log p of the tokens anew; returns it. [B, T + 1].

    As ``common.textlab.training.backward``, whose loss has no deterministic kernel on a GPU.
    """
    for parameter in model.parameters():
        parameter.grad = None
    found = logits(model, windows[:, :-1])
    loss = F.cross_entropy(found.flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    return float(loss.detach())


def train(cfg: DecoderConfig) -> None:
    """Train, or go on from the last checkpoint.

    Raises:
        UserError: for another method or task.
    """
    choose("method of the decoder's stage", cfg.method, ("llama",))
    choose("task of the decoder's stage", cfg.task, ("llama",))
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    ids = tokens.tokens(corpus.standard_library(), cfg.vocabulary, "train").ids
    model = fresh_decoder(cfg).to(device)
    optimizer = adamw(model, cfg.lr)
    generator = torch.Generator().manual_seed(cfg.seed)
    kept = run.keep(model=model, optimizer=optimizer, generator=generator)
    losses: list[float] = []
    for step in run.steps(cfg.steps, every=cfg.log_every, drop=("optimizer", "generator")):
        windows = tokens.random_windows(ids, cfg.batch, cfg.length, kept.generator)
        losses.append(backward(model, windows.to(device)))
        descend(model, optimizer, cosine(step, cfg.steps, cfg.lr))
        if (step + 1) % cfg.log_every == 0:
            run.log(step + 1, loss=sum(losses) / len(losses))
            losses = []


if __name__ == "__main__":
    run_cli(train, DecoderConfig)
