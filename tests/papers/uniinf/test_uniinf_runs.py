"""Runs that are cut, evaluation, every stage on stand-ins, a learner that is loaded."""

import dataclasses
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
from papers.uniinf import bench, load, task
from papers.uniinf.config import Config
from papers.uniinf.eval import EvalConfig, evaluate
from papers.uniinf.methods import METHODS
from papers.uniinf.report import uniform_regret
from papers.uniinf.train import train
from tests.papers import kit
from tools.manifest import Job

REPOSITORY = Path(__file__).resolve().parents[3]


class Killed(Exception):
    """Stands for a power cut."""


def result(folder: Path) -> dict[str, Any]:
    evaluate(EvalConfig(run=folder))
    return {"eval": json.loads((folder / "eval.json").read_text())["rows"]} | {
        "metrics": Run.load(folder).metrics()
    }


@pytest.mark.parametrize("name", ["uniinf", "adatinf", "robust_ucb", "htinf"])
def test_a_run_that_is_cut_ends_with_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"method": name, "task": "e4", "seed": (0, 3), "alpha": (1.3, 1.8)}
    settings |= {"horizon": 3000, "chunk": 700}
    train(Config(**settings, out=tmp_path / "whole"))

    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "3")
    calls, plain = itertools.count(), METHODS[name].simulate

    def mortal(*args: Any) -> None:
        if next(calls) == 4 * 8 + 2:  # in the ninth chunk, half of the runs are ahead
            raise Killed
        plain(*args)

    mortals = dataclasses.replace(METHODS[name], simulate=mortal)
    monkeypatch.setitem(METHODS._methods, name, mortals)
    with pytest.raises(Killed):
        train(Config(**settings, out=tmp_path / "cut"))
    before = len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines())
    calls = itertools.count(1000)
    train(Config(**settings, out=tmp_path / "cut"))
    assert next(calls) - 1000 < 4 * (len(task.checkpoints(3000)) + 4)  # it did not begin anew
    assert before > 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    train(Config(**settings, out=tmp_path / "cut"))  # finished: nothing to do
    # the chunk is a matter of convenience
    train(Config(**(settings | {"chunk": 3000}), out=tmp_path / "one"))
    assert result(tmp_path / "one")["eval"] == result(tmp_path / "whole")["eval"]


def test_a_job_of_many_seeds_is_many_jobs_of_one(tmp_path: Path) -> None:
    for folder, seeds in (("both", (1, 2)), ("one", (1,)), ("two", (2,))):
        train(Config(seed=seeds, horizon=1000, alpha=(1.5,), out=tmp_path / folder))
    both, one, two = (
        [r for r in result(tmp_path / f)["eval"] if r["metric"] == "regret"]
        for f in ("both", "one", "two")
    )
    assert both == one + two
    assert both[0]["value"] != both[1]["value"]


def test_bad_flags_end_in_one_line(tmp_path: Path) -> None:
    for wrong in (
        {"method": "uninf"},
        {"task": "e9"},
        {"horizon": 1},
        {"chunk": 0},
        {"alpha": (1.0,)},
    ):
        with pytest.raises(UserError):
            train(Config(**wrong, out=tmp_path / "x"))
    assert not (tmp_path / "x" / "finished.json").exists()


def test_nothing_here_imports_torch() -> None:
    code = "import sys, papers.uniinf.train, papers.uniinf.eval, papers.uniinf.claims; " + (
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_manifest_names_methods_and_tasks_that_exist() -> None:
    text = (REPOSITORY / "papers" / "uniinf" / "paper.toml").read_text()
    for scale, content in tomllib.loads(text)["scales"].items():
        for stage in content["stages"]:
            assert set(stage["methods"]) <= set(METHODS), scale
            assert set(stage["tasks"]) <= set(task.TASKS), scale


# -- speed --------------------------------------------------------------------------------------


def test_bench_compares_the_same_numbers(tmp_path: Path) -> None:
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", rounds=1500, repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["peer"])
    assert numbers["ratio"] > 10  # 200 in a quiet moment; a busy machine is no fault


# -- every scale on stand-ins, an added method ----------------------------------------------------


SEEN = ("e1", "e2", "e3-s1")  # what uniINF is compared in


def tiny(job: Job) -> list[str] | None:
    """A few rounds of one tail parameter.

    In the other environments, which are other numbers in the same loop, only uniINF is run, and
    whom a claim compares it with there.
    """
    if not (
        job.method == "uniinf"
        or job.task in SEEN
        or (job.method, job.task) == ("opttinf", "e3-s100")
    ):
        return None
    return ["--horizon", "1000", "--alpha", "1.5"]


@pytest.mark.parametrize("scale", ["default", "study", "paper"])
def test_every_stage_of_every_scale(scale: str, tmp_path: Path) -> None:
    made = kit.run_scale("uniinf", scale, tmp_path, tiny)
    names = {figure["name"] for figure in made["figures"]}
    assert names == {"alpha_1_5"} | (set() if scale == "study" else {"regret", "rate"})


def test_an_added_method_is_shown_and_changes_no_verdict(tmp_path: Path) -> None:
    kit.check_added_method("uniinf", tmp_path, flags=["--horizon", "1000"])


def test_regret_of_uniform_play() -> None:
    assert uniform_regret("e1", 1.5, 1000) == pytest.approx(150.0)
    assert uniform_regret("e3-s100", 1.5, 1000) == pytest.approx(15_000.0)
    # against the second arm, best over all: 0.45 - 0.4 on average in one half, 0.5 - 0.2 after
    assert uniform_regret("e4", 1.5, 1000) == pytest.approx(500 * (0.05 + 0.3))


# -- a learner that is loaded ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniinf", "htinf", "robust_ucb"])
def test_a_loaded_learner_goes_on_where_its_run_ended(name: str, tmp_path: Path) -> None:
    """On the losses of its bandit it chooses as the run would have done."""
    options: dict[str, Any] = {"method": name, "seed": (1, 2), "alpha": (1.3, 1.5)}
    train(Config(**options, horizon=1000, out=tmp_path / "run"))
    learner = load(tmp_path / "run", seed=2, alpha=1.5)
    env = task.make_env("e1", 1.5, 1000)
    known = task.Known(1000.0, task.true_sigma(env, 1.5), 1.5)
    state, tally = METHODS[name].new_state(4), np.zeros(3)
    METHODS[name].simulate(env, known, 2, 0, 1200, state, tally)

    best = Run.load(tmp_path / "run").final()["tallies"][1, 1, task.BEST_PULLS]
    loss_key, _ = task.stream_keys(2, env.stream)
    for t in range(1001, 1201):
        arm = learner.choose()
        assert arm == learner.choose()
        best += arm == env.best
        learner.observe(task.draw_loss(env, loss_key, 0, t, arm))
    assert best == tally[task.BEST_PULLS] and learner.rounds == 1200
    for mine, theirs in zip(learner._state, state, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_loaded_learner_moves_to_a_better_arm(tmp_path: Path) -> None:
    train(Config(horizon=500, alpha=(1.8,), out=tmp_path / "run"))
    learner = load(tmp_path / "run")
    chosen = []
    for _ in range(3000):
        chosen.append(learner.choose())
        learner.observe(-0.5 if chosen[-1] == 2 else 0.0)
    assert chosen.count(2) > 2000 > chosen[:1000].count(2)
    for wrong in ({"seed": 7}, {"alpha": 1.3}):
        with pytest.raises(UserError):
            load(tmp_path / "run", **wrong)
    with pytest.raises(UserError):
        learner.observe(float("nan"))
