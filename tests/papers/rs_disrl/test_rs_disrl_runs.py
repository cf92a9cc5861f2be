"""Runs that are cut, evaluation, and claims that can fail."""

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
from papers.rs_disrl import baselines, bench, load, method, risk, task
from papers.rs_disrl import train as training
from papers.rs_disrl.augmented import optimum
from papers.rs_disrl.config import Config
from papers.rs_disrl.eval import EvalConfig, evaluate
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.train import train

REPOSITORY = Path(__file__).resolve().parents[3]


class Killed(Exception):
    """Stands for a power cut."""


def result(folder: Path) -> dict[str, Any]:
    evaluate(EvalConfig(run=folder))
    return {"eval": json.loads((folder / "eval.json").read_text())["rows"]} | {
        "metrics": Run.load(folder).metrics()
    }


@pytest.fixture
def small_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(task.TASKS, "i1-n20", task.Size("finite", 2, 2, 3, 1, 6, True))


@pytest.mark.parametrize(
    ("name", "where"),
    [("v_lsr", "i1-n20"), ("m_lsr", "i1-n20"), ("m_mle", "i2"), ("m_lsr", "i3")],
)
def test_a_run_that_is_cut_ends_with_the_same_numbers(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_class: None
) -> None:
    settings: dict[str, Any] = {"method": name, "task": where, "seed": (0, 3), "episodes": 60}
    settings |= {"chunk": 7, "candidates": 5, "replan": 4}
    train(Config(**settings, out=tmp_path / "whole"))

    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")
    calls, plain = itertools.count(), baselines.set_up

    def mortal(*args: Any) -> baselines.Learner:
        learner = plain(*args)

        def play(first: int, last: int) -> None:
            if next(calls) == 9 + 5:  # in the second of four runs
                raise Killed
            learner.play(first, last)

        return learner._replace(play=play)

    monkeypatch.setattr(training, "set_up", mortal)
    with pytest.raises(Killed):
        train(Config(**settings, out=tmp_path / "cut"))
    calls = itertools.count(100)
    train(Config(**settings, out=tmp_path / "cut"))
    assert next(calls) - 100 < 4 * 9 - 10  # it did not begin anew
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    train(Config(**settings, out=tmp_path / "cut"))  # finished: nothing to do
    train(Config(**(settings | {"chunk": 60}), out=tmp_path / "one"))
    assert result(tmp_path / "one")["eval"] == result(tmp_path / "whole")["eval"]


def test_a_job_of_many_seeds_is_many_jobs_of_one(tmp_path: Path, small_class: None) -> None:
    for folder, seeds in (("both", (1, 2)), ("one", (1,)), ("two", (2,))):
        train(
            Config(
                method="m_lsr", task="i1-n20", seed=seeds, episodes=200, risk=("cvar25",),
                out=tmp_path / folder,
            )
        )  # fmt: skip
    both, one, two = (
        [r for r in result(tmp_path / f)["eval"] if r["metric"] == "regret"]
        for f in ("both", "one", "two")
    )
    assert both == one + two
    assert both[0]["value"] != both[1]["value"]


def test_bad_flags_end_in_one_line(tmp_path: Path) -> None:
    wrongs: list[dict[str, Any]] = [{"method": "m_ml"}, {"task": "i9"}, {"risk": ("cvar",)}]
    wrongs += [
        {"episodes": 0},
        {"method": "v_mle", "task": "i2"},
        {"method": "m_mle", "task": "i3"},
    ]
    for i, wrong in enumerate(wrongs):
        with pytest.raises(UserError):
            train(Config(**wrong, out=tmp_path / str(i)))
    assert not list(tmp_path.glob("*/finished.json"))


def test_nothing_here_imports_torch() -> None:
    code = "import sys, papers.rs_disrl.train, papers.rs_disrl.eval, papers.rs_disrl.claims; " + (
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_manifest_names_what_exists() -> None:
    text = (REPOSITORY / "papers" / "rs_disrl" / "paper.toml").read_text()
    for scale, content in tomllib.loads(text)["scales"].items():
        for stage in content["stages"]:
            for where in stage["tasks"]:
                kind = task.TASKS[where].kind
                assert all(kind in METHODS[m].kinds for m in stage["methods"]), (scale, where)
            assert set(stage["args"]["risk"]) <= set(risk.RISKS)


def test_the_paper_scale_runs_at_its_own_size(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task": "i2-large", "episodes": 3, "replan": 10, "seed": (0,)}
    for name in ("m_mle", "oracle"):
        train(Config(method=name, **settings, risk=("cvar25",), out=tmp_path / name))
        evaluate(EvalConfig(run=tmp_path / name))
    rows = json.loads((tmp_path / "oracle" / "eval.json").read_text())["rows"]
    metrics = {row["metric"] for row in rows}
    assert "value_optimal" in metrics and "value_markov" not in metrics  # 4^51 policies


def test_bench_compares_the_same_numbers(tmp_path: Path) -> None:
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", episodes=10, repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    for one in (numbers, numbers["m_lsr_i1"], numbers["m_mle_i2"]):
        assert one["ratio"] == pytest.approx(one["ours"] / one["peer"])
        assert one["ratio"] > 5  # hundreds in a quiet moment; a busy machine is no fault


@pytest.mark.parametrize(
    ("name", "where"),
    [("m_lsr", "i1-n20"), ("v_lsr", "i1-n20"), ("v_mle", "i1-n20"), ("m_mle", "i2")]
    + [("m_lsr", "i3"), ("greedy", "i3"), ("markov_known", "i2"), ("oracle", "two-step")],
)
def test_what_a_run_plays_in_the_end_can_be_used(
    name: str, where: str, tmp_path: Path, small_class: None
) -> None:
    """Its value is V* minus the regret of the episode that it would play next."""
    K = 60
    settings: dict[str, Any] = {"method": name, "task": where, "seed": (0, 3), "candidates": 5}
    train(Config(**settings, episodes=K, out=tmp_path))
    agent = load(tmp_path, seed=3, risk="cvar25")
    problem = task.make_problem(where, "cvar25", 3)
    at = baselines.Setting(problem, "cvar25", where, 3, K + 1, 1)
    learner = baselines.set_up(name, at, 5)
    if problem.size.kind != "tabular":  # I2: the plan of the last episode, and its width knows K
        learner.play(0, K + (problem.size.kind == "finite"))
        best = optimum(problem.truth, at.risk, 0)[0]
        lost = learner.record[K if problem.size.kind == "finite" else K - 1, method.REGRET]
        assert agent.value() == pytest.approx(best - lost, abs=1e-12)
    episode = agent.play(seed=1)
    so_far = np.cumsum([0.0, *episode["r"][:-1]])
    played = [
        agent.act(h, s, y) for h, (s, y) in enumerate(zip(episode["s"], so_far, strict=False))
    ]
    assert played == episode["a"]
    returns, probabilities = agent.law()
    assert probabilities.sum() == pytest.approx(1) and len(returns) == len(probabilities)
    for wrong in ({"seed": 1}, {"seed": 0, "risk": "mean"}):
        with pytest.raises(UserError, match="the run has"):
            load(tmp_path, **wrong)
    for wrong_place in ((9, 0, 0.0), (0, 9, 0.0), (0, 0, 1.0)):
        with pytest.raises(UserError, match="act takes"):
            agent.act(*wrong_place)


def test_random_actions_are_no_policy(tmp_path: Path) -> None:
    train(Config(method="random", task="i2", episodes=20, out=tmp_path))
    with pytest.raises(UserError, match="no policy"):
        load(tmp_path)
