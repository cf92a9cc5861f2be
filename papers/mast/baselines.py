"""RLx2's buffer, which forgets what the policy would no longer play (Tan et al. 2023)."""

from __future__ import annotations

import torch

from common.marl.episodes import EpisodeBuffer, batch_of
from common.marl.targets import greedy, masked_mean
from papers.mast.networks import Values

OLDEST = 128  # episodes whose actions are looked at, and that go at once
FARTHEST = 0.2  # share of actions that may differ from the greedy ones
SMALLEST = 0.2  # of the capacity: fewer episodes are never kept


@torch.no_grad()
def policy_distance(values: Values, buffer: EpisodeBuffer, n: int = OLDEST) -> float:
    """Share of actions in the ``n`` oldest episodes that the agents would not take now."""
    oldest = [buffer.episodes[i] for i in range(min(n, len(buffer)))]
    batch = batch_of(oldest, next(values.parameters()).device)
    at = greedy(values.utilities(batch)[:, :-1], batch.avail[:, :-1])
    return float(masked_mean((at != batch.actions).float().mean(-1), batch.filled))


def forget(values: Values, buffer: EpisodeBuffer) -> float:
    """Drop the oldest episodes if they are too far from the policy; returns their distance."""
    distance = policy_distance(values, buffer)
    least = int(SMALLEST * (buffer.episodes.maxlen or 0))
    if distance > FARTHEST:
        for _ in range(min(OLDEST, len(buffer) - least)):
            buffer.episodes.popleft()
    return distance
