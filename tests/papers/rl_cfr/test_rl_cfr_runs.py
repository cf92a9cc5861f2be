"""Runs that are cut, evaluation, and claims that can fail."""

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common import torch_utils
from common.claims_v1 import judge_all, long_form
from common.errors import UserError
from common.run import Run
from papers.rl_cfr import abstraction, baselines, bench, claims, eval, mdp, method, task, train
from papers.rl_cfr.eval import EvalConfig, evaluate
from papers.rl_cfr.train import Config

JUDGED = {claim.id: claim.judged for claim in claims.CLAIMS}

REPOSITORY = Path(__file__).resolve().parents[3]
TINY = {
    "samples": 40,
    "samples_per_round": 10,
    "learning_steps": 5,
    "batch": 8,
    "wide_samples": 10,
    "iterations": 40,
    "tolerance": 20.0,
    "stacks": (5.0, 6.0),
    "eval_deals": 4,
    "eval_security_deals": 2,
    "eval_deep": 3,
    "eval_iterations": 60,
    "eval_tolerance": 0.0,
    "tuning_deals": 1,
    "tuning_iterations": 30,
    "oracle_iterations": 30,
}


class Killed(Exception):
    """Stands for a power cut."""


def final_and_metrics(folder: Path) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    run = Run.load(folder)
    return {k: v.numpy() for k, v in run.final()["target"].items()}, run.metrics()


@pytest.mark.parametrize("name", ["rl_cfr", "rl_cfr_pbs"])
def test_a_run_that_is_cut_ends_with_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(Config(method=name, out=tmp_path / "whole", **TINY))
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "20")
    calls, plain = itertools.count(), train.solve_with

    def mortal(*args: Any) -> Any:
        if next(calls) == 2 * 35:
            raise Killed
        return plain(*args)

    monkeypatch.setattr(train, "solve_with", mortal)
    with pytest.raises(Killed):
        train.train(Config(method=name, out=tmp_path / "cut", **TINY))
    calls = itertools.count(1000)
    train.train(Config(method=name, out=tmp_path / "cut", **TINY))
    assert next(calls) == 1000 + 2 * 20  # it went on from sample 20
    whole, cut = (final_and_metrics(tmp_path / f) for f in ("whole", "cut"))
    assert whole[1] == cut[1] and len(whole[1]) == 4
    for k, v in whole[0].items():
        np.testing.assert_array_equal(v, cut[0][k])
    train.train(Config(method=name, out=tmp_path / "cut", **TINY))  # finished: nothing to do


def test_stored_rewards_are_recomputed_from_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replays the first round by hand: same states, same noise, v_a - v_d."""
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "10")
    saved: dict[str, Any] = {}
    plain = Run.save
    monkeypatch.setattr(
        Run, "save", lambda run, step, tree: (saved.setdefault(step, tree), plain(run, step, tree))
    )
    cfg = Config(out=tmp_path / "a", seed=5, **TINY)
    train.train(cfg)
    data, rng = saved[10], np.random.default_rng([5, 43])
    torch_utils.setup("cpu", 5)
    actor = abstraction.learned(method.Learner(2).target.state_dict())
    default = abstraction.fixed((1.0, 2.0))
    belief, how = None, mdp.Solving(40, 20.0)
    for i in range(10):
        if belief is None or not task.has_choice(belief.state):
            nine = task.draw_nine(rng)
            deal = task.make_deal(nine)
            state = task.first_state(nine, task.draw_stack(rng, (5.0, 6.0)))
            belief = mdp.Belief(state, mdp.uniform_ranges())
        view = task.features(belief.state)
        action = mdp.explore(abstraction.act(actor.weights, view), 0.6, rng)
        np.testing.assert_allclose(data["s"][i].numpy(), view, atol=1e-6)
        np.testing.assert_allclose(data["a"][i].numpy(), action, atol=1e-6)
        most = task.largest_raise(belief.state)
        root = abstraction.fixed(abstraction.chosen_sizes(action, False, most))
        solved = [mdp.solve_with(belief, deal, x, (default, default), how) for x in (root, default)]
        gain = solved[0].value - solved[1].value
        assert float(data["r"][i]) == pytest.approx(np.clip(gain, -50, 50) / 10, abs=1e-5)
        belief = mdp.transition(belief, deal, *solved, rng)


def test_trust_changes_the_other_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 10.5 % of the samples the rest of both trees is the default's, then the policy's."""
    kinds: list[tuple[int, int]] = []
    plain = train.solve_with

    def spy(belief: Any, deal: Any, root: Any, below: Any, how: Any) -> Any:
        kinds.append((root.kind, below[0].kind))
        assert below[0] is below[1]
        return plain(belief, deal, root, below, how)

    monkeypatch.setattr(train, "solve_with", spy)
    train.train(Config(out=tmp_path / "a", **TINY))
    below = [k for _, k in kinds]
    assert below == [abstraction.FIXED] * 20 + [abstraction.LEARNED] * 60
    kinds.clear()
    train.train(Config(method="rl_cfr_no_trust", out=tmp_path / "b", **TINY))
    assert {k for _, k in kinds} == {abstraction.FIXED}


def test_variants_change_what_they_say() -> None:
    t250 = train.resolve(Config(method="rl_cfr_t250"))
    assert train.solving(t250) == mdp.Solving(250, None, "iterates")
    assert train.solving(train.resolve(Config())) == mdp.Solving(500, 1.0, "average")
    assert train.resolve(Config(method="rl_cfr_pbs")).with_ranges
    with pytest.raises(UserError):
        train.resolve(Config(method="rlcfr"))
    with pytest.raises(UserError):
        train.resolve(Config(task="leduc-4"))  # RL-CFR is not run there
    with pytest.raises(UserError):
        train.resolve(Config(samples=100, samples_per_round=33))


def test_evaluation_tables_and_figures(tmp_path: Path) -> None:
    rows, extras = [], []
    names = ("rl_cfr", "rl_cfr_pbs", "default", "random", "fine", "grid_oracle", "tuned_fixed")
    jobs = [(name, "preflop43", seed) for name in names for seed in (0, 1) if seed < 2]
    jobs += [("no_raise", "leduc-4", 0)]
    for name, where, seed in jobs:
        if seed and name not in ("rl_cfr", "random"):
            continue
        out = tmp_path / f"{name}-{where}-{seed}"
        train.train(Config(method=name, task=where, seed=seed, out=out, **TINY))
        evaluate(EvalConfig(run=out))
        written = json.loads((out / "eval.json").read_text())
        rows += written["rows"]
        extras += written["extras"]
    frame = long_form(rows)
    gain = claims.matrix(frame, "default", "gain")
    np.testing.assert_allclose(gain, 0, atol=1e-9)
    assert claims.matrix(frame, "rl_cfr", "gain").shape == (2, 4)
    shown = claims.tables(frame)
    assert [table.title[:9] for table in shown] == ["PREFLOP43", "Gain over", "No-limit "]
    assert all(len(row) == len(table.columns) for table in shown for row in table.rows)
    fixed_sizes = {row[0]: row[-1] for row in shown[0].rows}
    assert fixed_sizes["default"] == "1, 2" and fixed_sizes["RL-CFR"] == "–"
    for name in ("rl_cfr", "default"):  # the solver's error stands beside every value
        assert 0 < claims.matrix(frame, name, "security_error").mean()
    drawn = claims.figures(frame, extras)
    assert set(drawn) == {"learning", "gain_and_nodes", "sizes_by_stack"}
    for figure in drawn.values():
        figure.canvas.draw()
    judged = judge_all(claims.CLAIMS, frame, "default")
    assert [c["verdict"] for c in judged][-1] == "needs paper"


def test_security_loss_of_fine_against_itself_is_nothing() -> None:
    nine, _ = task.held_out(1)[0]
    belief = mdp.Belief(task.first_state(nine, 5.0), mdp.uniform_ranges())
    fine = abstraction.fixed(abstraction.FINE_SIZES)
    value, error = eval.against(belief, task.make_deal(nine), fine, fine, 50)
    assert value == pytest.approx(0, abs=1e-9) and error > 0


def test_manifest_names_methods_and_tasks_that_exist() -> None:
    text = (REPOSITORY / "papers" / "rl_cfr" / "paper.toml").read_text()
    for scale, content in tomllib.loads(text)["scales"].items():
        for stage in content["stages"]:
            assert set(stage["methods"]) <= set(baselines.METHODS), scale
            assert set(stage["tasks"]) <= set(train.TASKS), scale
            for flag in stage.get("args", {}):
                assert flag in Config.__dataclass_fields__, flag


def test_the_papers_scale_runs_on_a_stand_in(tmp_path: Path) -> None:
    text = (REPOSITORY / "papers" / "rl_cfr" / "paper.toml").read_text()
    given = tomllib.loads(text)["scales"]["paper"]["stages"][0]["args"]
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    small = {"samples": 20, "samples_per_round": 10, "learning_steps": 2, "batch": 16}
    small |= {"stacks": (10.0, 12.0), "iterations": 25}
    train.train(Config(out=tmp_path / "a", **(args | small)))
    final = Run.load(tmp_path / "a").final()["target"]
    assert abstraction.learned(final).n_pairs == 5


def test_bench_compares_the_same_game(tmp_path: Path) -> None:
    pytest.importorskip("pyspiel", reason="open_spiel is the peer")
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", iterations=2, repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["peer"])
    assert numbers["ratio"] > 5  # hundreds in a quiet moment


# -- claims ---------------------------------------------------------------------------------------

DEALS = 40


def rows_of(overrides: dict[tuple[str, str], float] | None = None) -> pd.DataFrame:
    """Rows of an ideal run; ``overrides`` replaces the mean of (method, metric)."""
    values = {("rl_cfr", "gain"): 2.0, ("random", "gain"): -1.0, ("fine", "gain"): 3.0}
    values |= {("rl_cfr", "nodes"): 40.0, ("rl_cfr", "nodes_default"): 41.0}
    values |= {("rl_cfr", "seconds"): 0.03, ("rl_cfr", "seconds_default"): 0.03}
    values |= {("fine", "nodes"): 100.0, ("rl_cfr", "exploitability"): 0.02}
    values |= {("rl_cfr", "exploitability_default"): 0.02}
    values |= {("rl_cfr", "security_loss"): 3.0, ("default", "security_loss"): 4.0}
    values |= {("rl_cfr", "security_error"): 0.1, ("default", "security_error"): 0.1}
    values |= overrides or {}
    rng, rows = np.random.default_rng(0), []
    deal_effect = rng.normal(size=DEALS)
    for (name, metric), mean in values.items():
        for seed in range(5 if name in ("rl_cfr", "random") else 1):
            noise = rng.normal(size=DEALS) * 0.1 + deal_effect * 0.2
            curve = mean * (1 + 0.1 * (noise - deal_effect.mean() * 0.2))
            row = {"method": name, "task": "preflop43", "seed": seed, "metric": metric}
            rows.append(row | {"step": list(range(DEALS)), "value": curve.tolist()})
    return long_form(rows)


def verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in judge_all(claims.CLAIMS, rows, "default")}


def test_claims_hold_on_an_ideal_run() -> None:
    expected = {f"C{i}": "reproduced" for i in range(1, 6)} | {"C6": "needs paper"}
    assert verdicts(rows_of()) == expected


@pytest.mark.parametrize(
    ("claim", "overrides"),
    [
        ("C1", {("rl_cfr", "gain"): -1.0}),
        ("C2", {("rl_cfr", "nodes"): 60.0}),
        ("C2", {("rl_cfr", "seconds"): 0.05}),
        ("C3", {("random", "gain"): 3.0}),
        ("C4", {("rl_cfr", "security_loss"): 6.0}),
        ("C5", {("rl_cfr", "gain"): 0.5}),
        ("C5", {("fine", "nodes"): 50.0}),
    ],
)
def test_each_claim_can_fail(claim: str, overrides: dict[tuple[str, str], float]) -> None:
    assert verdicts(rows_of(overrides))[claim] == "contradicted"


def test_a_gain_below_the_solver_error_is_noise_and_missing_rows_are_named() -> None:
    assert verdicts(rows_of({("rl_cfr", "exploitability"): 5.0}))["C1"] == "inconclusive"
    rows = rows_of()
    judged = JUDGED["C3"](rows[rows.method != "random"])
    assert judged.verdict == "inconclusive" and "random" in judged.ours


def test_two_way_intervals_see_deals_and_seeds() -> None:
    rng = np.random.default_rng(0)
    deals = rng.normal(size=(1, 400)) + np.zeros((5, 1))
    seeds = np.zeros((1, 400)) + rng.normal(size=(5, 1))

    def width(values: np.ndarray) -> float:
        ci = claims.two_way(claims.first, values)
        assert ci.low <= ci.value <= ci.high
        return ci.high - ci.low

    assert width(deals[:1]) == pytest.approx(4 / np.sqrt(400), rel=0.15)  # one seed: over deals
    assert width(seeds) > 1.5  # five seeds that differ by 1
    assert width(deals + seeds) > width(deals)
    paired = claims.two_way(claims.difference, deals + 1, deals)
    assert paired.low == pytest.approx(1) and paired.high == pytest.approx(1)
