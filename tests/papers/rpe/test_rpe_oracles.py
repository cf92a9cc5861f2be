"""Exact numbers of the theory: uneven tree, sets, strings, random layered DAGs, the tasks."""

import math

import pytest
import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG, dag_from_children
from common.gfn.exact import exact_log_flows, terminating_distribution, uniform_log_pf
from common.gfn.metrics import l1_sum_exact
from common.gfn.sets import set_dag
from common.gfn.strings import StringEnv
from papers.rpe import method, task
from papers.rpe.baselines import soft_iteration

D = torch.float64


def tree_from_edges(edges: dict[int, list[int]], reward: dict[int, float]) -> EnumeratedDAG:
    n = 1 + max(max(c) for c in edges.values())
    children = torch.full((n, max(map(len, edges.values()))), -1)
    level = torch.zeros(n, dtype=torch.long)
    for s in sorted(edges):
        children[s, : len(edges[s])] = torch.tensor(edges[s])
        level[edges[s]] = level[s] + 1
    log_reward = torch.full((n,), -torch.inf, dtype=D)
    for x, r in reward.items():
        log_reward[x] = math.log(r)
    return dag_from_children(children, log_reward=log_reward, level=level)


UNEVEN = tree_from_edges(  # root -> a, b; a -> x1; b -> y1, y2, y3
    {0: [1, 2], 1: [3], 2: [4, 5, 6]}, {3: 6.0, 4: 1.0, 5: 2.0, 6: 3.0}
)


def little_strings(mode: str) -> EnumeratedDAG:
    """Two letters, L=4, R = 1 + integer value, the first letter the lowest bit."""
    weight = 2 ** torch.arange(4)
    return StringEnv(mode, 4, 2, lambda s: (1 + (s * weight).sum(-1)).double().log()).dag()


def merged(dag: EnumeratedDAG) -> EnumeratedDAG:
    """Duplicate edges between the same two states merged, as public benchmark code does."""
    children = dag.children.clone()
    for s, row in enumerate(children.tolist()):
        for a, child in enumerate(row):
            if child in row[:a]:
                children[s, a] = -1
    return dag_from_children(children, log_reward=dag.log_reward, level=dag.level)


def row_of(dag_length: int, text: str) -> int:
    env = StringEnv("append", dag_length, 2, lambda s: s.sum(-1).double())
    letters = [int(c) for c in text] + [2] * (dag_length - len(text))
    return int(env.index(torch.tensor(letters)))


def circulant(seed: int) -> EnumeratedDAG:
    """Layered DAG (1, 6, 12, 4 states) with A and B that depend on depth only; rewards random."""
    rng = torch.Generator().manual_seed(seed)
    widths, degrees = (1, 6, 12, 4), (6, 4, 2)
    first = [0, 1, 7, 19]
    children = torch.full((23, 6), -1)
    for layer, degree in enumerate(degrees):
        width, following = widths[layer], widths[layer + 1]
        names = first[layer + 1] + torch.randperm(following, generator=rng)
        for i in range(width):
            start = i * max(following // width, 1)
            children[first[layer] + i, :degree] = names[(start + torch.arange(degree)) % following]
    log_reward = torch.full((23,), -torch.inf, dtype=D)
    log_reward[19:] = torch.randn(4, generator=rng, dtype=D)
    level = torch.repeat_interleave(torch.arange(4), torch.tensor(widths))
    return dag_from_children(children, log_reward=log_reward, level=level)


def test_uneven_tree() -> None:
    log_v, log_pf = method.tabular_rpe(UNEVEN)
    assert log_v.exp().tolist() == pytest.approx([12, 12, 12, 12, 6, 12, 18])
    p = terminating_distribution(UNEVEN, log_pf)
    assert p.tolist() == pytest.approx([0, 0, 0, 1 / 2, 1 / 12, 1 / 6, 1 / 4])
    _, plain = method.tabular_unrectified(UNEVEN)
    p = terminating_distribution(UNEVEN, plain)
    assert p.tolist() == pytest.approx([0, 0, 0, 3 / 4, 1 / 24, 1 / 12, 1 / 8])
    assert float(l1_sum_exact(UNEVEN, plain)) == pytest.approx(0.5)


def test_sets() -> None:
    items = torch.arange(5)
    dag = set_dag(5, 3, lambda m: (1 + (m * items).sum(-1) ** 2).double().log())
    log_g = method.log_path_factor(dag)
    for level, g in enumerate((1, 5, 10, 10)):
        assert log_g[dag.level == level].exp().tolist() == pytest.approx(
            [g] * int((dag.level == level).sum())
        )
    log_v, log_pf = method.tabular_rpe(dag)
    assert math.exp(log_v[0]) == pytest.approx(400)
    flow = (log_v - log_g).exp()
    four = int(dag.children[0, 4])
    both = int(dag.children[four, 3])
    assert float(flow[four]) == pytest.approx(310 / 3)
    assert float(flow[both]) == pytest.approx(197 / 3)
    last = int(dag.children[both, 2])
    assert float(terminating_distribution(dag, log_pf)[last]) == pytest.approx(0.205)
    # without 1/B the same here (B depends on depth), without rectification too
    assert float(l1_sum_exact(dag, log_pf)) < 1e-12


def test_strings_with_parallel_edges() -> None:
    dag = little_strings("prepend_append")
    log_v, log_pf = method.tabular_rpe(dag)
    log_g = method.log_path_factor(dag)
    assert torch.allclose(log_g, dag.level.double() * math.log(2))
    flow = (log_v - log_g).exp()
    assert float(flow[0]) == pytest.approx(136)
    assert float(flow[row_of(4, "0")]) == pytest.approx(54.5)
    assert float(flow[row_of(4, "01")]) == pytest.approx(38.5)
    assert float(flow[row_of(4, "10")]) == pytest.approx(29.5)
    assert float(l1_sum_exact(dag, log_pf)) < 1e-12


def test_merged_duplicates_break_the_condition() -> None:
    dag = merged(little_strings("prepend_append"))
    low, high = method.path_factor_range(dag)
    at = row_of(4, "001")
    assert (math.exp(low[at]), math.exp(high[at])) == pytest.approx((6, 9))
    at = row_of(4, "0111")
    assert (math.exp(low[at]), math.exp(high[at])) == pytest.approx((12, 27))
    with pytest.raises(ValueError, match="path factors"):
        method.tabular_rpe(dag)
    log_v, log_pf = method.tabular_rpe(dag, log_g=high)
    assert math.exp(log_v[0]) == pytest.approx(172.125)
    assert float(l1_sum_exact(dag, log_pf)) == pytest.approx(0.1126, abs=5e-5)
    plain_v, plain = method.tabular_unrectified(dag)
    assert float(l1_sum_exact(dag, plain)) == pytest.approx(0.25, abs=5e-5)
    with_b = method.sampling_policy(dag, plain_v)
    assert float(l1_sum_exact(dag, with_b)) == pytest.approx(0.0707, abs=5e-5)
    flows, _ = exact_log_flows(dag)  # flow iteration needs no condition
    assert float(l1_sum_exact(dag, method.sampling_policy(dag, flows))) < 1e-12


@pytest.mark.parametrize("branching", [2, 3])
def test_rectification_is_idle_where_branching_is_constant(branching: int) -> None:
    rng = torch.Generator().manual_seed(branching)
    table = torch.randn(branching**3, generator=rng, dtype=D)
    radix = branching ** torch.arange(2, -1, -1)
    dag = StringEnv("append", 3, branching, lambda s: table[(s * radix).sum(-1)]).dag()
    _, rectified = method.tabular_rpe(dag)
    _, plain = method.tabular_unrectified(dag)
    used = dag.forward_mask
    assert torch.allclose(rectified[used], plain[used], atol=1e-12)


def test_scaling_the_reward() -> None:
    dag = task.word_dag(task.read_words(30))
    log_v, log_pf = method.tabular_rpe(dag)
    dag.log_reward += math.log(7.0)
    scaled_v, scaled_pf = method.tabular_rpe(dag)
    assert torch.allclose(scaled_v, log_v + math.log(7.0))
    assert torch.allclose(scaled_pf, log_pf)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_flows_times_factors(seed: int) -> None:
    dag = circulant(seed)
    in_degree = dag.backward_mask.sum(-1)
    assert all(in_degree[dag.level == t].unique().numel() == 1 for t in range(4))
    assert int(in_degree.max()) > 1
    log_v, log_pf = method.tabular_rpe(dag)
    log_flow, _ = exact_log_flows(dag)
    assert torch.allclose(log_v, log_flow + method.log_path_factor(dag))
    assert float(l1_sum_exact(dag, log_pf)) < 1e-12
    # V itself, per edge, is the same sampler
    used = dag.forward_mask
    assert torch.allclose(log_pf[used], method.policy_over_children(dag, log_v)[used])


def test_dropping_in_degrees_is_wrong_where_they_vary() -> None:
    """Flows need 1/B in the sampler; unnoticed on trees."""
    dag = merged(little_strings("prepend_append"))
    flows, _ = exact_log_flows(dag)
    assert float(l1_sum_exact(dag, method.policy_over_children(dag, flows))) > 0.05


@pytest.mark.parametrize("dag", [UNEVEN, circulant(0), little_strings("prepend_append")])
def test_soft_dqn_finds_the_same_flows(dag: EnumeratedDAG) -> None:
    log_flow, _ = exact_log_flows(dag)
    value, log_pf = soft_iteration(dag)
    assert torch.allclose(value, log_flow)
    assert float(l1_sum_exact(dag, log_pf)) < 1e-12


def test_munchausen_needs_the_temperature_in_its_bonus() -> None:
    dag = little_strings("prepend_append")
    log_flow, _ = exact_log_flows(dag)
    value, log_pf = soft_iteration(dag, alpha=0.15)
    assert torch.allclose(value, log_flow, atol=1e-8)
    assert float(l1_sum_exact(dag, log_pf)) < 1e-8
    _, off = soft_iteration(dag, alpha=0.15, bonus_temperature=1.0)
    assert float(l1_sum_exact(dag, off)) == pytest.approx(0.0094, abs=5e-5)


def test_path_factor_along_a_trajectory() -> None:
    dag = task.word_dag(task.read_words(40))
    log_g = method.log_path_factor(dag)
    path = [int((dag.children[0] >= 0).nonzero()[0])]
    rows = [0]
    while dag.forward_mask[rows[-1]].any():
        rows.append(int(dag.children[rows[-1]][dag.children[rows[-1]] >= 0][-1]))
    assert len(path) == 1 and len(rows) > 3
    states = torch.tensor(rows)
    along = method.log_path_factor_along(
        method.log_out_degree(dag)[states], method.log_in_degree(dag)[states]
    )
    assert torch.allclose(along, log_g[states])


# -- the tasks ----------------------------------------------------------------------------------


def exact_l1(dag: EnumeratedDAG) -> tuple[float, float, float]:
    """(rectified, unrectified, uniform)."""
    policies: list[Tensor] = [
        method.tabular_rpe(dag)[1],
        method.tabular_unrectified(dag)[1],
        uniform_log_pf(dag),
    ]
    rectified, plain, uniform = (float(l1_sum_exact(dag, p)) for p in policies)
    return rectified, plain, uniform


def test_words() -> None:
    dag = task.make_dag("words")
    objects = torch.isfinite(dag.log_reward)
    assert int(objects.sum()) == 494 and int((~objects).sum()) == 2759
    assert int(dag.forward_mask[0].sum()) == 48
    assert int(dag.level.max()) - 1 == 26
    assert math.exp(dag.log_Z) == pytest.approx(23867)
    rectified, plain, uniform = exact_l1(dag)
    assert rectified < 1e-10
    assert (plain, uniform) == pytest.approx((0.9849, 1.0303), abs=5e-5)
    assert dag.active is not None  # no two states look alike to the network
    assert len(dag.active.unique(dim=0)) == dag.n_states


def test_variable_length_strings() -> None:
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    dag = task.make_dag("rna1-var")
    objects = torch.isfinite(dag.log_reward)
    assert int(objects.sum()) == 21760
    log_g = method.log_path_factor(dag)
    assert log_g[objects].exp().round().unique().tolist() == [1280, 6400, 32000]
    rectified, plain, uniform = exact_l1(dag)
    assert rectified < 1e-10
    assert (plain, uniform) == pytest.approx((0.5718, 1.2791), abs=5e-5)
    assert dag.active is not None
    assert len(dag.active.unique(dim=0)) == dag.n_states


def test_grid_is_outside_the_theory() -> None:
    """HyperGrid: one path's factor in place of the invariant one gives neither Z nor the target."""
    dag = task.make_dag(task.GRID)
    assert float(method.path_dependence(dag).max()) > math.log(100)
    with pytest.raises(ValueError, match="path factors"):
        method.tabular_rpe(dag)
    low, high = method.path_factor_range(dag)
    for one_path in (low, high):
        log_v, log_pf = method.tabular_rpe(dag, log_g=one_path)
        assert abs(float(log_v[0]) - dag.log_Z) > 0.3
        assert float(l1_sum_exact(dag, log_pf)) > 0.1
    flows, _ = exact_log_flows(dag)
    assert math.exp(dag.log_Z) == pytest.approx(22.4)
    assert float(l1_sum_exact(dag, method.sampling_policy(dag, flows))) < 1e-12
