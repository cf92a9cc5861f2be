"""Runs that are cut, evaluation, and claims that can fail."""

import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.claims_v1 import judge_all, long_form
from common.errors import UserError
from common.run import Run
from papers.umo2 import bench, claims, olo, task
from papers.umo2 import train as train_module
from papers.umo2.baselines import METHODS, UTILITY_METHODS
from papers.umo2.eval import EvalConfig, evaluate, growth, quarter_slope
from papers.umo2.train import Config, settings_of, train

JUDGED = {claim.id: claim.judged for claim in claims.CLAIMS}

REPOSITORY = Path(__file__).resolve().parents[3]


class Killed(Exception):
    """Stands for a power cut."""


def result(folder: Path) -> dict[str, Any]:
    evaluate(EvalConfig(run=folder))
    written = json.loads((folder / "eval.json").read_text())
    return {"rows": written["rows"], "extras": written["extras"]}


@pytest.mark.parametrize(
    ("name", "where"),
    [("nso", "net-a"), ("window", "net-b"), ("umo2_dynamic", "utility"), ("bgd", "utility")],
)
def test_a_run_that_is_cut_ends_with_the_same_numbers(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": name, "task": where, "seed": (0, 3), "horizon": (700,)}
    options |= {"rho": (0.3, 0.42), "v": (0.2, 0.4), "chunk": 150}
    train(Config(**options, out=tmp_path / "whole"))
    n = len(settings_of(Config(**options))) * 2 * 5

    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "3")
    calls, plain = itertools.count(), train_module.simulate

    def mortal(*args: Any) -> None:
        if next(calls) == n - 3:
            raise Killed
        plain(*args)

    monkeypatch.setattr(train_module, "simulate", mortal)
    with pytest.raises(Killed):
        train(Config(**options, out=tmp_path / "cut"))
    calls = itertools.count(1000)
    train(Config(**options, out=tmp_path / "cut"))
    assert next(calls) - 1000 <= 8  # it did not begin anew
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    metrics = [Run.load(tmp_path / folder).metrics() for folder in ("cut", "whole")]
    assert metrics[0] == metrics[1]
    train(Config(**options, out=tmp_path / "cut"))  # finished: nothing to do
    train(Config(**(options | {"chunk": 700}), out=tmp_path / "one"))  # a matter of convenience
    assert result(tmp_path / "one") == result(tmp_path / "whole")


def test_a_job_of_many_seeds_is_many_jobs_of_one(tmp_path: Path) -> None:
    for folder, seeds in (("both", (1, 2)), ("one", (1,)), ("two", (2,))):
        train(Config(seed=seeds, horizon=(600,), out=tmp_path / folder))
    both, one, two = (
        [row for row in result(tmp_path / f)["rows"] if row["metric"] != "growth"]
        for f in ("both", "one", "two")
    )
    assert both == one + two
    assert both[0]["value"] != both[2]["value"]


def test_bad_flags_end_in_one_line(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"method": "umo"}, {"task": "net-c"}, {"horizon": (100,)}]
    wrong += [{"method": "umo2", "task": "net-a"}, {"experts": 0}]
    for flags in wrong:
        with pytest.raises(UserError):
            train(Config(**flags, out=tmp_path / "x"))
    assert not (tmp_path / "x" / "finished.json").exists()


def test_nothing_here_imports_torch() -> None:
    code = "import sys, papers.umo2.train, papers.umo2.eval, papers.umo2.claims; " + (
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_manifest_names_methods_and_tasks_that_exist() -> None:
    text = (REPOSITORY / "papers" / "umo2" / "paper.toml").read_text()
    for scale, content in tomllib.loads(text)["scales"].items():
        for stage in content["stages"]:
            if stage.get("module", "train") == "train":
                utility = stage["tasks"] == ["utility"]
                assert set(stage["methods"]) <= set(UTILITY_METHODS if utility else METHODS), scale
                assert set(stage["tasks"]) <= set(task.TASKS), scale


def test_quarter_slope() -> None:
    measured = np.zeros((200, 4))
    measured[:, 0] = 10.0  # 10 slots per window; the queue grows by 0.3 per slot
    measured[:, 1] = 10.0 * 0.3 * (10.0 * np.arange(200) + 4.5)
    assert quarter_slope(measured) == pytest.approx(0.3)


def test_growth_exponents() -> None:
    t = (np.arange(200) + 0.5)[None] * np.array([[1.0], [1.2]])
    assert growth(t)[0] == pytest.approx(1.0, abs=0.01)
    assert growth(np.sqrt(t))[0] == pytest.approx(0.5, abs=0.01)
    value, low, high = growth(np.full((2, 200), 7.0))
    assert max(abs(value), abs(low), abs(high)) < 1e-12
    assert growth(np.zeros((2, 200))) == []
    queue, gap = claims.growth_in_horizon(rows_of(), "umo2", 0.3)
    assert queue.value == pytest.approx(np.log(120 / 50) / np.log(16), abs=0.02)
    assert -0.2 < gap.low < gap.value < gap.high < 0


def test_the_largest_configuration_on_a_stand_in(tmp_path: Path) -> None:
    """Net-B with 50 nodes and 13 experts, for 300 slots."""
    config = Config(task="net-b-50", horizon=(300,), rho=(0.7,), experts=13, out=tmp_path / "x")
    train(config)
    rows = result(tmp_path / "x")["rows"]
    assert {r["metric"] for r in rows} == {"mean_queue", "quarter_slope", "growth"}


# -- claims -------------------------------------------------------------------------------------


def rows_of(overrides: dict[tuple, float] | None = None) -> pd.DataFrame:
    """Rows of an ideal run; ``overrides`` replaces values by (method, metric, label)."""
    overrides = overrides or {}
    rng, rows = np.random.default_rng(0), []

    def add(method: str, where: str, metric: str, label: Any, value: float, **keys: Any) -> None:
        value = overrides.get((method, metric, label), value)
        for seed in range(6):
            noise = 1 + 0.01 * rng.normal()
            row = {"method": method, "task": where, "metric": metric, "seed": seed, **keys}
            found = value * noise
            rows.append(row | {"value": [found] if "step" in keys else found})

    for rho, kappa in itertools.product(task.RHOS, task.KAPPAS):
        keys = {"horizon": 100_000, "rho": rho, "kappa": kappa, "v": 0.0}
        add("nso", "net-a", "mean_queue", (rho, kappa), 200.0, **keys)
        add("nso", "net-a", "quarter_slope", (rho, kappa), 1e-4, **keys)
        for name in claims.BLIND:
            add(name, "net-a", "mean_queue", (rho, kappa), 1e4, **keys)
            add(name, "net-a", "quarter_slope", (rho, kappa), 0.3, **keys)
    for (T, u, q), v in itertools.product(
        ((20_000, 0.75, 50.0), (80_000, 0.79, 80.0), (320_000, 0.8, 120.0)), (0.2, 0.3, 0.4)
    ):
        keys = {"horizon": T, "rho": 0.0, "kappa": 0.4, "v": v}
        add("umo2", "utility", "utility", (T, v), u + (v - 0.3), **keys)
        add("umo2", "utility", "mean_queue", (T, v), q * (1 + 4 * (v - 0.2)), **keys)
        add("umo2", "utility", "quarter_slope", (T, v), 1e-4, **keys)
    for magnitude, switches in itertools.product(olo.MAGNITUDES, olo.SWITCHES):
        keys = {"magnitude": magnitude, "switches": switches}
        add("adapfol", "olo", "ratio", (magnitude, switches), 0.5, **keys)
        for j in range(8):
            label = (j, magnitude, switches)
            add("single", "olo", "ratio", label, 1.0, step=[j], **keys)
    return long_form(rows)


def verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in judge_all(claims.CLAIMS, rows, "default")}


def test_claims_hold_on_an_ideal_run() -> None:
    assert verdicts(rows_of()) == {f"C{i}": "reproduced" for i in range(1, 7)}


FLAT = {("single", "ratio", (3, "constant", s)): 0.6 for s in olo.SWITCHES}


@pytest.mark.parametrize(
    ("claim", "overrides"),
    [
        ("C1", {("nso", "quarter_slope", (0.42, 0.75)): 0.01}),
        ("C1", {("nso", "mean_queue", (0.3, 0.4)): 1100.0}),
        ("C2", {("ucb", "quarter_slope", (0.42, 0.4)): 0.05}),
        ("C2", {("uniform", "mean_queue", (0.42, 0.4)): 1500.0}),
        ("C3", {("adapfol", "ratio", ("spikes", 100)): 2.0}),
        ("C3", FLAT),
        ("C4", {("umo2", "utility", (320_000, 0.3)): 0.7}),
        ("C4", {("umo2", "utility", (80_000, 0.3)): 0.9}),
        ("C4", {("umo2", "mean_queue", (320_000, 0.3)): 4000.0}),
        ("C5", {("umo2", "utility", (80_000, 0.4)): 0.6}),
        ("C5", {("umo2", "mean_queue", (20_000, 0.4)): 10.0}),
        ("C6", {("umo2", "utility", (20_000, 0.3)): 0.6}),
        ("C6", {("umo2", "quarter_slope", (320_000, 0.3)): 0.1}),
    ],
)
def test_each_claim_can_fail(claim: str, overrides: dict) -> None:
    assert verdicts(rows_of(overrides))[claim] == "contradicted"


def test_partial_runs_say_what_is_missing() -> None:
    rows = rows_of()
    judged = JUDGED["C2"](rows[rows.method != "ucb"])
    assert judged.verdict == "inconclusive" and "ucb" in judged.ours
    links_only = rows[rows.task == "net-a"].drop(columns=["magnitude", "switches"])
    some = judge_all(claims.CLAIMS, links_only, "default")
    assert [c["verdict"] for c in some[:2]] == ["reproduced"] * 2
    assert [c["verdict"] for c in some[2:]] == ["inconclusive"] * 4


def test_tables_and_figures_of_a_tiny_run(tmp_path: Path) -> None:
    rows, extras = [], []
    jobs = [("nso", "net-a"), ("window", "net-a"), ("nso", "net-a-static"), ("fixed", "net-b")]
    jobs += [("umo2", "utility"), ("static30", "utility")]
    for name, where in jobs:
        out = tmp_path / f"{name}-{where}"
        train(Config(method=name, task=where, seed=(0, 1), horizon=(400,), out=out))
        found = result(out)
        rows += found["rows"]
        extras += found["extras"]
    olo.grid(olo.Config(seed=(0, 1), horizon=1001, out=tmp_path / "olo"))
    rows += result(tmp_path / "olo")["rows"]
    frame = long_form(rows)
    shown = claims.tables(frame)
    assert [len(t.columns) == len(row) for t in shown for row in t.rows].count(False) == 0
    assert len(shown) == 5
    drawn = claims.figures(frame, extras)
    assert set(drawn) == {"queues", "frontier", "utilities"}
    for figure in drawn.values():
        figure.canvas.draw()
    grid_only = frame[frame.task == "olo"]
    assert claims.figures(grid_only, []) == {} and len(claims.tables(grid_only)) == 1


def test_the_grid_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"seed": (0,), "horizon": 1001, "experts": 3}
    olo.grid(olo.Config(**config, out=tmp_path / "whole"))
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")
    calls, plain = itertools.count(), olo.ratios

    def mortal(*args: Any) -> np.ndarray:
        if next(calls) == 7:
            raise Killed
        return plain(*args)

    monkeypatch.setattr(olo, "ratios", mortal)
    with pytest.raises(Killed):
        olo.grid(olo.Config(**config, out=tmp_path / "cut"))
    olo.grid(olo.Config(**config, out=tmp_path / "cut"))
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


def test_bench_compares_the_same_numbers(tmp_path: Path) -> None:
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", slots=400, repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["peer"])
    assert numbers["ratio"] > 10  # more in a quiet moment; a busy machine is no fault
