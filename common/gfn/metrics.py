"""Metrics of GFlowNets, exact where the DAG can be enumerated."""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution


def l1_sum_exact(dag: EnumeratedDAG, log_pf: Tensor) -> Tensor:
    """sum_x |P_T(x) - p*(x)|, in [0, 2], P_T by dynamic programming. [..., N, A] -> [...]."""
    return (terminating_distribution(dag, log_pf) - dag.target()).abs().sum(-1)


def mark_regions(found: Tensor, regions: Tensor) -> Tensor:
    """Marks the regions that samples fell into.

    found [..., n] bool, regions [..., K] (-1: none).
    """
    hit = torch.zeros(*found.shape[:-1], found.shape[-1] + 1, dtype=torch.bool, device=found.device)
    hit.scatter_(-1, regions + 1, True)
    return found | hit[..., 1:]


def remember(recent: Tensor, objects: Tensor, step: int) -> None:
    """Writes a step's objects over the oldest ones, in place.

    recent [S, K, ...] with K a multiple of B, objects [S, B, ...].
    """
    batch = objects.shape[1]
    place = (step * batch) % recent.shape[1]
    recent[:, place : place + batch] = objects
