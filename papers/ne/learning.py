"""What both loops of reinforcement learning share: a step on weights or topology, and its log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from papers.ne.method import Change, Topology, dormancy


def descend(
    loss: Tensor,
    topology: Topology,
    optimizer: torch.optim.Optimizer,
    t: int,
    hidden: Callable[[], Sequence[Tensor]],
) -> Change | None:
    """A step of Adam on the connections that are there, or a change of the topology in its place.

    Args:
        loss: per seed. [S]
        topology: of the network.
        optimizer: its.
        t: gradient step.
        hidden: gives the hidden activations on the batch.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.sum().backward()
    if topology.due(t):
        return topology.step(t, hidden(), optimizer)
    topology.mask_gradients()
    optimizer.step()
    return None


def is_dormant(h: Tensor) -> Tensor:
    """f = 0. [G, B, n] -> [G, n]."""
    return dormancy(h) == 0


def per_seed(x: Tensor, n_seeds: int) -> Tensor:
    """Mean over a seed's networks. [G] -> [S]."""
    return x.view(n_seeds, -1).mean(1)


def changed(changes: Mapping[str, Change | None], n_seeds: int) -> dict[str, Any]:
    """For the log, by network: least net growth of a layer, largest share pruned of what grew,
    connections pruned and grown. [S] each."""
    seen: dict[str, Any] = {}
    for name, change in changes.items():
        if change is not None:
            least = change.least.view(n_seeds, -1).amin(1)
            share = (change.pruned / change.grown.clamp(min=1)).view(n_seeds, -1).amax(1)
            seen |= {f"{name}_least": least, f"{name}_share": share}
            seen |= {f"{name}_pruned": per_seed(change.pruned.float(), n_seeds)}
            seen |= {f"{name}_grown": per_seed(change.grown.float(), n_seeds)}
    return seen
