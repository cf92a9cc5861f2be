"""Runs that are cut, evaluation, and claims that can fail."""

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import torch_utils
from common.errors import UserError
from common.run import Run
from papers.rl_cfr import abstraction, bench, eval, mdp, method, task, train
from papers.rl_cfr.config import TASKS, Config, resolve
from papers.rl_cfr.methods import METHODS

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
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "2")  # rounds
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
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "1")  # rounds
    saved: dict[str, Any] = {}
    plain = Run.save
    monkeypatch.setattr(
        Run, "save", lambda run, step, tree: (saved.setdefault(step, tree), plain(run, step, tree))
    )
    cfg = Config(out=tmp_path / "a", seed=5, **TINY)
    train.train(cfg)
    data, rng = saved[1], np.random.default_rng([5, 43])
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
    t250 = resolve(Config(method="rl_cfr_t250"))
    assert train.solving(t250) == mdp.Solving(250, None, "iterates")
    assert train.solving(resolve(Config())) == mdp.Solving(500, 1.0, "average")
    assert resolve(Config(method="rl_cfr_pbs")).with_ranges
    with pytest.raises(UserError):
        resolve(Config(method="rlcfr"))
    with pytest.raises(UserError):
        resolve(Config(task="leduc-4"))  # RL-CFR is not run there
    with pytest.raises(UserError):
        resolve(Config(samples=100, samples_per_round=33))


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
            assert set(stage["methods"]) <= set(METHODS), scale
            assert set(stage["tasks"]) <= set(TASKS), scale
            for flag in stage.get("args", {}):
                assert flag in Config.__dataclass_fields__, flag


def test_bench_compares_the_same_game(tmp_path: Path) -> None:
    pytest.importorskip("pyspiel", reason="open_spiel is the peer")
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", iterations=2, repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["peer"])
    assert numbers["ratio"] > 5  # hundreds in a quiet moment
