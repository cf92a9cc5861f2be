"""The pieces of a loop that trains a language model: loss, gradient, learning rate, step.

They are functions, so that a loop can look at gradients before the step (masks, growth) and at
weights after it (snapshots)::

    for step in run.steps(cfg.steps):
        loss = backward(model, random_windows(ids, cfg.batch, cfg.length, kept.generator))
        descend(model, optimizer, lr=cosine(step, cfg.steps, cfg.lr, warm_up=0.05))
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.textlab.models import logits


def losses_of(logits: Tensor, windows: Tensor) -> Tensor:
    """-log p of what follows. [B, T, V], [B, T + 1] -> [B, T].

    By rows: the loss over images has no deterministic kernel on a GPU.
    """
    targets = windows[:, 1:]
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(targets.shape)


def token_losses(model: Any, windows: Tensor, **options: Any) -> Tensor:
    """-log p of every token given those before it. [B, T + 1] -> [B, T], in nats."""
    return losses_of(logits(model, windows[:, :-1], **options), windows)


def lm_loss(model: Any, windows: Tensor, **options: Any) -> Tensor:
    """Mean of :func:`token_losses`, and the load-balancing loss where the model has one. []."""
    output = model(input_ids=windows[:, :-1], **options)
    loss = losses_of(output.logits, windows).mean()
    balance = getattr(output, "aux_loss", None)
    if balance is not None:
        loss = loss + model.config.router_aux_loss_coef * balance
    return loss


def adamw(model: nn.Module, lr: float, decay: float = 0.1) -> torch.optim.AdamW:
    """AdamW(.9, .95) with weight decay on matrices and stacks of them, not on norms and biases."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr, betas=(0.9, 0.95), fused=True)


def backward(model: Any, windows: Tensor, **options: Any) -> float:
    """Gradients of :func:`lm_loss` anew; returns the loss."""
    for parameter in model.parameters():
        parameter.grad = None
    loss = lm_loss(model, windows, **options)
    loss.backward()
    return float(loss.detach())


def descend(
    model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, clip: float = 1.0
) -> float:
    """One step with a learning rate, the gradient's norm clipped; returns the norm."""
    trained = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return float(norm)


def cosine(step: int, steps: int, peak: float, warm_up: float = 0.05, end: float = 0.1) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up, then a cosine to ``end`` * peak.

    Args:
        warm_up: share of the steps.
    """
    first = max(1, round(warm_up * steps))
    if step < first:
        return peak * (step + 1) / first
    done = (step - first) / max(1, steps - 1 - first)
    return peak * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def level(
    step: int,
    steps: int,
    peak: float,
    warm_up: float = 0.05,
    until: float = 0.85,
    end: float = 0.05,
) -> float:
    """Learning rate of ``step``: linear warm-up, level up to a share, then linear to ``end``."""
    first, last = max(1, round(warm_up * steps)), round(until * steps)
    if step < first:
        return peak * (step + 1) / first
    done = min(1.0, max(0, step - last) / max(1, steps - 1 - last))
    return peak * (1 - (1 - end) * done)


__all__ = [
    "adamw",
    "backward",
    "cosine",
    "descend",
    "level",
    "lm_loss",
    "losses_of",
    "token_losses",
]
