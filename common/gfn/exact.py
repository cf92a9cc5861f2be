"""Exact solver on enumerated DAGs: uniform-P_B flows, P_T by forward dynamic programming."""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG


def uniform_log_pb(dag: EnumeratedDAG) -> Tensor:
    """log P_B = -log(number of in-edges), -inf where there is no edge. [N, A_b] float64."""
    mask = dag.backward_mask
    count = mask.sum(-1, keepdim=True).double()
    return torch.where(mask, -count.log(), torch.full_like(mask, -torch.inf, dtype=torch.float64))


def uniform_log_pf(dag: EnumeratedDAG) -> Tensor:
    """Uniform policy over allowed actions. [N, A] float64."""
    mask = dag.forward_mask
    count = mask.sum(-1, keepdim=True).double()
    return torch.where(mask, -count.log(), torch.full_like(mask, -torch.inf, dtype=torch.float64))


def exact_log_flows(dag: EnumeratedDAG, log_pb: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Flows that are exact for a backward policy (default: uniform).

    F(s) = R(s) + sum_{s -> s'} F(s') P_B(s|s') in reverse topological order.

    Returns:
        log F [N] and log F(s -> s') [N, A] (stop edge: log R), float64, -inf where there is none.
    """
    if log_pb is None:
        log_pb = uniform_log_pb(dag)
    flow = dag.log_reward.exp()
    edge = torch.zeros(dag.n_states, dag.n_actions, dtype=torch.float64, device=flow.device)
    pb = log_pb.exp()
    for src, act, dst in reversed(dag.levels()):
        value = flow[dst] * pb[dst, dag.backward_index[src, act]]
        edge[src, act] = value
        flow.index_add_(0, src, value)
    if dag.stop is not None:
        edge[:, dag.stop] = dag.log_reward.exp()
    return flow.log(), edge.log()


def exact_policies(dag: EnumeratedDAG) -> tuple[Tensor, Tensor, Tensor]:
    """(log P_F [N, A], log P_B [N, A_b], log F [N]) of the exact uniform-P_B solution."""
    log_flow, log_edge = exact_log_flows(dag)
    log_pf = torch.where(dag.forward_mask, log_edge - log_flow.unsqueeze(-1), -torch.inf)
    return log_pf, uniform_log_pb(dag), log_flow


def visit_probabilities(dag: EnumeratedDAG, log_pf: Tensor) -> Tensor:
    """Probability that a trajectory passes through each state. [..., N, A] -> [..., N] float64."""
    pf = log_pf.double().exp().flatten(-2)  # [..., N*A]
    visits = torch.zeros(*log_pf.shape[:-1], dtype=torch.float64, device=log_pf.device)
    visits[..., dag.source] = 1.0
    for src, act, dst in dag.levels():
        moved = visits[..., src] * pf[..., src * dag.n_actions + act]
        visits.index_add_(-1, dst, moved)
    return visits


def terminating_distribution(dag: EnumeratedDAG, log_pf: Tensor) -> Tensor:
    """P_T(x), exactly, for a batch of policies. [..., N, A] -> [..., N] float64."""
    visits = visit_probabilities(dag, log_pf)
    if dag.stop is not None:
        return visits * log_pf[..., dag.stop].double().exp()
    return torch.where(torch.isfinite(dag.log_reward), visits, torch.zeros_like(visits))
