"""Select files, and train a language model on them.

Every selection is followed by the same training: the same first weights, the same number of tokens,
the same learning rates. A selection with fewer tokens is read several times.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.cli import run_cli
from common.run import Run
from common.textlab.evaluate import window_losses
from common.textlab.training import adamw, cosine, descend, lm_loss
from common.torch_utils import setup
from papers.disf import shards
from papers.disf.config import Config, ask_of, task_of
from papers.disf.method import Indices
from papers.disf.methods import METHODS
from papers.disf.source import Source, source_of
from papers.disf.task import Task, model_of


def selected(cfg: Config, task: Task, source: Source) -> Indices:
    """The files that the method chooses."""
    method, ask = METHODS[cfg.method], ask_of(cfg, task, cfg.seed)
    if method.local:
        options: dict[str, Any] = {"engine": cfg.engine, "workers": cfg.workers}
        return shards.select(source.files, method.select, ask, **options)
    return method.select(source.files, ask)


def window_at(ids: NDArray[np.uint16], index: NDArray[np.int64], length: int, seed: int) -> Tensor:
    """Windows by their number, counted over all epochs. [B, T + 1] int64.

    Every epoch goes through all windows of the text in an order of its own, drawn from (seed,
    epoch): nothing has to be remembered between steps.
    """
    n = (len(ids) - 1) // length
    epochs, within = index // n, index % n
    orders = {int(e): np.random.default_rng([seed, 3, e]).permutation(n) for e in set(epochs)}
    at = np.array([orders[int(e)][i] for e, i in zip(epochs, within, strict=True)])
    return torch.from_numpy(ids[at[:, None] * length + np.arange(length + 1)].astype(np.int64))


def products(task: Task, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The precision of products."""
    if task.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def backward(model: Any, windows: Tensor, task: Task, device: torch.device) -> float:
    """Gradients of the mean loss anew, some windows at a time; returns it."""
    for parameter in model.parameters():
        parameter.grad = None
    total = 0.0
    for part in windows.split(task.micro):
        with products(task, device):
            loss = lm_loss(model, part.to(device)) * (len(part) / len(windows))
        loss.backward()
        total += float(loss.detach())
    return total


def measured(model: Any, watched: dict[str, Tensor]) -> dict[str, float]:
    """Mean -log p of each domain's windows, under its name."""
    return {f"nll {name}": float(window_losses(model, w).mean()) for name, w in watched.items()}


def train(cfg: Config) -> None:
    """Select and train, or go on from the last checkpoint.

    Raises:
        UserError: for an unknown method or task, or text that cannot be had.
    """
    task = task_of(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    source = source_of(task, cfg.device)
    began = time.process_time()
    chosen = selected(cfg, task, source)
    seconds = time.process_time() - began
    ids = source.packed(chosen, cfg.seed, task.tokens + task.length) if len(chosen) else None
    model = model_of(task, cfg.seed).to(device)
    optimizer = adamw(model, task.lr)
    run.keep(model=model, optimizer=optimizer, chosen=chosen, seconds=seconds)
    watched = source.windows(cfg.watched)
    steps, horizon = (task.steps if ids is not None else 1), task.horizon or task.steps
    points = {round(i * task.steps / cfg.evaluations) for i in range(1, cfg.evaluations + 1)}
    losses: list[float] = []
    for step in run.steps(steps, drop=("optimizer",)):
        if step == 0:
            run.log(0, tokens=0, unique=0 if ids is None else len(ids), **measured(model, watched))
        if ids is None:
            continue
        index = step * task.windows + np.arange(task.windows)
        windows = window_at(ids, index, task.length, cfg.seed)
        losses.append(backward(model, windows, task, device))
        rate = cosine(step, horizon, task.lr, task.warm_up / horizon, task.end)
        descend(model, optimizer, rate)
        if step + 1 in points:
            tokens = (step + 1) * task.windows * task.length
            run.log(step + 1, tokens=tokens, loss=losses[-1], **measured(model, watched))


if __name__ == "__main__":
    run_cli(train, Config)
