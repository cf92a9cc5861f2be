"""Oracles of the factorisation and its loss, in float64."""

import math

import pytest
import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import exact_log_flows, terminating_distribution
from common.gfn.hypergrid import HyperGrid
from common.gfn.objectives import detailed_balance, flow_matching, residual, reward_matching
from common.gfn.rows import whole
from common.gfn.strings import StringEnv
from papers.bn.method import (
    full_batch_loss,
    log_allocation,
    log_edge_flow,
    log_inflow,
    state_pair,
    stop_pair,
)

D = torch.float64
GRID = HyperGrid(2, 8, "standard-1")
DAG = GRID.dag()


def at(*x: int) -> int:
    return int(GRID.index(torch.tensor(x)))


def random_streams(dag: EnumeratedDAG, seed: int = 0, n_seeds: int = 2) -> tuple[Tensor, Tensor]:
    """log F [S, N] and allocation logits [S, N, A]."""
    rng = torch.Generator().manual_seed(seed)
    log_flow = torch.randn(n_seeds, dag.n_states, generator=rng, dtype=D)
    logits = torch.randn(n_seeds, dag.n_states, dag.n_actions, generator=rng, dtype=D)
    return log_flow, logits


def string_dag(mode: str, length: int = 3, n_letters: int = 2) -> EnumeratedDAG:
    """Strings without a stop action."""
    weights = torch.linspace(0.3, 1.9, length, dtype=D)
    env = StringEnv(mode, length, n_letters, lambda x: (x * weights).sum(-1))  # type: ignore[arg-type]
    return env.dag()


def inflow_of(dag: EnumeratedDAG, log_flow: Tensor, log_alloc: Tensor) -> Tensor:
    return log_inflow(dag, whole(), log_flow, log_alloc)


def exact_streams(dag: EnumeratedDAG, log_pb: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log F and log A (as logits) of the flow that is exact for a backward policy. [1, ...]."""
    log_flow, log_edge = exact_log_flows(dag, log_pb)
    logits = (log_edge - log_flow.unsqueeze(-1)).clamp(min=-1e6)
    return log_flow.unsqueeze(0), logits.unsqueeze(0)


def prefers_first_coordinate() -> Tensor:
    """P_B that undoes the first positive coordinate with weight 2 against 1. [N, 2]."""
    weight = DAG.backward_mask.double() * torch.tensor([2.0, 1.0], dtype=D)
    return (weight / weight.sum(-1, keepdim=True).clamp(min=1)).log()


# -- 1: the residual is flow matching's ----------------------------------------------------------


@pytest.mark.parametrize("dag", [DAG, string_dag("prepend_append"), string_dag("slots")])
def test_residual_is_flow_matchings(dag: EnumeratedDAG) -> None:
    log_flow, logits = random_streams(dag)
    log_alloc = log_allocation(logits, dag.forward_mask)
    edges = log_edge_flow(log_flow, log_alloc)  # what FM would output
    index = dag.parents.clamp(min=0) * dag.n_actions + dag.parent_actions
    fm = residual(
        flow_matching(edges.flatten(1)[:, index], dag.backward_mask, edges, dag.forward_mask)
    )
    is_object = torch.isfinite(dag.log_reward) & (dag.stop is None)
    bn = residual(
        state_pair(inflow_of(dag, log_flow, log_alloc), log_flow, dag.log_reward, is_object)
    )
    inner = dag.backward_mask.any(-1) & ~is_object
    assert inner.any()
    assert torch.allclose(bn[:, inner], fm[:, inner], rtol=0, atol=1e-12)
    if dag.stop is not None:
        ours = residual(stop_pair(log_flow, log_alloc[..., dag.stop], dag.log_reward))
        theirs = residual(reward_matching(edges[..., dag.stop], dag.log_reward))
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_same_gradient_as_flow_matching_on_the_factorised_logits() -> None:
    """BN is FM with the logits written as f + log A: summing the outflow edge by edge gives the
    same derivatives, since a softmax sums to one whatever its logits are."""
    log_flow, logits = (x.requires_grad_() for x in random_streams(DAG))
    bn = full_batch_loss(DAG, log_flow, logits).sum()
    edges = log_edge_flow(log_flow, log_allocation(logits, DAG.forward_mask))
    index = DAG.parents.clamp(min=0) * DAG.n_actions + DAG.parent_actions
    pair = flow_matching(edges.flatten(1)[:, index], DAG.backward_mask, edges, DAG.forward_mask)
    reached = DAG.backward_mask.any(-1)
    last = reward_matching(edges[..., GRID.stop], DAG.log_reward)
    fm = torch.cat([residual(pair)[:, reached], residual(last)], -1).square().mean(-1)
    for a, b in zip(
        torch.autograd.grad(bn, (log_flow, logits)),
        torch.autograd.grad(fm.sum(), (log_flow, logits)),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_gradient_is_not_flow_matchings_on_its_own_logits() -> None:
    """FM's residual of s' moves all outgoing edges of s'; BN's moves one number."""
    log_flow, logits = random_streams(DAG, n_seeds=1)
    edges = log_edge_flow(log_flow, log_allocation(logits, DAG.forward_mask)).requires_grad_()
    index = DAG.parents.clamp(min=0) * DAG.n_actions + DAG.parent_actions
    pair = flow_matching(edges.flatten(1)[:, index], DAG.backward_mask, edges, DAG.forward_mask)
    s = at(3, 4)
    (grad,) = torch.autograd.grad(residual(pair)[0, s], edges)
    assert (grad[0, s] < -1e-3).all()  # the three outgoing edges, the stop edge included


# -- 2: structure of the gradient ----------------------------------------------------------------


def test_gradient_structure() -> None:
    log_flow, logits = (x.requires_grad_() for x in random_streams(DAG, n_seeds=1))
    log_alloc = log_allocation(logits, DAG.forward_mask)
    inflow = inflow_of(DAG, log_flow, log_alloc)
    s = at(2, 5)
    pair = state_pair(inflow, log_flow, DAG.log_reward, torch.zeros(64, dtype=torch.bool))
    by_flow, by_logits = torch.autograd.grad(
        residual(pair)[0, s], (log_flow, logits), retain_graph=True
    )
    assert not by_logits[0, s].any()
    assert float(by_flow[0, s]) == pytest.approx(-1, abs=1e-14)
    shares = 0.0
    for parent, action in ((at(1, 5), 0), (at(2, 4), 1)):
        edge = log_flow[0, parent] + log_alloc[0, parent, action]
        share = float((edge - inflow[0, s]).detach().exp())
        assert float(by_flow[0, parent]) == pytest.approx(share, abs=1e-14)
        assert by_logits[0, parent].any()
        shares += share
    assert shares == pytest.approx(1, abs=1e-14)
    assert int((by_flow[0] != 0).sum()) == 3  # s' and its two parents, nothing else
    # the terminal copy is another node, whose parent is x
    stopped = residual(stop_pair(log_flow, log_alloc[..., GRID.stop], DAG.log_reward))
    by_flow, by_logits = torch.autograd.grad(stopped[0, s], (log_flow, logits))
    assert float(by_flow[0, s]) == 1 and int((by_flow != 0).sum()) == 1
    assert by_logits[0, s].any() and int(by_logits.any(-1).sum()) == 1


@pytest.mark.parametrize("x", [(0, 3), (3, 0)])
def test_states_on_the_border_have_one_parent(x: tuple[int, int]) -> None:
    """The parent that does not exist contributes nothing, and gets no gradient."""
    log_flow, logits = (t.requires_grad_() for t in random_streams(DAG, n_seeds=1))
    log_alloc = log_allocation(logits, DAG.forward_mask)
    inflow = inflow_of(DAG, log_flow, log_alloc)[0, at(*x)]
    coordinate = 0 if x[0] else 1
    parent = list(x)
    parent[coordinate] -= 1
    only = log_flow[0, at(*parent)] + log_alloc[0, at(*parent), coordinate]
    assert float(inflow.detach()) == pytest.approx(float(only.detach()), abs=1e-13)
    (grad,) = torch.autograd.grad(inflow, log_flow)
    assert int((grad != 0).sum()) == 1


# -- 3: on a tree it is detailed balance ---------------------------------------------------------


def test_on_a_tree_it_is_detailed_balance() -> None:
    dag = string_dag("append", length=3, n_letters=3)
    log_flow, logits = random_streams(dag)
    log_alloc = log_allocation(logits, dag.forward_mask)
    is_object = torch.isfinite(dag.log_reward)
    bn = residual(
        state_pair(inflow_of(dag, log_flow, log_alloc), log_flow, dag.log_reward, is_object)
    )
    ends = torch.where(is_object, dag.log_reward, log_flow)  # F(x) := R(x)
    src, act = (dag.children >= 0).nonzero(as_tuple=True)
    dst = dag.children[src, act]
    flows = torch.stack([ends[:, src], ends[:, dst]], -1)  # one-step trajectories
    log_pf = log_alloc[:, src, act].unsqueeze(-1)
    db = residual(detailed_balance(flows, log_pf, torch.zeros_like(log_pf))).squeeze(-1)
    assert torch.allclose(bn[:, dst], db, rtol=0, atol=1e-12)
    # and on a DAG that is no tree it is not
    other = string_dag("prepend_append", length=3, n_letters=3)
    log_flow, logits = random_streams(other)
    log_alloc = log_allocation(logits, other.forward_mask)
    pairwise = (
        log_flow[:, other.parents.clamp(min=0)[:, 0]]
        + log_alloc.flatten(1)[
            :, (other.parents.clamp(min=0) * other.n_actions + other.parent_actions)[:, 0]
        ]
    )
    assert ((inflow_of(other, log_flow, log_alloc) - pairwise)[:, 1:] > 1e-3).all()


# -- 4, 5, 6: solutions --------------------------------------------------------------------------


def test_exact_flows_have_no_loss() -> None:
    log_flow, logits = exact_streams(DAG)
    flow, alloc = log_flow[0].exp(), logits[0].exp()
    assert float(flow[at(0, 0)]) == pytest.approx(22.4, abs=1e-9)
    assert float(flow[at(1, 0)]) == pytest.approx(10.9, abs=1e-9)
    assert float(flow[at(1, 1)]) == pytest.approx(4.7322265625, abs=1e-9)
    assert alloc[at(0, 0)].tolist() == pytest.approx([0.48660714, 0.48660714, 0.02678571], abs=1e-8)
    assert float(full_batch_loss(DAG, log_flow, logits)) < 1e-24
    assert float(full_batch_loss(DAG, log_flow + 0.1, logits)) > 1e-3  # the check can fail


def test_other_backward_policies_give_other_solutions() -> None:
    log_flow, logits = exact_streams(DAG, prefers_first_coordinate())
    flow = log_flow[0].exp()
    expected = {(0, 0): 22.4, (1, 0): 7.64275997, (0, 1): 14.15724003, (1, 1): 4.42037968}
    for x, value in expected.items():
        assert float(flow[at(*x)]) == pytest.approx(value, abs=1e-8)
    assert float(full_batch_loss(DAG, log_flow, logits)) < 1e-24


@pytest.mark.parametrize("dag", [DAG, string_dag("prepend_append"), string_dag("slots")])
def test_scaled_rewards_scale_the_flows(dag: EnumeratedDAG) -> None:
    log_flow, logits = exact_streams(dag)
    dag_c = EnumeratedDAG(**{**_fields(dag), "log_reward": dag.log_reward + math.log(7.0)})
    assert float(full_batch_loss(dag_c, log_flow + math.log(7.0), logits)) < 1e-24
    assert float(full_batch_loss(dag_c, log_flow, logits)) > 1e-2


def _fields(dag: EnumeratedDAG) -> dict[str, object]:
    names = ("children", "forward_mask", "parents", "parent_actions", "backward_index", "level")
    return {n: getattr(dag, n) for n in names} | {"source": dag.source, "stop": dag.stop}


def test_zero_loss_samples_the_target_whatever_its_flow() -> None:
    """Mixtures of exact flows are exact; their allocations sample R/Z all the same."""
    one, _ = exact_log_flows(DAG)
    two, _ = exact_log_flows(DAG, prefers_first_coordinate())
    for log_pb in (None, prefers_first_coordinate()):
        log_flow, logits = exact_streams(DAG, log_pb)
        log_pf = log_allocation(logits, DAG.forward_mask)
        gap = (terminating_distribution(DAG, log_pf)[0] - DAG.target()).abs().sum()
        assert float(gap) < 1e-12
    assert (one - two).abs().max() > 0.1
