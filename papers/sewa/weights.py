"""A network as one vector: flatten it, call it with another vector, put a vector in.

Normalisation by batches belongs to it: its statistics are no weights, are not averaged, and are
taken anew on training data for every model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def flat(model: nn.Module) -> Tensor:
    """A copy of all parameters as one vector. [P]."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def n_weights(model: nn.Module) -> int:
    """P."""
    return sum(p.numel() for p in model.parameters())


def views(model: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    """A vector as parameters by name. [P]."""
    named = list(model.named_parameters())
    parts = weights.split([p.numel() for _, p in named])
    return {name: part.view_as(p) for (name, p), part in zip(named, parts, strict=True)}


@torch.no_grad()
def put(model: nn.Module, weights: Tensor) -> None:
    """Copy a vector into a network's parameters. [P]."""
    for name, parameter in model.named_parameters():
        parameter.copy_(views(model, weights)[name])


def steady(model: nn.Module) -> None:
    """Dropout off, normalisation by the batch's own statistics: the mode of mask learning."""
    model.eval()
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.train()


def called_with(model: nn.Module, weights: Tensor) -> Callable[..., Any]:
    """The network with other weights; itself it stays as it is, statistics included. [P]."""
    state = views(model, weights)
    state |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    return lambda *inputs: functional_call(model, state, inputs)


@torch.no_grad()
def renormalise(model: nn.Module, batches: Callable[[], Any]) -> None:
    """Statistics of batch normalisation anew: plain means over the batches given.

    Args:
        batches: gives the network's inputs batch by batch (a tuple of tensors each).
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # cumulative
    steady(model)
    for inputs in batches():
        model(*inputs)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    model.eval()


def spread(theta: Tensor) -> float:
    """Mean distance of snapshots from their mean, over the mean's norm. [k, P]."""
    mean = theta.mean(0)
    return float((theta - mean).norm(dim=1).mean() / mean.norm().clamp_min(1e-12))


def megabytes(theta: Tensor) -> float:
    """Storage of snapshots: k P numbers. [MB]."""
    return theta.numel() * theta.element_size() / 1e6


def finite(x: float) -> float:
    """A loss that can be written; a diverged one is very large."""
    return x if math.isfinite(x) else 1e30


__all__ = [
    "BATCH_NORMS",
    "called_with",
    "finite",
    "flat",
    "megabytes",
    "n_weights",
    "put",
    "renormalise",
    "spread",
    "steady",
    "views",
]
