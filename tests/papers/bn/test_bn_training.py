"""The training code: BN's equation solved, exact solutions are fixed points, runs resume."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.gfn.exact import exact_log_flows, uniform_log_pb, uniform_log_pf
from common.gfn.metrics import l1_sum_exact
from common.gfn.objectives import loss_per_seed
from common.gfn.rows import part_of, sample_rows, whole
from common.gfn.sampling import sample_from_table, uniforms
from common.gfn.strings import StringEnv
from common.rows import Rows
from common.run import Run
from common.stacked import seed_generators
from papers import bn
from papers.bn.baselines import make_network, needed_rows, pairs_of
from papers.bn.config import Config
from papers.bn.eval import EvalConfig, evaluate, stream_saliency
from papers.bn.method import BifurcatedNet, bifurcated_pairs, pooled
from papers.bn.methods import METHODS, TRAINED
from papers.bn.report import figures, tables
from papers.bn.task import (
    Problem,
    from_table,
    grid_problem,
    planted_pairs,
    problem,
    set_problem,
    string_problem,
)
from papers.bn.train import log_pf_of_all_rows, sample_batch, train

D = torch.float64


def strings(length: int = 3, n_letters: int = 3) -> Problem:
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(n_letters**length, generator=rng, dtype=D)
    env = StringEnv("prepend_append", length, n_letters, from_table(table, n_letters))
    return string_problem(env, epsilon=0.01)


PROBLEMS = {"grid": grid_problem(2, 6), "sets": set_problem(6, 3), "strings": strings()}


def exact_output(method: str, where: Problem) -> torch.Tensor:
    """Network output that is the exact uniform-P_B solution. [1, N, heads] float64."""
    dag = where.dag
    log_flow, log_edge = exact_log_flows(dag)
    log_pf = log_edge - log_flow.unsqueeze(-1)
    if method == "fm":
        out = log_edge
    elif method.startswith("bn"):
        out = torch.cat([log_pf, log_flow.unsqueeze(-1)], -1)
    else:
        out = torch.cat([log_pf, uniform_log_pb(dag), log_flow.unsqueeze(-1)], -1)
    return out.nan_to_num(nan=-1e6, neginf=-1e6).clamp(min=-1e6).unsqueeze(0)


@pytest.mark.parametrize("where", PROBLEMS)
@pytest.mark.parametrize("method", TRAINED)
def test_exact_solution_has_no_loss_and_no_gradient(method: str, where: str) -> None:
    task = PROBLEMS[where]
    dag = task.dag
    out = exact_output(method, task).expand(2, -1, -1).clone().requires_grad_()
    u = uniforms(seed_generators((0, 1), 5), (dag.max_length, 8))
    traj = sample_from_table(dag, uniform_log_pf(dag).expand(2, -1, -1), u)
    log_Z = torch.full((2,), dag.log_Z, dtype=D)
    loss = loss_per_seed(pairs_of(method, dag, whole(), out, traj, log_Z))
    assert float(loss.detach().max()) < 1e-20
    (grad,) = torch.autograd.grad(loss.sum(), out)
    assert float(grad.abs().max()) < 1e-9
    wrong = (out + torch.linspace(0, 1, out.shape[1]).view(1, -1, 1)).detach()  # and it can fail
    off = loss_per_seed(pairs_of(method, dag, whole(), wrong, traj, log_Z + 0.5))
    assert float(off.min()) > 1e-3


@pytest.mark.parametrize("where", PROBLEMS)
@pytest.mark.parametrize("method", TRAINED)
def test_part_and_whole_table_agree(method: str, where: str) -> None:
    """Evaluating only the states that a batch needs = evaluating all of them."""
    dag = PROBLEMS[where].dag
    sizes = (dag.input_dim, dag.n_actions, dag.n_backward, 16)
    net = make_network(method, seed_generators((0, 1), 0), *sizes).double()
    u = uniforms(seed_generators((0, 1), 1), (dag.max_length, 8))
    traj = sample_from_table(dag, uniform_log_pf(dag).expand(2, -1, -1), u)
    log_Z = torch.ones(2, dtype=D)
    everywhere = net(dag.encode(torch.arange(dag.n_states)).double())
    part = part_of(needed_rows(method, dag, traj))
    assert part.rows is not None and part.rows.shape[1] < dag.n_states
    some = net.from_active_inputs(dag.active[part.rows])
    a = loss_per_seed(pairs_of(method, dag, whole(), everywhere, traj, log_Z))
    b = loss_per_seed(pairs_of(method, dag, part, some, traj, log_Z))
    assert torch.allclose(a, b, rtol=1e-10)


def test_parents_off_the_trajectory_matter() -> None:
    """BN moves parents that the trajectory did not visit; DB does not know them."""
    dag = PROBLEMS["grid"].dag
    u = torch.full((1, dag.max_length, 1), 0.0)  # always the first allowed action
    traj = sample_rows(dag, lambda r: torch.zeros(*r.shape, 3), u + 0.4)
    for method in ("bn-flat", "fm", "db"):
        out = torch.zeros(1, dag.n_states, 6, requires_grad=True)
        heads = {"bn-flat": 4, "fm": 3}.get(method, 6)
        loss = loss_per_seed(pairs_of(method, dag, whole(), out[..., :heads], traj, None))
        (grad,) = torch.autograd.grad(loss.sum(), out)
        moved = set(grad[0].abs().sum(-1).nonzero().flatten().tolist())
        outside = moved - set(traj.states.flatten().tolist())
        assert bool(outside) == (not METHODS[method].backward), method


def test_pooled_is_one_mean() -> None:
    pair = (torch.tensor([[1.0, 2.0, 9.0]]), torch.zeros(1, 3))
    last = (torch.tensor([[3.0]]), torch.zeros(1, 1))
    parts = [(pair, torch.tensor([[0.5, 0.5, 0.0]])), (last, torch.ones(1, 1))]
    assert loss_per_seed(pooled(parts)).tolist() == pytest.approx([(1 + 4 + 9) / 3], rel=1e-5)
    assert loss_per_seed(parts).tolist() == pytest.approx([2.5 + 9])


def test_terminal_copies_weigh_alike_in_bn_and_fm() -> None:
    dag = PROBLEMS["grid"].dag
    u = uniforms(seed_generators((0,), 5), (dag.max_length, 8))
    traj = sample_from_table(dag, uniform_log_pf(dag).unsqueeze(0), u)
    out = torch.randn(1, dag.n_states, 4)
    weights = {
        m: [w for _, w in pairs_of(m, dag, whole(), out[..., :n], traj, None)]
        for m, n in (("bn", 4), ("fm", 3))
    }
    for a, b in zip(weights["bn"], weights["fm"], strict=True):
        assert torch.equal(a, b)
    assert float(sum(w.sum() for w in weights["bn"])) == pytest.approx(1, rel=1e-5)


def test_streams_share_the_trunk_only() -> None:
    net = BifurcatedNet(seed_generators((0, 1), 0), 12, 3, width=8)
    out = net(torch.randn(2, 5, 12))
    names = [n for n, _ in net.named_parameters()]
    for chosen, other in ((out[..., -1], "allocation"), (out[..., :-1], "flow")):
        grads = torch.autograd.grad(
            chosen.sum(), list(net.parameters()), retain_graph=True, allow_unused=True
        )
        touched = {n for n, g in zip(names, grads, strict=True) if g is not None and g.any()}
        assert not any(n.startswith(other) for n in touched)
        assert any(n.startswith("trunk") for n in touched)


def test_sampling_follows_the_allocation() -> None:
    """Compiled sampling reads the allocation stream: frequencies are P_T of the table."""
    task = grid_problem(2, 4)
    net = BifurcatedNet(seed_generators((0,), 0), task.dag.input_dim, 3)
    u = uniforms(seed_generators((0,), 1), (task.dag.max_length, 20_000))
    traj = sample_batch(net, task, u)
    frequency = torch.bincount(traj.last[0], minlength=16) / 20_000
    log_pf = log_pf_of_all_rows(net, task.dag)[0]
    from common.gfn.exact import terminating_distribution

    assert (frequency - terminating_distribution(task.dag, log_pf)).abs().max() < 0.015


def test_saliency_shares() -> None:
    """Shares add up to one, and a stream that ignores a place gives it none."""
    task = PROBLEMS["grid"]
    net = BifurcatedNet(seed_generators((0, 1), 0), task.dag.input_dim, 3, width=16)
    shares = stream_saliency(net, task.dag, 20)
    assert shares.shape == (2, 2, 20, 2)
    assert torch.allclose(shares.sum(-1), torch.ones(2, 2, 20))
    with torch.no_grad():
        net.trunk.weights()[0][0][:, :6] = 0  # nothing reads the first coordinate
    assert not stream_saliency(net, task.dag, 20)[..., 0].any()


# -- tasks ---------------------------------------------------------------------------------------


def test_sets_and_their_reward() -> None:
    task = set_problem()
    dag = task.dag
    assert dag.n_states == 6885 and int(torch.isfinite(dag.log_reward).sum()) == 4368
    assert int(dag.forward_mask.sum(-1).max()) == 16
    assert int(dag.backward_mask.sum(-1).max()) == 5
    pairs = planted_pairs()
    assert len({tuple(p) for p in pairs.tolist()}) == 12
    expected = torch.zeros(dag.n_states, dtype=torch.long)
    members = dag.active % 2
    for a, b in pairs.tolist():
        expected += members[:, a] * members[:, b]
    objects = torch.isfinite(dag.log_reward)
    assert torch.equal(dag.log_reward[objects], 2.0 * expected[objects].double())


def test_modes_include_ties() -> None:
    task = set_problem()
    rewards = task.dag.log_reward[task.mode >= 0]
    others = task.dag.log_reward[(task.mode < 0) & torch.isfinite(task.dag.log_reward)]
    assert rewards.min() > others.max() and len(rewards) == task.n_modes >= 22
    assert sorted(task.mode[task.mode >= 0].tolist()) == list(range(task.n_modes))


# -- runs ----------------------------------------------------------------------------------------


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_optimised_tables_sample_the_target(tmp_path: Path) -> None:
    """Oracle: zero loss gives P_T = R/Z and Z, with a flow that is not the uniform-P_B one."""
    train(Config(task="tabular", height=4, steps=1500, seed=(100, 101), out=tmp_path / "r"))
    last = lines(tmp_path / "r")[-1]
    assert max(last["l1_sum_exact"]) < 1e-3 and max(last["log_Z_error"]) < 1e-3
    exact, _ = exact_log_flows(grid_problem(2, 4, "standard-1").dag)
    learned = Run.load(tmp_path / "r").final()["log_flow"]
    assert (learned - exact).abs().max() > 0.05
    assert abs(float((learned[:, 0] - exact[0]).max())) < 1e-3
    evaluate(EvalConfig(run=tmp_path / "r"))
    rows = json.loads((tmp_path / "r" / "eval.json").read_text())["rows"]
    assert {"l1_end", "log_Z_error_end"} <= {r["metric"] for r in rows}


@pytest.mark.parametrize(
    ("method", "task", "extra"),
    [
        ("bn", "g1", {"height": 6}),
        ("bn", "g2", {"height": 4, "table_limit": 1}),
        ("tb", "g1", {"height": 6}),
        ("bn", "tabular", {"height": 4}),
        ("uniform", "g1", {"height": 6}),
    ],
)
def test_resume_is_bit_identical(
    method: str, task: str, extra: dict, whole_and_cut: Callable
) -> None:
    config = Config(method=method, task=task, seed=(0, 1), steps=12, eval_every=3, **extra)
    whole_and_cut(train, config, 5)


@pytest.mark.parametrize("method", ["bn", "db"])
def test_stacked_seeds_equal_single_seeds(
    method: str, tmp_path: Path, trained_alike: Callable[..., None]
) -> None:
    config = Config(method=method, task="g2", height=4, steps=20, eval_every=10, table_limit=1)
    for name, seeds in (("both", (3, 5)), ("3", (3,)), ("5", (5,))):
        train(replace(config, seed=seeds, out=tmp_path / name))
    train(replace(config, seed=(5,), steps=1, out=tmp_path / "first"))
    stacked, alone, start = (
        Run.load(tmp_path / name).final()["net"] for name in ("both", "5", "first")
    )
    trained_alike(alone, {key: value[1:] for key, value in stacked.items()}, start)
    for key in ("l1_sum_exact", "modes", "distinct", "mean_reward"):
        both = torch.tensor([line[key] for line in lines(tmp_path / "both")], dtype=D)
        single = [
            torch.tensor([line[key] for line in lines(tmp_path / name)], dtype=D)
            for name in ("3", "5")
        ]
        assert torch.allclose(both, torch.cat(single, -1), rtol=1e-2), key


def test_training_learns_and_is_judged(tmp_path: Path) -> None:
    """BN nearly fits a small grid; rows, tables and figures come out of the evaluation."""
    rows: list[dict] = []
    extras: list[dict] = []
    for method in ("bn", "bn-flat", "uniform"):
        steps = 300 if method == "bn" else 20
        out = tmp_path / method
        train(Config(method, "g1", (0, 1), height=6, reward="standard-1", steps=steps, out=out))
        evaluate(EvalConfig(run=out))
        evaluation = json.loads((out / "eval.json").read_text())
        rows += evaluation["rows"]
        extras += evaluation["extras"]
    found = Rows(rows)
    assert found.of(method="bn", metric="l1_final").values().max() < 0.3
    steps, l1 = found.of(method="bn", metric="l1_sum_exact").curve()
    assert l1.shape == (2, len(steps)) and l1[:, 0].min() > l1[:, -1].max()
    assert found.of(method="uniform", metric="area").values().std() == 0
    (main,) = [t for t in tables(found) if t.main]
    assert [line[0] for line in main.rows] == ["BN", "BN-flat", "uniform", "target (exact)"]
    assert set(figures(found, extras)) == {"curves", "modes", "distributions"}
    sampler = bn.load(tmp_path / "bn", seed=1)
    p, target = sampler.distribution(), sampler.target()
    assert float((p - target).abs().sum()) == pytest.approx(l1[1, -1], abs=1e-6)
    objects = sampler.sample(4000)
    assert objects.shape == (4000, 2) and objects.max() == 5
    counts = torch.bincount(objects[:, 0] * 6 + objects[:, 1], minlength=36) / 4000
    assert float((counts - p).abs().sum()) < 0.15  # and the target's corners are the frequent ones
    with pytest.raises(UserError, match="seeds"):
        bn.load(tmp_path / "bn", seed=7)


def test_dividing_all_rewards_leaves_the_target() -> None:
    plain, small = (problem(t, **Config().sizes()) for t in ("g4", "g4-small"))
    assert small.dag.log_Z == pytest.approx(plain.dag.log_Z - 6)
    assert torch.allclose(small.dag.target(), plain.dag.target())


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bn-flat"):
        train(Config(method="bnflat", out=tmp_path))
    with pytest.raises(UserError, match="g3"):
        train(Config(task="g33", out=tmp_path))
    with pytest.raises(UserError, match="--method bn"):
        train(Config("db", "tabular", out=tmp_path))


def test_uniform_policy_floor() -> None:
    dag = grid_problem(2, 16).dag
    assert float(l1_sum_exact(dag, uniform_log_pf(dag))) == pytest.approx(1.57744, abs=5e-6)


def test_bifurcated_pairs_of_strings_have_one_part() -> None:
    task = PROBLEMS["strings"]
    u = uniforms(seed_generators((0,), 5), (3, 4))
    traj = sample_from_table(task.dag, uniform_log_pf(task.dag).unsqueeze(0), u)
    out = torch.randn(1, task.dag.n_states, 7, dtype=D)
    ((pair, weights),) = bifurcated_pairs(task.dag, whole(), out, traj)
    assert weights.shape == (1, 4, 3) and torch.allclose(weights, torch.tensor(1 / 12))
    assert torch.equal(pair[1][..., -1], task.dag.log_reward[traj.last])
