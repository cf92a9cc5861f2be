"""Runs that are cut, evaluation, every stage on stand-ins, a scheduler that is loaded."""

import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.run import Run
from papers.umo2 import bench, claims, load, olo, report, simulate, task
from papers.umo2 import train as train_module
from papers.umo2.config import Config, settings_of
from papers.umo2.eval import EvalConfig, evaluate, growth, quarter_slope
from papers.umo2.methods import METHODS, policies
from papers.umo2.train import train
from papers.umo2.trained import Scheduler
from tests.papers import kit
from tools.manifest import Job

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
    wrong += [{"method": "umo2", "task": "net-a"}, {"experts": 0}, {"chunk": 0}]
    wrong += [{"method": "adapfol", "task": "net-a"}, {"method": "nso", "task": "utility"}]
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
            for where in stage["tasks"]:
                assert where in (*task.TASKS, olo.OLO), scale
                assert set(stage.get("methods", [])) <= set(policies(where)), scale


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


def test_the_largest_configuration_on_a_stand_in(tmp_path: Path) -> None:
    """Net-B with 50 nodes and 13 experts, for 300 slots."""
    config = Config(task="net-b-50", horizon=(300,), rho=(0.7,), experts=13, out=tmp_path / "x")
    train(config)
    rows = result(tmp_path / "x")["rows"]
    assert {r["metric"] for r in rows} == {"mean_queue", "quarter_slope", "growth"}


# -- AdaPFOL alone, and speed -------------------------------------------------------------------


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
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", slots=150, repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["peer"])
    assert numbers["ratio"] > 10  # more in a quiet moment; a busy machine is no fault


# -- every scale on stand-ins, an added policy ----------------------------------------------------


ON_NET_A = ("ogd", "ucb", "mean", "last", "uniform")


def tiny(job: Job) -> list[str] | None:
    """Few slots, at as many horizons as the scale has; AdaPFOL for 1001 rounds.

    What runs on Net-A is not run again on Net-B by each policy: by those that look at a network's
    links or groups. NSO alone keeps all loads, UMO² alone all V.
    """
    if job.module == "olo":
        return ["--horizon", "1001"]
    if job.task.startswith("net-b") and job.method in ON_NET_A:
        return None
    given = job.args[job.args.index("--horizon") + 1 :]
    n = len(list(itertools.takewhile(lambda word: not word.startswith("--"), given)))
    flags = ["--horizon", *(str(400 + 200 * i) for i in range(n))]
    if job.task == "net-a" and job.method != "nso":
        flags += ["--rho", "0.42"]
    if job.task == "utility" and job.method != "umo2":
        flags += ["--v", "0.3"]
    return flags


@pytest.mark.parametrize("scale", ["default", "study", "paper"])
def test_every_stage_of_every_scale(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (claims, report):  # growth is fitted from here on
        monkeypatch.setattr(module, "LONG", 500)
    made = kit.run_scale("umo2", scale, tmp_path, tiny)
    names = {figure["name"] for figure in made["figures"]}
    assert names == ({"horizons"} if scale == "study" else {"story", "queues", "frontier"})


def test_an_added_policy_is_shown_and_changes_no_verdict(tmp_path: Path) -> None:
    kit.check_added_method("umo2", tmp_path, flags=["--horizon", "400"])


# -- a scheduler that is loaded -------------------------------------------------------------------


def test_a_loaded_scheduler_goes_on_where_its_run_ended(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": (1, 2), "horizon": (900,), "rho": (0.3, 0.42)}
    train(Config(**options, out=tmp_path / "run"))
    scheduler = load(tmp_path / "run", seed=2, setting=1)
    assert (scheduler.setting.rho, scheduler.seed) == (0.42, 2)
    assert scheduler.entries[:2] == [(0, 1, 0), (0, 1, 1)] and len(scheduler.entries) == 8
    queues, shares = scheduler.queues, scheduler.act(scheduler.queues)
    assert queues.sum() > 0 and (shares > 0).all() and shares[:4].sum() <= 1
    for _ in range(300):  # from now on the first link carries nothing
        scheduler.learn(np.where(np.arange(8) < 2, 0.0, scheduler.act(queues)))
    assert scheduler.act(queues)[:2].sum() < 0.1 < 0.5 < scheduler.act(queues)[2:4].sum()
    for wrong in ({"seed": 3}, {"setting": 2}):
        with pytest.raises(UserError):
            load(tmp_path / "run", **wrong)


@pytest.mark.parametrize("name", ["nso", "nso_activated", "window", "current", "umo2"])
def test_a_scheduler_decides_like_the_simulator(name: str) -> None:
    """Slot by slot from the start: the same allocations and arrivals as in the compiled loop."""
    where = "utility" if name == "umo2" else "net-a"
    config = Config(method=name, task=where, horizon=(400,))
    (setting,) = settings_of(config)
    net = task.make_network(where, setting.rho, setting.kappa, setting.horizon)
    V = float(setting.horizon**setting.v) if where == "utility" else 0.0
    plan, state = (
        simulate.make_plan(METHODS[name], net, V=V),
        simulate.new_state(METHODS[name], net),
    )
    log = np.zeros((400, 2 * len(state.Q) + 2 * len(net.source) + 1))
    simulate.simulate(net, plan, 0, 0, 400, state, simulate.new_measurements(), log)
    n, e = len(state.Q), len(net.source)
    Q, arrivals, mu, a, gamma = np.split(log, np.cumsum([n, n, e, e]), axis=1)

    scheduler = Scheduler(config, setting, 0, simulate.new_state(METHODS[name], net))
    scheduler._slot = 1
    link, C = np.empty(net.level.shape[1]), np.empty(e)
    for t in range(400):
        task.draw_capacities(net, task.stream_key(0, net.stream, 0), t + 1, link, C)
        shares = scheduler.act(Q[t], C)
        np.testing.assert_array_equal(shares * C, mu[t])
        if not METHODS[name].activated:
            np.testing.assert_array_equal(shares, a[t])
        if name == "umo2":
            np.testing.assert_array_equal(scheduler.arrivals, arrivals[t, net.arrival])
        scheduler.learn(mu[t], gamma[t, 0])


def test_what_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    olo.grid(olo.Config(horizon=1001, experts=2, out=tmp_path / "olo"))
    with pytest.raises(UserError, match="no scheduler"):
        load(tmp_path / "olo")
    train(Config(method="current", horizon=(400,), out=tmp_path / "told"))
    scheduler = load(tmp_path / "told")
    with pytest.raises(UserError, match="told the capacities"):
        scheduler.act(scheduler.queues)
