"""What mixed sparsity training is compared with, in the signatures of ``method.py``.

Static sparse training keeps its random mask, RigL and SET move their connections at a constant
density, a lottery ticket is a mask by the magnitude of weights that were trained for a while, and
a smaller dense network or a shorter dense training cost as much as the sparse one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from papers.mst.method import layer_densities, n_changes, n_zeros


def rigl(
    weight: Tensor,
    mask: Tensor,
    gradient: Tensor | None,
    density: float,
    fraction: float,
    generator: torch.Generator,
) -> Tensor:
    """RigL (Evci et al., 2020): drop the smallest |w|, grow where |G| is largest. Bool mask."""
    if gradient is None:
        raise ValueError("RigL needs the dense gradient")
    left = _without_the_smallest(weight, mask, density, fraction)
    n = mask.numel() - n_zeros(mask.numel(), density) - int(left.sum())
    order = gradient.abs().masked_fill(left, -1.0).flatten().argsort(descending=True, stable=True)
    return left.flatten().index_fill(0, order[:n], True).view(mask.shape)


def set_(
    weight: Tensor,
    mask: Tensor,
    gradient: Tensor | None,
    density: float,
    fraction: float,
    generator: torch.Generator,
) -> Tensor:
    """SET (Mocanu et al., 2018): drop the smallest |w|, grow at random. Bool mask."""
    left = _without_the_smallest(weight, mask, density, fraction)
    n = mask.numel() - n_zeros(mask.numel(), density) - int(left.sum())
    noise = torch.rand(mask.shape, generator=generator).to(mask.device)
    order = noise.masked_fill(left, -1.0).flatten().argsort(descending=True, stable=True)
    return left.flatten().index_fill(0, order[:n], True).view(mask.shape)


def _without_the_smallest(weight: Tensor, mask: Tensor, density: float, fraction: float) -> Tensor:
    """The mask without the ``n_prune`` active entries of smallest magnitude."""
    n = n_changes(mask.numel(), int(mask.sum()), density, fraction)[0]
    order = weight.abs().masked_fill(~mask, torch.inf).flatten().argsort(stable=True)
    return mask.flatten().index_fill(0, order[:n], False).view(mask.shape)


def ticket(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """A lottery ticket (Frankle and Carbin, 2019): the largest |w| of each layer, bool masks.

    Layers have Erdos-Renyi densities like everybody's. The weights go back to where they began:
    that is the training loop's part.
    """
    wanted = layer_densities({n: (w.shape[0], w.shape[1]) for n, w in weights.items()}, sparsity)
    found = {}
    for name, weight in weights.items():
        order = weight.detach().abs().flatten().argsort(stable=True)
        zeros = order[: n_zeros(len(order), wanted[name])]
        ones = torch.ones_like(order, dtype=torch.bool)
        found[name] = ones.index_fill_(0, zeros, False).view(weight.shape)
    return found


__all__ = ["rigl", "set_", "ticket"]
