"""Neuron consolidation by experience review: when batches come from the early part of the buffer.

Two gates: the paper's idea (review once the dormant ratio has calmed down), and the authors' code
(review while few units are activated).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.sac import Batch, ReplayBuffer
from common.stacked import rand, randint

FAU_LIMIT = 0.4  # c: above it nothing is reviewed (authors' code)


def review_threshold(ratios: Tensor, window: int = 10, floor: float = 0.5) -> Tensor:
    """epsilon_t = clip(g_t / g_max, floor, 1), Eq. 7; a batch is reviewed where u > epsilon_t.

    g_t is the mean change of the dormant ratio between checks over the last ``window`` of them,
    g_max its maximum so far; epsilon is 1 as long as nothing has changed.

    Args:
        ratios: dormant ratios of the critics at all checks so far. [K, S]

    Returns:
        [S].
    """
    if len(ratios) < 2:
        return torch.ones_like(ratios[0]) if len(ratios) else torch.ones(ratios.shape[1])
    change = ratios.diff(dim=0).abs()
    recent = [change[max(0, k - window) : k].mean(0) for k in range(1, len(change) + 1)]
    most = torch.stack(recent).amax(0)
    return torch.where(most > 0, recent[-1] / most.clamp(min=1e-12), 1.0).clamp(floor, 1.0)


def fau_gate(a: Tensor, c: float = FAU_LIMIT, factor: float = 0.9) -> Tensor:
    """1 / (1 + factor exp(c - a)), Eq. 8; reviewed where a < c and u >= the gate (authors' code).

    Args:
        a: the critics' fraction of activated units. [S]
    """
    return 1 / (1 + factor * torch.exp(c - a))


def reviewing(
    review: str, threshold: Tensor, gating: Sequence[torch.Generator], a: Callable[[], Tensor]
) -> Tensor | None:
    """Which seeds review with this update, [S] bool; None where the method does not.

    Args:
        review: "none", "change" (Eq. 7) or "fau" (Eq. 8).
        threshold: of the last check. [S]
        gating: generators of u.
        a: gives the critics' FAU on a uniform batch, [S]; called for "fau" alone.
    """
    if review == "none":
        return None
    u = rand(gating, 1).squeeze(1)
    if review == "change":
        return u > threshold
    activated = a()
    return (activated < FAU_LIMIT) & (u >= fau_gate(activated, FAU_LIMIT))


def oldest(index: Tensor, size: int, place: int, capacity: int, share: float) -> Tensor:
    """Uniform places in a ring buffer -> as uniform ones in its oldest share, Eq. 9.

    Follows the age of what is stored, not its place: a full ring begins at ``place``.

    Args:
        index: uniform draws from 0..size - 1.
        size, place, capacity: transitions stored, where the next one goes, most.
        share: of the stored transitions.
    """
    n = max(1, int(share * size))
    age = index * n // size
    return (age + (place if size == capacity else 0)) % capacity


def sample(
    buffer: ReplayBuffer,
    generators: Sequence[torch.Generator],
    batch: int,
    reviewed: Tensor | None = None,
    share: float = 0.3,
) -> Batch:
    """``batch`` transitions per seed, from the oldest share of the buffer for reviewed seeds.

    What is not reviewed is what ``buffer.sample`` would draw.

    Args:
        reviewed: [S] bool; None: no seed is.
    """
    index = randint(generators, buffer.size, batch)
    if reviewed is not None:
        early = oldest(index, buffer.size, buffer.place, buffer.capacity, share)
        index = torch.where(reviewed[:, None], early, index)
    return Batch(**{name: store[buffer.rows, index] for name, store in buffer.data.items()})
