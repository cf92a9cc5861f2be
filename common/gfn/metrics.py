"""Metrics of GFlowNets, exact where the DAG can be enumerated."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution


def l1_sum_exact(dag: EnumeratedDAG, log_pf: Tensor) -> Tensor:
    """sum_x |P_T(x) - p*(x)|, in [0, 2], P_T by dynamic programming. [..., N, A] -> [...]."""
    return (terminating_distribution(dag, log_pf) - dag.target()).abs().sum(-1)


def l1_mean_empirical(samples: Tensor, target: Tensor, n_objects: int | None = None) -> Tensor:
    """Mean over x of |frequency - p*(x)|, as papers report it. [..., K] row numbers -> [...].

    Args:
        n_objects: number of objects the mean runs over (default: all rows of ``target``).
    """
    counts = torch.zeros(*samples.shape[:-1], target.shape[0], dtype=torch.float64)
    counts.scatter_add_(-1, samples, torch.ones(samples.shape, dtype=torch.float64))
    gap = (counts / samples.shape[-1] - target).abs().sum(-1)
    return gap / (n_objects or target.shape[0])


def mark_regions(found: Tensor, regions: Tensor) -> Tensor:
    """Marks the regions that samples fell into.

    found [..., n] bool, regions [..., K] (-1: none).
    """
    hit = torch.zeros(*found.shape[:-1], found.shape[-1] + 1, dtype=torch.bool, device=found.device)
    hit.scatter_(-1, regions + 1, True)
    return found | hit[..., 1:]


def mark_modes(found: Tensor, distances: Tensor, delta: float) -> Tensor:
    """Marks the modes within ``delta`` of a sample. found [..., M], distances [..., K, M]."""
    return found | (distances <= delta).any(-2)


def remember(recent: Tensor, objects: Tensor, step: int) -> None:
    """Writes a step's objects over the oldest ones, in place.

    recent [S, K, ...] with K a multiple of B, objects [S, B, ...].
    """
    batch = objects.shape[1]
    place = (step * batch) % recent.shape[1]
    recent[:, place : place + batch] = objects


def backward_log_probability(log_pf: Tensor, log_pb: Tensor) -> Tensor:
    """log (1/N) sum_i P_F(tau_i)/P_B(tau_i|x), tau_i ~ P_B(.|x).

    Both arguments are sums over the actions of tau. [N, ...] -> [...].
    """
    return torch.logsumexp(log_pf - log_pb, 0) - math.log(log_pf.shape[0])


def spearman(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """Spearman's rank correlation (nan when one side is constant)."""
    return float(spearmanr(np.asarray(a), np.asarray(b)).statistic)


def distinct_fraction(objects: Tensor) -> float:
    """Share of distinct rows among the samples [K, L]."""
    return torch.unique(objects, dim=0).shape[0] / objects.shape[0]


def accuracy(p_terminal: Tensor, reward: Tensor) -> Tensor:
    """100 min(E_P[R] / E_p*[R], 1). Blind to collapse on objects of average reward."""
    expected = (p_terminal * reward).sum(-1)
    return 100 * (expected / (reward.square().sum() / reward.sum())).clamp(max=1)
