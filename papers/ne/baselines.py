"""What Neuroplastic Expansion is compared with: recycled neurons, and layers begun anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.stacked import StackedLinear
from papers.ne.method import Generators, dormancy, forget


def fresh(layer: StackedLinear, generators: Generators) -> StackedLinear:
    """A layer of the same shape and device as when training began, from further draws.

    Args:
        layer: [G, in, out].
        generators: one per seed, on the CPU; G is a multiple of their number.
    """
    G, n_in, n_out = layer.weight.shape
    each = [g for g in generators for _ in range(G // len(generators))]
    return StackedLinear(each, n_in, n_out).to(layer.weight.device)


@torch.no_grad()
def redo(
    layers: Sequence[StackedLinear],
    hidden: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    generators: Generators,
    tau: float = 0.1,
) -> Tensor:
    """ReDo (Sokar et al. 2023): recycle the neurons with f <= tau.

    Their incoming weights and biases are drawn anew, their outgoing weights become 0, and Adam's
    moments of all three as well.

    Returns:
        Recycled neurons of each network. [G]
    """
    recycled = []
    for k, h in enumerate(hidden):
        low = dormancy(h) <= tau  # [G, n]
        layer, following, new = layers[k], layers[k + 1], fresh(layers[k], generators)
        into, out = low[:, None, :], low[:, :, None]
        layer.weight.copy_(torch.where(into, new.weight, layer.weight))
        layer.bias.copy_(torch.where(into, new.bias, layer.bias))
        following.weight.masked_fill_(out, 0.0)
        for parameter, void in ((layer.weight, into), (layer.bias, into), (following.weight, out)):
            forget(optimizer, parameter, void)
        recycled.append(low.sum(1))
    return torch.stack(recycled).sum(0)


@torch.no_grad()
def reset(
    layers: Sequence[StackedLinear],
    targets: Sequence[StackedLinear],
    optimizer: torch.optim.Optimizer,
    generators: Generators,
    last: int = 2,
) -> None:
    """Reset (Nikishin et al. 2022): the last layers begin anew, and those of the target with them.

    Args:
        layers, targets: of the network and of its target.
        optimizer: whose moments of these layers become 0.
        generators: see ``fresh``.
        last: how many layers.
    """
    for layer, target in zip(layers[-last:], targets[-last:], strict=True):
        new = fresh(layer, generators)
        for kind in ("weight", "bias"):
            parameter = getattr(layer, kind)
            parameter.copy_(getattr(new, kind))
            getattr(target, kind).copy_(parameter)
            forget(optimizer, parameter, torch.ones_like(parameter, dtype=torch.bool))
