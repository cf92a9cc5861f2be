"""Experiment A, HyperGrid: the regression loss of every objective, and the policy on all states.

``train.train_grid`` is the loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP
from common.gfn.objectives import Visited, training_pairs
from common.gfn.sampling import Trajectories, masked_log_softmax
from papers.gfn_losses.method import RegressionLoss, objective


def grid_loss(
    name: str,
    visited: Visited,
    traj: Trajectories,
    stop: int,
    log_Z: Tensor | None,
    lam: float,
    loss: RegressionLoss,
    clip: float,
) -> tuple[Tensor, Tensor]:
    """Surrogate and logged loss per seed of one objective of Section 3. [S], [S]."""
    parts = training_pairs(name, visited, traj.actions, traj.mask, stop=stop, log_Z=log_Z, lam=lam)
    values = [objective(pair, weights, loss, clip) for pair, weights in parts]
    surrogate, logged = values[0]
    for more in values[1:]:
        surrogate, logged = surrogate + more[0], logged + more[1]
    return surrogate, logged


@torch.no_grad()
def log_pf_of_all_states(net: StackedMLP, env: HyperGrid, dag: EnumeratedDAG) -> Tensor:
    """Policy on the whole grid, in parts that fit into memory. [S, N, D+1]."""
    parts = [net(env.encode(part)) for part in env.all_states().split(20_000)]
    logits = torch.cat(parts, 1)[..., : env.n_actions]
    return masked_log_softmax(logits, dag.forward_mask)


def l1_mean_empirical(samples: Tensor, target: Tensor, n_objects: int | None = None) -> Tensor:
    """Mean over x of |frequency - p*(x)|, as papers report it. [..., K] row numbers -> [...].

    Args:
        n_objects: number of objects the mean runs over (default: all rows of ``target``).
    """
    counts = torch.zeros(*samples.shape[:-1], target.shape[0], dtype=torch.float64)
    counts.scatter_add_(-1, samples, torch.ones(samples.shape, dtype=torch.float64))
    gap = (counts / samples.shape[-1] - target).abs().sum(-1)
    return gap / (n_objects or target.shape[0])
