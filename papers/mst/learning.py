"""What a training and an evaluation compute: batches, losses, steps."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.mst.method import Masks
from papers.mst.task import Task

HIDDEN, KEPT, SWAPPED = 0.15, 0.10, 0.10  # of BERT: positions to fill in; of those left, replaced
IGNORED = -100  # target of positions that do not count


def batch_of(task: Task, windows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets of windows, on the CPU. [B, T + 1] -> [B, T], [B, T].

    A decoder's targets are the next tokens. An encoder's are 15 % of its tokens, drawn: 80 % of
    them are masked, 10 % replaced and 10 % left (BERT).
    """
    if task.kind == "gpt2":
        return windows[:, :-1], windows[:, 1:]
    tokens = windows[:, :-1]
    drawn = torch.rand(tokens.shape, generator=generator)
    how = torch.rand(tokens.shape, generator=generator)
    other = torch.randint(task.vocabulary, tokens.shape, generator=generator)
    hidden = drawn < HIDDEN
    inputs = torch.where(hidden & (how >= KEPT), other, tokens)
    inputs = torch.where(hidden & (how >= KEPT + SWAPPED), task.mask_id, inputs)
    return inputs, torch.where(hidden, tokens, IGNORED)


def precise(task: Task, device: torch.device) -> Any:
    """The context in which products have the task's precision."""
    if task.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def loss_sum(model: Any, task: Task, inputs: Tensor, targets: Tensor, pattern: Any) -> Tensor:
    """Sum of -log p over the targets, in nats. []

    Args:
        pattern: attention, [1, 1, T, T] bool; None: full (the model's own).
    """
    with precise(task, inputs.device):
        logits = model(input_ids=inputs, attention_mask=pattern).logits
    if task.precision == "bfloat16":
        logits = logits.float()
    flat = logits.flatten(0, 1)  # [B T, V]: in this form the loss is deterministic on a GPU too
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def gradient(model: Any, task: Task, inputs: Tensor, targets: Tensor, pattern: Any) -> Tensor:
    """Gradients of the mean -log p, ``task.micro`` windows at a time; returns that mean. []"""
    for parameter in model.parameters():
        parameter.grad = None
    device = next(model.parameters()).device
    n = (targets != IGNORED).sum().item()
    total = torch.zeros((), device=device)
    for x, y in zip(inputs.split(task.micro), targets.split(task.micro), strict=True):
        loss = loss_sum(model, task, x.to(device), y.to(device), pattern) / max(1, n)
        loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def nll(model: Any, task: Task, windows: Tensor, pattern: Any = None) -> float:
    """Mean -log p over windows, in nats per token (masked tokens, for an encoder).

    The tokens that an encoder has to fill in are the same at every call.
    """
    device, fixed = next(model.parameters()).device, torch.Generator().manual_seed(0)
    inputs, targets = batch_of(task, windows, fixed)
    was = model.training
    model.eval()
    sums = [
        loss_sum(model, task, x.to(device), y.to(device), pattern).double()
        for x, y in zip(inputs.split(task.micro), targets.split(task.micro), strict=True)
    ]
    model.train(was)
    return float(torch.stack(sums).sum() / (targets != IGNORED).sum().to(device))


def adamw(model: nn.Module, masks: Masks, lr: float, decay: float) -> torch.optim.AdamW:
    """AdamW(.9, .95); the weights of linear layers decay, embeddings, head and norms do not."""
    output = model.get_output_embeddings().weight  # type: ignore[operator]
    decayed = [w for w in masks.weights.values() if w is not output]
    known = {id(w) for w in decayed}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": decayed, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.95), fused=True)


@torch.no_grad()
def forget(optimizer: torch.optim.Optimizer, masks: Masks, grown: dict[str, Tensor]) -> None:
    """Both moments of the connections that grew become 0, as their weights have."""
    for name, weight in masks.weights.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in (state := optimizer.state[weight]):
                state[moment].masked_fill_(grown[name], 0.0)


__all__ = ["IGNORED", "adamw", "batch_of", "forget", "gradient", "loss_sum", "nll", "precise"]
