"""Learning on row numbers: builders of DAGs, sampling, and what objectives gather."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from common.gfn.dag import EnumeratedDAG, dag_from_children
from common.gfn.exact import (
    exact_log_flows,
    exact_policies,
    terminating_distribution,
    uniform_log_pf,
)
from common.gfn.hypergrid import HyperGrid
from common.gfn.metrics import l1_sum_exact
from common.gfn.nets import StackedMLP
from common.gfn.objectives import loss_per_seed, training_pairs
from common.gfn.rows import part_of, sample_rows, visit, whole, with_parents
from common.gfn.sampling import Trajectories, sample_from_table, uniforms
from common.gfn.sets import set_dag
from common.gfn.strings import StringEnv
from common.stacked import seed_generators


def uneven_tree() -> EnumeratedDAG:
    """root -> {a, b}; a -> {x}; b -> {y1, y2, y3}: in-edges are numbered by the builder."""
    children = torch.tensor(
        [[1, 2, -1], [3, -1, -1], [4, 5, 6], *([[-1, -1, -1]] * 4)], dtype=torch.long
    )
    reward = torch.tensor([0, 0, 0, 6.0, 1.0, 2.0, 3.0]).double().log()
    level = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    return dag_from_children(children, log_reward=reward, level=level)


def cases() -> dict[str, EnumeratedDAG]:
    def reward(x: torch.Tensor) -> torch.Tensor:
        return -0.7 * x.sum(-1).double()

    return {
        "grid": HyperGrid(2, 6, "standard-2").dag(),
        "append": StringEnv("append", 3, 2, reward).dag(),
        "both-ends": StringEnv("prepend_append", 3, 2, reward).dag(),
        "sets": set_dag(5, 3, lambda x: x.double() @ torch.arange(5).double()),
        "tree": uneven_tree(),
    }


def with_inputs(dag: EnumeratedDAG) -> EnumeratedDAG:
    if dag.active is not None:
        return dag
    return replace(dag, active=torch.arange(dag.n_states).unsqueeze(-1), input_dim=dag.n_states)


@pytest.mark.parametrize("name", cases())
def test_tables_are_consistent(name: str) -> None:
    dag = cases()[name]
    src, act = (dag.children >= 0).nonzero(as_tuple=True)
    dst, back = dag.children[src, act], dag.backward_index[src, act]
    assert (dag.parents[dst, back] == src).all() and (dag.parent_actions[dst, back] == act).all()
    assert int(dag.backward_mask.sum()) == len(src)
    assert float(l1_sum_exact(dag, exact_policies(dag)[0])) < 1e-12


def test_sets_of_three_from_five() -> None:
    dag = set_dag(5, 3, lambda x: (1 + (x.double() @ torch.arange(5).double()) ** 2).log())
    assert dag.n_states == 26 and int(torch.isfinite(dag.log_reward).sum()) == 10
    flow = exact_log_flows(dag)[0].exp()
    members = (dag.active - 2 * torch.arange(5)).bool()

    def row(*items: int) -> int:
        wanted = torch.zeros(5, dtype=torch.bool)
        wanted[list(items)] = True
        return int((members == wanted).all(-1).nonzero())

    assert float(flow[row()]) == pytest.approx(400)
    assert float(flow[row(4)]) == pytest.approx(103 + 1 / 3)
    assert float(flow[row(3, 4)]) == pytest.approx(65 + 2 / 3)
    assert float(flow[row(2, 3, 4)]) == pytest.approx(82)
    assert (dag.backward_mask.sum(-1) == dag.level).all()


def test_wide_sets() -> None:
    dag = set_dag(16, 5, lambda x: x.sum(-1).double())
    assert dag.n_states == 6885 and int(torch.isfinite(dag.log_reward).sum()) == 4368


def test_packed_strings_are_numbered_by_length() -> None:
    env = StringEnv("prepend_append", 4, 3, lambda x: x.sum(-1).double())
    states = env.all_states()
    assert len(states) == 1 + 3 + 9 + 27 + 81
    assert (env.index(states) == torch.arange(len(states))).all()
    empty = env.empty
    assert int(env.index(torch.tensor([2, 0, 1, empty]))) == 1 + 3 + 9 + 2 * 9 + 1
    dag = env.dag()
    assert dag.source == 0 and dag.n_states == len(states)
    assert (dag.encode(torch.arange(len(states))) == env.encode(states)).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("name", cases())
def test_sampling_rows_follows_the_policy(name: str, epsilon: float) -> None:
    dag = cases()[name]
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, dag.n_states, dag.n_actions, generator=rng)
    log_pf = logits.masked_fill(~dag.forward_mask, -1e9).log_softmax(-1)
    mixed = (1 - epsilon) * log_pf.exp() + epsilon * uniform_log_pf(dag).exp()
    exact = terminating_distribution(dag, mixed.log())
    seed = torch.arange(2).unsqueeze(-1)
    u = uniforms(seed_generators((1, 2), 0), (dag.max_length, 20_000))
    traj = sample_rows(dag, lambda rows: logits[seed, rows], u, epsilon=epsilon)
    for s in range(2):
        seen = torch.bincount(traj.last[s], minlength=dag.n_states) / 20_000
        assert float((seen - exact[s]).abs().max()) < 0.02
    if not epsilon:
        table = sample_from_table(dag, log_pf, u)
        assert (table.last == traj.last).all()
        moves = traj.mask
        assert (table.actions[..., : moves.shape[-1]][moves] == traj.actions[moves]).all()


def uniform_trajectories(dag: EnumeratedDAG, n_seeds: int, batch: int) -> Trajectories:
    u = uniforms(seed_generators(range(n_seeds), 5), (dag.max_length, batch))
    return sample_from_table(dag, uniform_log_pf(dag).expand(n_seeds, -1, -1), u)


@pytest.mark.parametrize("objective", ["tb", "db", "stb", "fm"])
@pytest.mark.parametrize("name", cases())
def test_exact_solution_has_no_loss(name: str, objective: str) -> None:
    dag = cases()[name]
    log_pf, log_pb, log_flow = exact_policies(dag)
    head = exact_log_flows(dag)[1] if objective == "fm" else log_pf
    out = torch.cat([head, log_pb, log_flow.unsqueeze(-1)], -1).clamp(min=-1e6).unsqueeze(0)
    traj = uniform_trajectories(dag, 1, 16)
    log_Z = torch.tensor([dag.log_Z], dtype=torch.float64)

    def loss(out: torch.Tensor, log_Z: torch.Tensor) -> float:
        visited = visit(dag, whole(), out, traj, fm=objective == "fm")
        parts = training_pairs(
            objective, visited, traj.actions, traj.mask, stop=dag.stop, log_Z=log_Z
        )
        for _, weights in parts:
            assert torch.allclose(weights.double().flatten(1).sum(1), torch.ones(1).double())
        return float(loss_per_seed(parts))

    assert loss(out, log_Z) < 1e-10
    wrong = out.clone()
    wrong[..., -1] += 0.3 * torch.arange(dag.n_states)
    wrong[..., 0] += 0.3 * torch.arange(dag.n_states)
    assert loss(wrong, log_Z + 0.3) > 1e-3


@pytest.mark.parametrize("objective", ["tb", "db", "stb", "fm"])
@pytest.mark.parametrize("name", cases())
def test_distinct_rows_give_the_same_loss_and_gradient(name: str, objective: str) -> None:
    dag = with_inputs(cases()[name])
    n_out = dag.n_actions + dag.n_backward + 1
    net = StackedMLP(seed_generators((0, 1), 0), (dag.input_dim, 16, 16, n_out))
    traj = uniform_trajectories(dag, 2, 6)
    fm = objective == "fm"
    part = part_of(with_parents(dag, traj.states) if fm else traj.states)
    assert dag.active is not None and part.rows is not None
    everything = torch.arange(dag.n_states).expand(2, -1)
    results = []
    for some, rows in ((part, part.rows), (whole(), everything)):
        out = net.from_active_inputs(dag.active[rows])
        visited = visit(dag, some, out, traj, fm=fm)
        parts = training_pairs(
            objective, visited, traj.actions, traj.mask, stop=dag.stop, log_Z=torch.ones(2)
        )
        loss = loss_per_seed(parts)
        results.append((loss, *torch.autograd.grad(loss.sum(), list(net.parameters()))))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-9)


def test_uniform_backward_policy() -> None:
    dag = cases()["sets"]
    out = torch.randn(1, dag.n_states, 11, generator=torch.Generator().manual_seed(0))
    traj = uniform_trajectories(dag, 1, 4)
    visited = visit(dag, whole(), out, traj, learned_pb=False)
    expected = -torch.tensor([1.0, 2.0, 3.0]).log()  # sets of t items have t parents
    assert torch.allclose(visited.log_pb, expected.expand_as(visited.log_pb))


def test_parts_hold_what_was_asked_for() -> None:
    dag = cases()["sets"]
    states = torch.tensor([[25, 3], [7, 7]])
    part = part_of(with_parents(dag, states))
    assert part.rows is not None and (part.rows >= 0).all()
    for s in range(2):
        parents = {int(r) for r in dag.parents[states[s]].flatten()}
        assert set(part.rows[s].tolist()) == ({int(r) for r in states[s]} | parents) - {-1}
    assert (part.rows.gather(1, part.at(states)) == states).all()


def test_tree_has_no_backward_choice() -> None:
    dag = uneven_tree()
    assert dag.n_backward == 1 and math.isclose(dag.log_Z, math.log(12))
