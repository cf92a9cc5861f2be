"""Learning: runs that are cut, stacked seeds, what the learner sees, claims that can fail."""

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
from papers.bvvi import baselines, bench, load, method, task
from papers.bvvi.config import Config
from papers.bvvi.eval import EvalConfig, evaluate
from papers.bvvi.methods import METHODS
from papers.bvvi.train import train

LEARNERS = [name for name in METHODS if METHODS[name].learn]

REPOSITORY = Path(__file__).resolve().parents[3]


class Killed(Exception):
    """Stands for a power cut."""


def result(folder: Path) -> dict[str, Any]:
    evaluate(EvalConfig(run=folder))
    return {"eval": json.loads((folder / "eval.json").read_text())["rows"]} | {
        "metrics": Run.load(folder).metrics()
    }


def setup_of(name: str, env: task.POMDP, gamma: float, c: float, K: int) -> method.Setup:
    """What the learner of a method is told."""
    return METHODS[name].setup(env, gamma, c, K, 0.2, exact_first=True)


def play(name: str, env: task.POMDP, gamma: float, c: float, K: int, seed: int = 0) -> tuple:
    """State and tally of a method after K episodes."""
    m = METHODS[name]
    state, tally = m.new_state(env), np.zeros(3)
    uniforms = task.episode_uniforms("gamble", seed, K, env)
    starts = task.level_starts(env)
    m.learn(env, setup_of(name, env, gamma, c, K), uniforms, starts, 0, K, state, tally)
    return state, tally


# -- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bvvi_next", "rsvi2"])
def test_a_run_that_is_cut_ends_with_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"method": name, "task": "gamble", "seed": (0, 3)}
    settings |= {"gamma": (-1.0, 1.0), "c": (1.0, 0.02), "episodes": 200, "chunk": 30}
    train(Config(**settings, out=tmp_path / "whole"))

    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "3")
    calls, plain = itertools.count(), METHODS[name].learn

    def mortal(*args: Any) -> None:
        if next(calls) == 8 * 8 + 3:  # in the ninth stretch, some of the eight runs are ahead
            raise Killed
        plain(*args)

    monkeypatch.setitem(METHODS._methods, name, dataclasses.replace(METHODS[name], learn=mortal))
    with pytest.raises(Killed):
        train(Config(**settings, out=tmp_path / "cut"))
    assert (tmp_path / "cut" / "metrics.jsonl").read_text()
    calls = itertools.count(1000)
    train(Config(**settings, out=tmp_path / "cut"))
    stretches = len({*task.checkpoints(200), *range(30, 200, 30)})
    assert next(calls) - 1000 == 8 * (stretches - 6)  # it went on from the sixth
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    train(Config(**settings, out=tmp_path / "cut"))  # finished: nothing to do
    # the chunk is a matter of convenience
    train(Config(**(settings | {"chunk": 200}), out=tmp_path / "one"))
    assert result(tmp_path / "one")["eval"] == result(tmp_path / "whole")["eval"]


def test_a_job_of_many_seeds_is_many_jobs_of_one(tmp_path: Path) -> None:
    for name in ("gamble", "rand"):
        for folder, seeds in (("both", (1, 2)), ("one", (1,)), ("two", (2,))):
            out = tmp_path / name / folder
            train(Config(task=name, seed=seeds, episodes=100, gamma=(1.0,), c=(0.1,), out=out))
        both, one, two = (
            [r for r in result(tmp_path / name / f)["eval"] if r["metric"] == "regret"]
            for f in ("both", "one", "two")
        )
        assert both == one + two
        assert both[0]["value"] != both[1]["value"]


def test_a_job_of_many_gammas_and_scales_is_many_jobs_of_one(tmp_path: Path) -> None:
    train(Config(episodes=60, gamma=(-1.0, 1.0), c=(0.1, 0.02), out=tmp_path / "all"))
    train(Config(episodes=60, gamma=(1.0,), c=(0.02,), out=tmp_path / "one"))
    rows = [r for r in result(tmp_path / "all")["eval"] if r["gamma"] == 1 and r["c"] == 0.02]
    assert rows == result(tmp_path / "one")["eval"]


def test_planning_is_deterministic() -> None:
    model, bonus = bench.an_estimate(100)
    one, two = (method.solve(model, -1.0, bonus=bonus, q_bonus=method.SELF) for _ in range(2))
    assert one.value == two.value
    for a, b in zip(one[1:], two[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_flags_end_in_one_line(tmp_path: Path) -> None:
    for wrong in ({"method": "bvi"}, {"task": "of"}, {"episodes": 0}, {"gamma": (0.0,)}):
        with pytest.raises(UserError):
            train(Config(**wrong, out=tmp_path / "x"))  # type: ignore[arg-type]
    assert not (tmp_path / "x" / "finished.json").exists()


def test_nothing_here_imports_torch() -> None:
    code = "import sys, papers.bvvi.train, papers.bvvi.eval, papers.bvvi.claims; " + (
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_manifest_names_methods_and_tasks_that_exist() -> None:
    text = (REPOSITORY / "papers" / "bvvi" / "paper.toml").read_text()
    for scale, content in tomllib.loads(text)["scales"].items():
        for stage in content["stages"]:
            assert set(stage["methods"]) <= set(METHODS), scale
            assert set(stage["tasks"]) <= set(task.TASKS), scale


def test_a_trained_policy_can_be_used(tmp_path: Path) -> None:
    """It is what the learner would play next, and acts on observations alone."""
    for name in LEARNERS:
        out = tmp_path / name
        train(Config(method=name, episodes=40, seed=(1, 4), gamma=(-1.0, 1.0), c=(0.1,), out=out))
        agent = load(out, seed=4, gamma=1.0)
        env = task.gamble()
        state, _ = play(name, env, 1.0, 0.1, 40, seed=4)
        setup = setup_of(name, env, 1.0, 0.1, 40)
        tally = np.zeros(3)
        uniforms = task.episode_uniforms("gamble", 4, 41, env)
        METHODS[name].learn(env, setup, uniforms, agent.starts, 40, 41, state, tally)
        lost = setup.v_star - agent.value()
        assert tally[method.REGRET] == pytest.approx(lost, abs=1e-12)  # of the 41st episode
        episode = agent.play(seed=3)
        seen = episode["o"].tolist()
        assert [agent.act(seen[: h + 1]) for h in range(4)] == episode["a"].tolist()
    assert load(tmp_path / "greedy", seed=1).setup.gamma == -1.0
    for wrong in ({"seed": 2}, {"seed": 1, "gamma": 3.0}, {"seed": 1, "c": 1.0}):
        with pytest.raises(UserError, match="the run has"):
            load(tmp_path / "bvvi_next", **wrong)
    for observations in ([], [3], [0] * 5):
        with pytest.raises(UserError, match="act takes"):
            agent.act(observations)
    train(Config(method="planner", out=tmp_path / "planner"))
    with pytest.raises(UserError, match="learns nothing"):
        load(tmp_path / "planner")


# -- what the learner does ---------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNERS)
def test_regret_is_never_negative_and_flat_at_the_optimum(name: str) -> None:
    for gamma in (-1.0, 1.0):
        env = task.gamble()
        _, few = play(name, env, gamma, 0.02, 40)
        _, many = play(name, env, gamma, 0.02, 60)
        assert -1e-9 <= few[method.REGRET] <= many[method.REGRET] + 1e-9


@pytest.mark.parametrize("name", LEARNERS)
def test_chunks_change_nothing(name: str) -> None:
    env, K = task.gamble(), 90
    m, setup = METHODS[name], setup_of(name, env, -1.0, 0.1, K)
    uniforms, starts = task.episode_uniforms("gamble", 2, K, env), task.level_starts(env)
    whole, tally = m.new_state(env), np.zeros(3)
    m.learn(env, setup, uniforms, starts, 0, K, whole, tally)
    parts, tally_parts, k = m.new_state(env), np.zeros(3), 0
    for until in (1, 2, 40, 41, K):
        parts = tuple(np.array(a.tolist()) for a in parts)  # through numbers, as a checkpoint does
        m.learn(env, setup, uniforms, starts, k, until, parts, tally_parts)
        k = until
    np.testing.assert_array_equal(tally, tally_parts)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_learning_is_planning_on_the_counts_of_what_was_revealed() -> None:
    """Ten episodes of the loop again, a step at a time in plain Python."""
    env, gamma, c, K = task.gamble(), 1.0, 0.02, 12
    setup = setup_of("bvvi_next", env, gamma, c, K)
    uniforms = task.episode_uniforms("gamble", 0, K, env)
    counts, regret = method.new_counts(env), 0.0
    for k in range(K):
        estimate = [
            np.where(n.sum(-1, keepdims=True) > 0, n, 1.0)
            / np.maximum(n.sum(-1, keepdims=True), (n.sum(-1, keepdims=True) == 0) * n.shape[-1])
            for n in counts
        ]
        model = task.POMDP(*estimate, env.r)
        bonus = method.bonuses(model, counts, gamma, c, setup.iota)
        policy, _, value = bench.plain_plan(model, gamma, bonus)
        flat = np.array([policy[f] for f in sorted(policy, key=lambda f: (len(f), f))], np.int8)
        regret += setup.v_star - task.exact_J(env, gamma, flat)
        cumulative = np.cumsum(env.mu)
        s, f = int(np.searchsorted(cumulative, uniforms[k, 0, 0], "right")), ()
        counts[0][s] += 1
        for h in range(5):
            o = int(np.searchsorted(np.cumsum(env.O[h, s]), uniforms[k, h, 1], "right"))
            counts[2][h, s, o] += 1
            if h < 4:
                f = (*f, o)
                a = policy[f]
                moved = np.cumsum(env.T[h, a, s])
                s2 = int(np.searchsorted(moved, uniforms[k, h + 1, 0], "right"))
                counts[1][h, a, s, s2] += 1
                s, f = s2, (*f, a)
    state, tally = play("bvvi_next", env, gamma, c, K)
    for ours, plain in zip(state, counts, strict=True):
        np.testing.assert_array_equal(ours, plain)
    assert tally[method.REGRET] == pytest.approx(regret, abs=1e-10)
    assert tally[method.VALUE] == pytest.approx(value, abs=1e-10)


def test_all_methods_meet_the_same_chances() -> None:
    """On E-off actions move nothing, so all learners count the same states and observations."""
    env, K = task.off(), 50
    seen = [play(name, env, 1.0, 0.1, K) for name in LEARNERS if name != "rsvi2"]
    for (_, moves, emissions), _ in seen:
        np.testing.assert_array_equal(emissions, seen[0][0][2])
        np.testing.assert_array_equal(moves.sum(1), seen[0][0][1].sum(1))
    longer = task.episode_uniforms("off", 0, 2 * K, env)
    np.testing.assert_array_equal(longer[:K], task.episode_uniforms("off", 0, K, env))


def test_policies_cannot_see_states_or_rewards() -> None:
    """Actions are a function of the observations, whatever the hidden states were."""
    env, starts = task.off(), task.level_starts(task.off())
    policy = method.solve(env, 1.0).policy
    a, b = (tuple(np.empty(n, np.int64) for n in (5, 5, 4)) for _ in range(2))
    uniforms = np.random.default_rng(0).random((300, 5, 2))
    by_observations: dict[tuple, tuple] = {}
    hidden = set()
    for u in uniforms:
        task.rollout(env, policy, starts, u, *a)
        seen = tuple(a[1][:4])
        assert by_observations.setdefault(seen, tuple(a[2])) == tuple(a[2])
        hidden.add((seen, tuple(a[0][:4])))
    assert len(hidden) > len(by_observations)
    task.rollout(env, policy, starts, uniforms[-1], *b)
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_rsvi2_on_observed_states_is_entropic_value_iteration_when_it_has_seen_enough() -> None:
    env, gamma = task.fully_observed(task.gamble()), 1.0
    sums, n = baselines.new_sums(env), 1e12
    sums[0][:] = n
    growth = np.exp(gamma * env.r)  # [H, S, A]
    sums[1][:] = n * growth[..., None] * env.T.transpose(0, 2, 1, 3)
    table, value = baselines.rsvi2_plan(sums, gamma, 0.02, 14.0, 3)
    flat = np.concatenate(
        [table[h, np.arange(3 * 6**h) % 3] for h in range(4)]
    )  # f % O is the last observation
    best = method.solve(env, gamma).value
    assert task.exact_J(env, gamma, flat) == pytest.approx(best, abs=1e-9)
    assert value >= best - 1e-6
    unseen, _ = baselines.rsvi2_plan(baselines.new_sums(env), gamma, 0.02, 14.0, 3)
    assert not unseen.any()


def test_kernels_are_checked() -> None:
    good = task.gamble()
    with pytest.raises(ValueError, match="not a distribution"):
        task.pomdp(good.mu * 2, good.T, good.O, good.r)
    with pytest.raises(ValueError, match="rewards"):
        task.pomdp(good.mu, good.T, good.O, good.r + 1)
    for name in task.TASKS:
        model = task.make_pomdp(name, 7)
        assert (model.O.shape[2] == 3) or name == "rand"
    np.testing.assert_array_equal(task.make_pomdp("rand", 7).T, task.random_pomdp(2).T)
    np.testing.assert_allclose(good.T[0, 1, 1], [0, 0.9, 0.1])  # action 1 in state 1: stays w.p. .9
    np.testing.assert_allclose(good.O[0, 0], [0.9, 0.05, 0.05])
    assert task.off().T[0, 0, 0].argmax() == 1  # the states follow one another


def test_checkpoints() -> None:
    for K in (1, 30, 2000, 100_000):
        marks = task.checkpoints(K)
        assert marks == sorted(set(marks))
        assert marks[-1] == K
        assert set(task.judged(K)) <= set(marks)
    assert task.judged(2000) == [200, 320, 500, 800, 1250, 1900, 2000]


# -- speed ---------------------------------------------------------------------------------------


def test_bench_compares_the_same_policies(tmp_path: Path) -> None:
    bench.bench(bench.BenchConfig(json=tmp_path / "b.json", repeats=1))
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert numbers["ratio"] == pytest.approx(numbers["ours"] / numbers["peer"])
    assert numbers["ratio"] > 50  # 2000 in a quiet moment; a busy machine is no fault
