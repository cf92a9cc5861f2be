"""Sparse networks: layer densities, masks, pruning and growth, and steps that respect a mask.

A mask is boolean and has its weight's shape; True is present. Scores are ranked over the whole
tensor, or, where ``count`` is a tensor [S], over each of the S slices along the first axis (seeds
stacked on it) with a count of its own. Ties go to the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Pairs = Iterable[tuple[Tensor, Tensor]]  # parameters and their masks


def er_densities(shapes: Sequence[Sequence[int]], sparsity: float) -> list[float]:
    """Erdos-Renyi densities min(1, eps sum(shape) / prod(shape)) of an overall sparsity.

    Mocanu et al. 2018; with more than two axes it is the kernel version (ERK, Evci et al. 2020).
    eps is solved for, and tensors whose density would exceed 1 are dense.

    Args:
        shapes: of the tensors that are masked.
        sparsity: share of all their entries that is absent, in [0, 1).

    Raises:
        ValueError: if the sparsity is not in [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"a sparsity is in [0, 1), not {sparsity}")
    sizes, sums = [math.prod(s) for s in shapes], [sum(s) for s in shapes]
    dense: set[int] = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in dense]
        if not free:
            return [1.0] * len(shapes)
        wanted = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        epsilon = wanted / sum(sums[i] for i in free)
        ratio = {i: epsilon * sums[i] / sizes[i] for i in free}
        largest = max(ratio.values())
        if largest <= 1:
            return [ratio.get(i, 1.0) for i in range(len(shapes))]
        dense |= {i for i in free if ratio[i] == largest}


def largest(score: Tensor, among: Tensor, count: Tensor | int) -> Tensor:
    """The ``count`` entries of highest score among those allowed. Boolean, as ``score``.

    Args:
        score: finite where ``among``.
        among: boolean; where fewer than ``count`` are allowed, all of them are taken.
        count: one number, or one per slice [S].
    """
    counts = torch.as_tensor(count, device=score.device)
    start = counts.dim()
    flat, allowed = score.flatten(start), among.flatten(start)
    keyed = flat.masked_fill(~allowed, -torch.inf)
    rank = keyed.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return ((rank < counts.unsqueeze(-1)) & allowed).view(score.shape)


def prune(mask: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
    """The mask without the ``count`` present weights of smallest magnitude."""
    return mask & ~largest(-weight.detach().abs(), mask, count)


def grow(mask: Tensor, gradient: Tensor, count: Tensor | int) -> Tensor:
    """The mask with the ``count`` absent weights of largest gradient (Evci et al. 2020).

    Args:
        gradient: dense, see :func:`effective`; a masked one is zero wherever it matters.
    """
    return mask | largest(gradient.abs(), ~mask, count)


def random_mask(among: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` entries of those allowed, drawn uniformly without replacement.

    Args:
        generator: on the CPU, whatever the device.
    """
    draws = torch.rand(among.shape, generator=generator, dtype=torch.float64)
    return largest(draws.to(among.device), among, count)


def density(masks: Iterable[Tensor]) -> float:
    """Share of the entries that are present: of the masks, since present weights may be zero."""
    of = list(masks)
    return sum(int(m.sum()) for m in of) / sum(m.numel() for m in of)


# -- masked forward passes: for torch.func.functional_call ----------------------------------------


def masked(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta * M by name; the gradient of theta is zero where the mask is off."""
    return {name: parameters[name] * mask for name, mask in masks.items()}


def effective(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta * M as leaves, whose gradients are *dense*: of absent weights too, at value 0.

    ``weights = effective(dict(net.named_parameters()), masks)``, then
    ``loss(functional_call(net, weights, (x,)))`` and :func:`dense_gradients`.
    """
    return {n: (parameters[n].detach() * mask).requires_grad_() for n, mask in masks.items()}


def dense_gradients(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """d loss / d weights by name, of what :func:`effective` gave."""
    found = torch.autograd.grad(loss, list(weights.values()))
    return dict(zip(weights, found, strict=True))


# -- optimiser steps ------------------------------------------------------------------------------


@torch.no_grad()
def sparse_step(optimizer: torch.optim.Optimizer, pairs: Pairs) -> None:
    """A step after which weights and moments are zero wherever the mask is off.

    Absent weights get no gradient, no weight decay and no momentum, and one that is grown later
    starts with moments of zero. Parameters without a mask take the optimiser's plain step.
    """
    pairs = list(pairs)
    _mask_gradients(pairs)
    optimizer.step()
    for parameter, mask in pairs:
        parameter.mul_(mask)
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.mul_(mask)


@torch.no_grad()
def partial_step(optimizer: torch.optim.Optimizer, pairs: Pairs) -> None:
    """A step that moves weights only where the mask is on; the others stay bit for bit.

    Neither weight decay nor momentum moves them, which masking gradients alone would not prevent.
    Their moments see a gradient of zero and decay.
    """
    pairs = list(pairs)
    _mask_gradients(pairs)
    before = [parameter.detach().clone() for parameter, _ in pairs]
    optimizer.step()
    for (parameter, mask), kept in zip(pairs, before, strict=True):
        parameter.copy_(torch.where(mask, parameter, kept))


def _mask_gradients(pairs: Pairs) -> None:
    for parameter, mask in pairs:
        if parameter.grad is not None:
            parameter.grad.mul_(mask)
