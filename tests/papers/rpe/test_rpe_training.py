"""Learned RPE and the shared loop: fixed points, both paths, resuming, stacked seeds, files."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.gfn import rna
from common.gfn.metrics import l1_sum_exact
from common.gfn.nets import StackedMLP
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import seed_generators
from papers import rpe
from papers.rpe import learners, method, task
from papers.rpe.config import Config
from papers.rpe.eval import EvalConfig, evaluate
from papers.rpe.large import LargeStrings
from papers.rpe.methods import METHODS, Learner
from papers.rpe.train import train

SMALL = task.Sizes(length=3, shortest=2, longest=4, words=30)


class Table(StackedMLP):
    """A "network" that looks its output up: one row of parameters per state."""

    def __init__(self, values: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.values = torch.nn.Parameter(values)  # [S, N, out]

    def weights(self) -> list:
        return [(self.values, self.values)]

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        index = rows.unsqueeze(-1).expand(-1, -1, self.values.shape[-1])
        return self.values.gather(1, index)


@pytest.fixture
def tabular(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (learners, method):
        monkeypatch.setattr(module, "evaluate_rows", lambda net, dag, rows: net.at(rows))


def rpe_loss(net, dag, traj, learner: Learner, log_c: torch.Tensor) -> torch.Tensor:
    """The loss of one of the learners of policy evaluation."""
    rectified, space = learner.rectified, learner.loss_space
    return method.rpe_loss(net, dag, traj, log_c, rectified=rectified, space=space)


def uniform_rollouts(dag, n_seeds: int, batch: int):
    u = uniforms(seed_generators(range(n_seeds), 9), (dag.max_length, batch))
    return method.uniform_rollout(dag, method.nth_allowed(dag), u)


def little_strings():
    """Prepend/append, two letters, four places, random rewards."""
    rng = torch.Generator().manual_seed(0)
    return task.string_dag("dag", 2, 4, torch.randn(16, generator=rng, dtype=torch.float64))


def words_dag():
    return task.word_dag(task.read_words(30))


@pytest.mark.parametrize("name", ["rpe", "rpe-log", "rpe-unrectified"])
def test_exact_values_are_a_fixed_point(name: str, tabular: None) -> None:
    dag, learner = words_dag(), METHODS[name]
    exact = method.tabular_rpe(dag)[0] if learner.rectified else method.tabular_unrectified(dag)[0]
    log_c = torch.full((2,), float(exact[0]), dtype=torch.float64)
    net = Table((exact - exact[0]).expand(2, -1).unsqueeze(-1).clone())
    traj = uniform_rollouts(dag, 2, 16)
    loss = rpe_loss(net, dag, traj, learner, log_c)
    assert loss.abs().max() < 1e-20
    net.values.data[:, 0] += 0.3
    assert rpe_loss(net, dag, traj, learner, log_c).min() > 1e-3
    # the other kind of reward is no fixed point
    net.values.data[:, 0] -= 0.3
    other = replace(learner, rectified=not learner.rectified)
    assert rpe_loss(net, dag, traj, other, log_c).min() > 1e-3


def test_uniform_rollout() -> None:
    dag = words_dag()
    traj = uniform_rollouts(dag, 1, 20_000)
    visits = torch.zeros(dag.n_states).index_add_(0, traj.last.flatten(), torch.ones(20_000))
    from common.gfn.exact import terminating_distribution, uniform_log_pf

    exact = terminating_distribution(dag, uniform_log_pf(dag))
    assert (visits / 20_000 - exact).abs().sum() < 0.05
    assert torch.isfinite(dag.log_reward[traj.last]).all()
    before, after = traj.states[..., :-1], traj.states[..., 1:]
    moved = torch.where(traj.mask, dag.children[before, traj.actions], before)
    assert torch.equal(moved, after)
    assert torch.equal(traj.mask.sum(-1), dag.level[traj.last])


@pytest.mark.parametrize("space", ["value", "log"])
def test_regression_converges_to_dynamic_programming(space: str, tabular: None) -> None:
    """Tabular outputs, all states visited: gradient descent on the loss finds V."""
    dag = task.word_dag(["a", "bc", "bd", "be"])
    learner = replace(METHODS["rpe"], loss_space=space)
    exact = method.tabular_rpe(dag)[0]
    log_c = exact[:1]
    net = Table(torch.zeros(1, dag.n_states, 1, dtype=torch.float64))
    traj = uniform_rollouts(dag, 1, 64)
    assert len(traj.states.unique()) == dag.n_states
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(600):
        optimizer.zero_grad()
        rpe_loss(net, dag, traj, learner, log_c).sum().backward()
        optimizer.step()
    assert torch.allclose(net.values[0, :, 0] + log_c, exact, atol=1e-3)


def test_targets_sum_over_all_children() -> None:
    """No sampled successor: two batches that went different ways give one target."""
    v = torch.tensor([[0.0, 1.0, -2.0, 5.0]])
    allowed = torch.tensor([[True, True, True, False]])
    expected = math.log((1 + math.e + math.exp(-2)) / 3)
    assert float(method.log_targets(v, allowed)) == pytest.approx(expected, rel=1e-5)
    v.requires_grad_()
    assert not method.log_targets(v, allowed).requires_grad


def test_error_stays_in_units_of_values() -> None:
    """Dividing by g per state would shrink a late state's error by g^2."""
    v, target = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.0])
    error = method.squared_error(v, target, "value")
    assert error.tolist() == pytest.approx([(math.exp(0.5) - 1) ** 2] * 2, rel=1e-5)
    assert method.squared_error(v, target, "log").tolist() == pytest.approx([0.25] * 2)


def test_unit_is_the_mean_target() -> None:
    dag = words_dag()
    traj = uniform_rollouts(dag, 1, 100_000)
    log_c = method.log_scale(method.log_terminal_targets(dag, traj, True))
    assert float(log_c) == pytest.approx(dag.log_Z, abs=0.05)  # V(s_0) = Z
    unrectified = method.log_scale(method.log_terminal_targets(dag, traj, False))
    assert float(unrectified) == pytest.approx(
        float(method.tabular_unrectified(dag)[0][0]), abs=0.02
    )


def exact_output(dag, name: str) -> torch.Tensor:
    from common.gfn.exact import exact_log_flows, exact_policies

    log_pf, log_pb, log_flow = exact_policies(dag)
    head = log_pf if name in ("tb", "db", "subtb") else exact_log_flows(dag)[1]
    return torch.cat([head, log_pb, log_flow.unsqueeze(-1)], -1).clamp(min=-1e6).expand(2, -1, -1)


@pytest.mark.parametrize("name", ["fm", "db", "tb", "subtb", "soft-dqn"])
def test_exact_flows_are_fixed_points_of_the_baselines(name: str, tabular: None) -> None:
    dag, learner = little_strings(), METHODS[name]
    net = Table(exact_output(dag, name).clone())
    traj = uniform_rollouts(dag, 2, 16)
    log_Z = torch.full((2,), dag.log_Z, dtype=torch.float64)

    def loss() -> torch.Tensor:
        if learner.kind == "dqn":
            return learners.dqn_loss(net, net, dag, traj, learner, 5.0)
        return learners.gflownet_loss(net, dag, traj, learner, log_Z, 0.9)

    assert loss().abs().max() < 1e-12
    log_pf, estimate = learners.learned_policy(net, dag, learner, None)
    assert l1_sum_exact(dag, log_pf).max() < 1e-6
    if name != "tb":
        assert estimate.tolist() == pytest.approx([dag.log_Z] * 2)
    dag.log_reward[torch.isfinite(dag.log_reward)] += 0.5
    assert loss().min() > 1e-3


def test_munchausen_fixed_point(tabular: None) -> None:
    from papers.rpe.baselines import soft_iteration, temperature

    dag, learner = little_strings(), METHODS["munchausen-dqn"]
    value, log_pf = soft_iteration(dag, alpha=learner.alpha)
    # Q = tau log pi + V
    q = temperature(learner.alpha) * log_pf + value.unsqueeze(-1)
    out = torch.cat([q, torch.zeros(dag.n_states, dag.n_backward + 1)], -1).expand(2, -1, -1)
    net = Table(out.clamp(min=-1e6).clone())
    traj = uniform_rollouts(dag, 2, 16)
    assert learners.dqn_loss(net, net, dag, traj, learner, 5.0).max() < 1e-6
    soft = METHODS["soft-dqn"]
    assert learners.dqn_loss(net, net, dag, traj, soft, 5.0).min() > 1e-3
    log_pf, _ = learners.learned_policy(net, dag, learner, None)
    assert l1_sum_exact(dag, log_pf).max() < 1e-6


@pytest.mark.parametrize("shape", ["tree", "dag"])
def test_learned_policy_of_exact_values(shape: str, tabular: None) -> None:
    rng = torch.Generator().manual_seed(0)
    dag = task.string_dag(shape, 3, 4, torch.randn(81, generator=rng, dtype=torch.float64))
    log_v, _ = method.tabular_rpe(dag)
    log_g = method.log_path_factor(dag)
    net = Table((log_v - log_v[0]).view(1, -1, 1))
    log_pf, _ = learners.learned_policy(net, dag, METHODS["rpe"], log_g)
    assert float(l1_sum_exact(dag, log_pf)) < 1e-6
    leaves = torch.isfinite(dag.log_reward)
    net.values.data[:, leaves] += torch.rand(81, generator=rng).view(1, -1, 1).double()
    spoiled, _ = learners.learned_policy(net, dag, METHODS["rpe"], log_g)
    assert float(l1_sum_exact(dag, spoiled)) > 0.05
    repaired, _ = learners.learned_policy(net, dag, METHODS["rpe"], log_g, true_leaves=log_v[:1])
    assert float(l1_sum_exact(dag, repaired)) < 1e-6


# -- runs ------------------------------------------------------------------------------------------


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["rpe", "fm", "tb", "soft-dqn"])
def test_resume_is_bit_identical(name: str, whole_and_cut: Callable) -> None:
    config = Config(method=name, task="words", seed=(0, 1), steps=12, eval_every=3, sizes=SMALL)
    config = replace(config, batch=8, hidden=32)
    whole, cut = whole_and_cut(train, config, 5)
    for part in ("net", "target_net"):
        for key, value in whole[part].items():
            assert torch.equal(value, cut[part][key]), key


@pytest.mark.parametrize("name", ["rpe", "subtb"])
def test_stacked_seeds_equal_single_seeds(
    name: str, tmp_path: Path, trained_alike: Callable[..., None]
) -> None:
    config = Config(method=name, task="words", steps=6, eval_every=3, batch=8, hidden=32)
    config = replace(config, sizes=SMALL)
    train(replace(config, seed=(3, 5), out=tmp_path / "both"))
    train(replace(config, seed=(5,), out=tmp_path / "one"))
    train(replace(config, seed=(5,), steps=1, out=tmp_path / "first"))
    both, one = lines(tmp_path / "both"), lines(tmp_path / "one")
    assert len(both) == 2
    for a, b in zip(both, one, strict=True):
        for key in ("l1_sum_exact", "accuracy", "loss"):
            assert a[key][1] == pytest.approx(b[key][0], rel=1e-2), key
        assert a["modes"][1] == b["modes"][0] and a["reward_calls"] == b["reward_calls"]
    stacked, alone, start = (
        Run.load(tmp_path / folder).final()["net"] for folder in ("both", "one", "first")
    )
    trained_alike(alone, {key: value[1:] for key, value in stacked.items()}, start)


def test_training_learns_and_evaluates(tmp_path: Path) -> None:
    """On 30 words plain evaluation ends near its exact L1, RPE below it."""
    config = Config(task="words", seed=(0, 1), steps=400, eval_every=100, hidden=64, sizes=SMALL)
    final = {}
    for name in ("rpe", "rpe-unrectified", "exact"):
        train(replace(config, method=name, out=tmp_path / name))
        evaluate(EvalConfig(run=tmp_path / name))
        rows = json.loads((tmp_path / name / "eval.json").read_text())["rows"]
        final[name] = {r["metric"]: r["value"] for r in rows}
    plain, exact = final["rpe-unrectified"], final["exact"]["l1_unrectified"]
    assert plain["l1_sum_exact_final"] == pytest.approx(exact, abs=0.1) and exact > 0.4
    assert final["rpe"]["l1_sum_exact_final"] < plain["l1_sum_exact_final"] - 0.05
    assert "log_Z_error_final" in final["rpe"] and "log_Z_error_final" not in plain
    assert final["rpe"]["reward_calls"] == 32 * 401  # one batch sets the unit
    sampler = rpe.load(tmp_path / "rpe", seed=1)
    l1 = float((sampler.distribution() - sampler.target()).abs().sum())
    values = lines(tmp_path / "rpe")[-1]["l1_sum_exact"]
    assert l1 == pytest.approx(values[1], abs=1e-5) != values[0]
    assert set(sampler.sample(50)) <= set(task.read_words(30))
    with pytest.raises(UserError, match="seeds"):
        rpe.load(tmp_path / "rpe", seed=5)
    exact = rpe.load(tmp_path / "exact")
    assert float((exact.distribution() - exact.target()).abs().sum()) < 1e-10


@pytest.mark.parametrize("name", ["rna1-dag", "rna1-var"])
def test_names_of_strings(name: str) -> None:
    """Objects as text have their own fitness as reward."""
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    sizes = replace(SMALL, longest=3)
    dag = task.make_dag(name, sizes)
    rows = torch.isfinite(dag.log_reward).nonzero().squeeze(-1)
    names = task.names_of(name, sizes, dag, rows)
    assert len(set(names)) == len(names) == (64 if name == "rna1-dag" else 16 + 64)
    assert {len(n) for n in names} == ({3} if name == "rna1-dag" else {2, 3})
    beta = 8.0 if name == "rna1-dag" else 4.0
    fitness = {n: rna.Fitness("RNA1", n) for n in (2, 3)}  # each folds its target anew
    f = torch.tensor([max(fitness[len(n)](n), 1e-3) for n in names])
    ratio = dag.log_reward[rows] - beta * f.double().log()
    assert (ratio - ratio[0]).abs().max() < 1e-5


def test_mass_by_length(tmp_path: Path) -> None:
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    config = Config(task="rna1-var", seed=(0, 1), steps=2, eval_every=1, batch=8, hidden=16)
    for name in ("rpe", "exact"):
        train(replace(config, method=name, sizes=SMALL, out=tmp_path / name))
        evaluate(EvalConfig(run=tmp_path / name))
    extras = json.loads((tmp_path / "rpe" / "eval.json").read_text())["extras"]
    mass = np.array(extras[0]["data"])  # [S, lengths 2..4]
    assert mass.shape == (2, 3) and np.allclose(mass.sum(1), 1, atol=1e-3)
    extras = json.loads((tmp_path / "exact" / "eval.json").read_text())["extras"]
    data = {e["name"]: e["data"] for e in extras}
    assert data["lengths"] == [2, 3, 4]
    slow = []
    for t in (2, 3, 4):
        fitness = rna.fitness_table("RNA1", t)
        slow.append(np.maximum(fitness, 1e-3) ** 4)
    expected = [r.sum() / sum(x.sum() for x in slow) for r in slow]
    assert data["target"] == pytest.approx(expected, rel=1e-3)


def test_exact_experiment_on_the_grid(tmp_path: Path) -> None:
    train(Config(method="exact", task="grid", out=tmp_path / "g"))
    evaluate(EvalConfig(run=tmp_path / "g"))
    result = json.loads((tmp_path / "g" / "eval.json").read_text())
    numbers = {r["metric"]: r["value"] for r in result["rows"]}
    assert numbers["log_path_dependence"] > 1 and "l1_rectified" not in numbers
    assert np.array({e["name"]: e["data"] for e in result["extras"]}["target"]).shape == (8, 8)


# -- paper scale on stand-ins ----------------------------------------------------------------------


def write_table(path: Path, letters: str, length: int) -> None:
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    strings = [""]
    for _ in range(length):
        strings = [s + c for s in strings for c in letters]
    rows = [f"{s},{v:.4f}" for s, v in zip(strings, rng.random(len(strings)), strict=True)]
    rng.shuffle(rows)
    path.write_text("\n".join(["string,value", *rows]) + "\n")


def test_tables_from_user_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match="PAPERS_DATA"):
        task.make_dag("tfbind8-tree")
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    with pytest.raises(UserError, match="missing"):
        task.make_dag("tfbind8-tree")
    write_table(tmp_path / "t" / "table.csv", "ACGT", 3)
    values = task.read_table("t/table.csv", "ACGT", 3)
    assert values.shape == (64,)
    text = (tmp_path / "t" / "table.csv").read_text().split("\n")
    entry = next(line for line in text if line.startswith("CAG"))
    assert float(values[1 * 16 + 0 * 4 + 2]) == float(entry.split(",")[1])
    (tmp_path / "t" / "table.csv").write_text("\n".join(text[:-5]))
    with pytest.raises(UserError, match="lacks 4"):
        task.read_table("t/table.csv", "ACGT", 3)
    (tmp_path / "t" / "table.csv").write_text("\n".join([*text[:3], "AXC,1.0"]))
    with pytest.raises(UserError, match="line 4"):
        task.read_table("t/table.csv", "ACGT", 3)


@pytest.mark.parametrize("name", ["qm9str-dag", "tfbind8-tree"])
def test_paper_scale_on_stand_in_tables(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random tables of the published alphabet, shorter strings."""
    read = task.read_table

    def shorter(path: str, letters: str, length: int) -> torch.Tensor:
        return read(path, letters, 3)

    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    write_table(tmp_path / "qm9str" / "gap.csv", "ABCDEFGHIJK", 3)
    write_table(tmp_path / "tfbind8" / "tfbind8.csv", "ACGT", 3)
    monkeypatch.setattr(task, "read_table", shorter)
    build = task.string_dag
    monkeypatch.setattr(task, "string_dag", lambda s, v, n, r: build(s, v, 3, r))
    dag = task.make_dag(name)
    assert math.exp(float(dag.log_reward.max())) == pytest.approx(100 if "qm9" in name else 10)
    assert float(l1_sum_exact(dag, method.tabular_rpe(dag)[1])) < 1e-10
    for learner in ("rpe", "munchausen-dqn"):
        config = Config(method=learner, task=name, steps=4, eval_every=2, batch=4, hidden=16)
        train(replace(config, out=tmp_path / learner))
        assert np.isfinite(lines(tmp_path / learner)[-1]["l1_sum_exact"]).all()


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fitness without the folding, so that the tests are quick."""
    monkeypatch.setattr(
        rna.Fitness,
        "of_letters",
        lambda self, strings: (strings == 2).double().mean(-1) + 0.1 * (strings[..., 0] == 1),
    )


def test_local_dag_agrees_with_the_whole_one(folded: None) -> None:
    """Losses on a batch's own DAG = losses on the enumerated DAG, for the same strings."""
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    large = LargeStrings("rna1-l14", torch.device("cpu"), length=4)
    env = large.env
    whole = env.dag()
    u = uniforms(seed_generators((7,), 1), (4, 16))
    strings = sample(env, lambda s: torch.zeros(*s.shape[:-1], env.n_actions), u)
    traj, local = large.local_dag(strings)
    rows = replace(traj, states=env.index(strings.states), last=env.index(strings.last))
    generators = seed_generators((0,), 0)
    for name in ("rpe", "fm", "db", "subtb", "soft-dqn"):
        learner = METHODS[name]
        n_out = learner.n_outputs(env.n_actions, env.n_backward)
        net = StackedMLP(generators, (env.input_dim, 16, 16, n_out))
        losses = []
        for dag, batch in ((whole, rows), (local, traj)):
            if learner.kind == "rpe":
                log_c = torch.full((1,), 3.0, dtype=torch.float64)
                losses.append(rpe_loss(net, dag, batch, learner, log_c))
            elif learner.kind == "dqn":
                losses.append(learners.dqn_loss(net, net, dag, batch, learner, 5.0))
            else:
                losses.append(learners.gflownet_loss(net, dag, batch, learner, None, 0.9))
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5), name


def test_reference_of_a_sharp_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annealed strings give E_p*[R] where uniform ones are far off (truth: the whole table)."""
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    score = torch.rand(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def fitness(self: rna.Fitness, strings: torch.Tensor) -> torch.Tensor:
        return score[torch.arange(7), strings].mean(-1) ** 2

    monkeypatch.setattr(rna.Fitness, "of_letters", fitness)
    large = LargeStrings("rna1-l14", torch.device("cpu"), length=7, n_reference=20_000)
    every = task.digits(4**7, 4, 7)
    reward = large._log_reward(every).exp()
    true = float(reward.square().sum() / reward.sum())
    assert large.expected_reward() == pytest.approx(true, rel=0.1)
    few = reward[torch.randint(len(reward), (6,), generator=torch.Generator().manual_seed(0))]
    assert float(few.square().sum() / few.sum()) < 0.5 * true  # as many of all as 1e5 of 4^14


@pytest.mark.parametrize("name", ["rpe", "fm", "munchausen-dqn"])
def test_fourteen_letters(name: str, folded: None, tmp_path: Path) -> None:
    pytest.importorskip("RNA", reason="ViennaRNA is in the extra 'gfn'")
    config = Config(method=name, task="rna2-l14", steps=4, eval_every=2, batch=4, hidden=16)
    train(replace(config, reference=2000, out=tmp_path / "r"))
    evaluate(EvalConfig(run=tmp_path / "r"))
    rows = json.loads((tmp_path / "r" / "eval.json").read_text())["rows"]
    final = {r["metric"]: r["value"] for r in rows}
    assert 0 < final["accuracy_final"] <= 100 and final["mean_reward_final"] > 0


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rpe"):
        train(Config(method="rpee", out=tmp_path))
    with pytest.raises(UserError, match="rna1-dag"):
        train(Config(task="rna1-dga", out=tmp_path))
    with pytest.raises(UserError, match="path-dependent"):
        train(Config(task="grid", out=tmp_path))
    with pytest.raises(UserError, match="one seed"):
        train(Config(task="rna1-l14", seed=(0, 1), out=tmp_path))
    with pytest.raises(UserError, match="tables"):
        train(Config(method="exact", task="rna1-l14", out=tmp_path))
