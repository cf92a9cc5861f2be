"""Runs: plays of matrix games, stacked seeds, resuming, battles on a stand-in, loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

import papers.dfac as dfac
from common.errors import UserError
from common.marl import environments
from common.marl.episodes import collect
from common.marl.matrix_games import END, GAMES, MatrixGame
from common.rows import Rows
from common.run import Run
from papers.dfac import config, eval, games, play, train, train_games
from papers.dfac.config import Config, GameConfig
from papers.dfac.eval import EvalConfig, evaluate, law_rows
from papers.dfac.learner import Learner
from papers.dfac.method import midpoints
from papers.dfac.methods import METHODS

torch.set_num_threads(1)
CPU = torch.device("cpu")


def rows_of(folder: Path) -> Rows:
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


# ------------------------------------------------------------------ matrix games


def test_exact_laws_are_those_of_plays() -> None:
    game = GAMES["dfac_m"]()
    means, stds = games.exact_laws(game)
    np.testing.assert_allclose(means, [[7, 7, 8, 8], [7] * 4, [0, 1, 1, 8]])
    np.testing.assert_allclose(stds, [[1, 1, 2, 2], [1] * 4, [0.5, 1, 1, 2]])
    assert games.paths(game) == [[0], [0, 1], [0, 2]]
    env = MatrixGame("dfac_m", 4_000)
    env.reset(0)
    env.step(np.full((4_000, 2), [1, 0]))
    played = env.step(np.ones((4_000, 2), np.int64)).reward
    exact = games.exact_quantiles(game, 0)[2]
    assert scipy.stats.wasserstein_distance(played, exact) < 0.1
    assert games.value_of_play(game, np.array([[1, 0], [0, 0], [1, 1]])) == 8
    assert games.value_of_play(game, np.array([[0, 0], [0, 0], [1, 1]])) == 7


def test_plays_are_the_games() -> None:
    table = games.Table(GAMES["dfac_m"](), CPU)
    plays = games.Plays(table, (0, 1), 400)
    for _ in range(500):
        plays.play()
    batch = plays.sample(200)
    assert batch.inputs.shape == (2, 200, 3, 2, 5) and batch.avail.shape == (2, 200, 3, 2, 2)
    states = batch.state.argmax(-1)
    assert (states[:, :, 0] == 0).all() and (batch.state[:, :, 2] == 0).all()  # the end: zeros
    after = torch.where(batch.actions[:, :, 0, 0] == 1, 2, 1)
    assert torch.equal(states[:, :, 1], after)
    assert batch.terminated[:, :, 0].sum() == 0 and batch.terminated[:, :, 1].all()
    assert (batch.reward[:, :, 0] == 0).all()
    cell = batch.actions[:, :, 1] @ torch.tensor([2, 1])
    best = batch.reward[:, :, 1][(after == 2) & (cell == 3)]
    assert len(best) > 20 and abs(best.mean() - 8) < 1 and 1 < best.std() < 3
    torch.testing.assert_close(batch.inputs[0, 0, 0, 1], torch.tensor([1.0, 0, 0, 0, 1]))
    assert not torch.equal(batch.actions[0], batch.actions[1])
    alone = games.Plays(table, (1,), 400)  # a seed plays the same beside others
    for _ in range(500):
        alone.play()
    assert torch.equal(alone.actions[0], plays.actions[1])
    assert torch.equal(alone.rewards[0], plays.rewards[1])


def small(out: Path, **changes: Any) -> GameConfig:
    values = {"seed": (4, 7), "updates": 12, "batch": 8, "samples": 4, "hidden": 8}
    return GameConfig(**{**values, "target_every": 5, "evaluations": 3, **changes, "out": out})


@pytest.mark.parametrize("method", ["dmix", "dplex", "dmix-c51", "vdn"])
def test_a_stacked_seed_is_what_it_would_be_alone(
    tmp_path: Path, trained_alike: Any, method: str
) -> None:
    weights = []
    for name, seeds, updates in (("both", (4, 7), 12), ("one", (7,), 12), ("first", (7,), 1)):
        cfg = small(tmp_path / name, method=method, seed=seeds, updates=updates)
        train_games.train(cfg)
        net = Run.load(cfg.out).final()["learner"]["net"]
        weights.append({key: value[-1:] for key, value in net.items()})
    both, one, first = weights
    trained_alike(one, both, first)


@pytest.mark.parametrize("method", ["dmix", "qplex"])
def test_a_resumed_game_is_the_undisturbed_one(whole_and_cut: Any, tmp_path: Path, method) -> None:
    whole, cut = whole_and_cut(train_games.train, small(tmp_path / "x", method=method), 5)
    for name, value in whole["learner"]["net"].items():
        assert torch.equal(value, cut["learner"]["net"][name]), name
    assert "plays" not in whole


def test_rows_of_a_game(tmp_path: Path) -> None:
    cfg = small(tmp_path / "run", method="dmix", kappa=0.5)
    train_games.train(cfg)
    evaluate(EvalConfig(cfg.out))
    rows = rows_of(cfg.out)
    learner = train_games.make_learner(cfg, CPU)
    assert learner.cfg.loss.kappa == 0.5 and learner.cfg.loss.gamma == 1
    learner.load(Run.load(cfg.out).final()["learner"])
    assert learner.updates == 12
    table = games.Table(GAMES["dfac_m"](), CPU)
    laws = games.learnt_laws(learner.net, table)
    assert laws is not None and laws.shape == (2, 3, 4, games.LEVELS)
    # (1, 1) of game B by hand: Psi of the means of both agents' quantiles, and their shapes
    h = games.hidden(learner.net, table)[:, 2:3, None]
    at = midpoints(games.LEVELS).expand(2, 1, 1, 1, -1)
    z = learner.net.head(h, learner.net.head.embed(at))[:, 0, 0, :, 1]  # [S, n, K]
    q = z.mean(-1)
    psi = learner.net.psi(q, q, None, torch.tensor([[0.0, 0, 1]]).expand(2, -1))[0]
    torch.testing.assert_close(laws[:, 2, 3], psi[:, None] + (z - q[..., None]).sum(1))
    mean = rows.of(metric="mean", cell="1 1").values()
    np.testing.assert_allclose(mean, laws[:, 2, 3].mean(-1), rtol=1e-4)
    curve = rows.of(metric="w1_mean_curve").curve()
    assert curve[0].tolist() == [4, 8, 12]
    np.testing.assert_allclose(rows.of(metric="w1_mean").values(), curve[1].mean(1), rtol=1e-5)
    # what the first agent chooses when both are averse to risk
    chosen = games.choices(learner.net, table, 0.1)
    level = midpoints(games.LEVELS, high=0.1).expand(2, 3, 1, 1, -1)
    features = games.hidden(learner.net, table).unsqueeze(2)
    low = learner.net.head(features, learner.net.head.embed(level)).mean(-1)
    assert torch.equal(chosen, low.squeeze(2).argmax(-1))


def test_what_is_told_has_its_errors(tmp_path: Path) -> None:
    found = {}
    for method in METHODS.having("reference"):
        cfg = small(tmp_path / method, method=method)
        train_games.train(cfg)
        evaluate(EvalConfig(cfg.out))
        found[method] = rows_of(cfg.out).of(metric="w1_mean").value()
    expected = {"exact": 0, "true-means": 0.894, "dmix-optimum": 0.173, "ddn-optimum": 1.5}
    assert found == pytest.approx(expected, abs=0.01)
    with pytest.raises(UserError, match="nothing was learnt"):
        dfac.load(tmp_path / "exact")


def test_random_networks_become_shares(tmp_path: Path) -> None:
    cfg = small(tmp_path / "digm", method="naive", task="digm", draws=30)
    train_games.train(cfg)
    evaluate(EvalConfig(cfg.out))
    rows = rows_of(cfg.out)
    assert 0 < rows.of(metric="violations").value() < 1
    assert rows.of(metric="mean_gap").value() > 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "dmx"}, "did you mean"),
        ({"task": "game-q"}, "did you mean"),
        ({"method": "qmix", "task": "digm"}, "no joint law"),
        ({"method": "diql", "task": "digm"}, "no joint law"),
        ({"kappa": 0.0}, "above 0"),
    ],
)
def test_bad_games_end_in_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train_games.train(small(tmp_path / "x", **changes))


# ------------------------------------------------------------------ battles


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every battle is a matrix game."""

    def make(name: str, n: int, **_: Any) -> MatrixGame:
        return MatrixGame("dfac_m", n)

    for module in (environments, train, eval):
        monkeypatch.setattr(module, "make_env", make)


def battle(out: Path, **changes: Any) -> Config:
    values = {"method": "dmix", "task": "smax-3m", "seed": 3, "steps": 40, "envs": 4, "hidden": 8}
    values |= {"steps_per_update": 4, "batch": 4, "samples": 4, "evaluations": 2, "episodes": 4}
    return Config(**{**values, "monte_carlo": 8, "target_every": 3, **changes, "out": out})


@pytest.mark.parametrize("method", ["dmix", "vdn"])
def test_a_resumed_battle_is_the_undisturbed_one(
    stand_in: None, whole_and_cut: Any, tmp_path: Path, method: str
) -> None:
    whole, cut = whole_and_cut(train.train, battle(tmp_path / "x", method=method), 1)
    for name, value in whole["learner"]["net"].items():
        assert torch.equal(value, cut["learner"]["net"][name]), name
    assert whole["env_steps"] == 40 and whole["learner"]["updates"] == 10


def test_a_round_may_be_longer_than_what_is_between_evaluations(
    stand_in: None, whole_and_cut: Any, tmp_path: Path
) -> None:
    """8 steps a round and 4 between evaluations: every second one has no update of its own."""
    cfg = battle(tmp_path / "x", steps=16, evaluations=4)
    whole, cut = whole_and_cut(train.train, cfg, 1)
    lines = Run.load(tmp_path / "cut").metrics()
    assert [line["step"] for line in lines] == [8, 8, 16, 16]
    assert lines[1]["loss"] == lines[0]["loss"] and whole["losses"] == cut["losses"]


def test_a_batch_of_episodes_is_scaled_and_padded() -> None:
    env = MatrixGame("dfac_m", 3)
    act = lambda seen, t: np.ones((3, 2), np.int64)  # noqa: E731
    episodes = collect(env, act, 0)
    batch = play.batch_of(episodes, 2, 10.0, "cpu")
    assert batch.inputs.shape == (1, 3, 3, 2, 3 + 2 + 2)
    np.testing.assert_allclose(batch.reward[0, 1], 10 * episodes[1]["reward"])
    assert batch.inputs[0, 0, 0, 0, 3:5].tolist() == [0, 0]  # no action before the first
    assert batch.inputs[0, 0, 1, 0, 3:5].tolist() == [0, 1]
    expected = 10 * (episodes[0]["reward"] * [1, 0.5]).sum()
    assert play.returns_of(episodes, 0.5, 10.0)[0] == pytest.approx(expected)


def learner_of(cfg: Config, env: MatrixGame) -> Learner:
    parts = (config.battle_learning(cfg), config.battle_sizes(cfg, env), (cfg.seed,), CPU)
    return Learner(cfg.method, *parts)


@pytest.mark.parametrize("method", ["dmix", "diql", "qmix", "dmix-c51"])
def test_acting_step_by_step_is_the_unrolled_network(tmp_path: Path, method: str) -> None:
    env = MatrixGame("dfac_m", 3)
    net = learner_of(battle(tmp_path, method=method), env).net
    levels = midpoints(8)
    episodes = play.greedy_episodes(net, env, 3, 5, levels)
    batch = play.batch_of(episodes, 2, 1.0, "cpu")
    h = net.trunk(batch.inputs)
    exact = method in ("qmix", "dmix-c51")
    means = net.means(h, None if exact else levels.expand(*h.shape[:3], 1, -1))
    assert torch.equal(means[:, :, :-1].argmax(-1), batch.actions)
    if method == "dmix":
        law = play.first_laws(net, episodes, 2, 8)
        now = (batch.actions[:, :, :1], batch.state[:, :, :1], batch.avail[:, :, :1])
        joint = net.law(h[:, :, :1], levels.expand(1, 3, 1, 1, -1), *now)[0]
        np.testing.assert_allclose(law, joint[0, :, 0].detach(), rtol=1e-4)
        drawn = [play.greedy_episodes(net, env, 3, 5, 4)[0]["actions"] for _ in range(2)]
        assert np.array_equal(*drawn)  # drawn fractions, but the seed's


def test_rows_of_a_battle(stand_in: None, tmp_path: Path) -> None:
    cfg = battle(tmp_path / "noisy", task="smax-3m-noise")
    train.train(cfg)
    evaluate(EvalConfig(cfg.out))
    rows = rows_of(cfg.out)
    assert rows.of(metric="win_rate_curve").curve()[0].tolist() == [20, 40]
    assert {"w1_return", "w1_point", "law_std", "won_drawn"} <= set(rows.unique("metric"))
    assert rows.of(metric="updates").value() == 10


def test_a_law_is_compared_with_played_returns() -> None:
    found: dict[str, float] = {}
    normal = scipy.stats.norm(3, 2)
    returns = normal.ppf((np.arange(512) + 0.5) / 512)
    laws = np.tile(normal.ppf(midpoints(64).double().numpy()) + 1, (512, 1))  # one too large
    law_rows(laws, returns, lambda metric, values: found.update({metric: float(values[0])}))
    assert found["w1_return"] == pytest.approx(1, abs=0.02)
    assert found["w1_shape"] < 0.05 and found["law_mean"] - found["return_mean"] > 0.99
    assert found["w1_shape_point"] == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.01)


@pytest.mark.parametrize(
    ("method", "task", "given", "expected"),
    [
        ("dmix", "smax-3m", {}, ("adam", 1e-3, True, 8)),
        ("qmix", "smax-3m", {}, ("adam", 1e-3, True, 8)),
        ("ddn", "smax-3m", {"double_q": False}, ("adam", 1e-3, False, 8)),
        ("ddn", "smax-3m-released", {}, ("adam", 5e-4, False, 1)),
        ("dmix", "smax-3m-released", {}, ("adam", 5e-4, False, 8)),
        ("qmix", "smax-3m-released", {}, ("rmsprop", 5e-4, True, 8)),
        ("vdn", "smax-3m", {"as_released": True}, ("rmsprop", 5e-4, True, 8)),
    ],
)
def test_both_sides_learn_alike_unless_as_released(method, task, given, expected) -> None:
    learning = config.battle_learning(Config(method=method, task=task, **given))
    found = (learning.optimizer, learning.lr, learning.loss.double_q, learning.loss.samples)
    assert found == expected
    assert learning.loss.kappa == 1 and learning.clip == 10


def test_widths_of_the_paper_and_what_is_no_battle() -> None:
    env = MatrixGame("dfac_m", 2)
    for method, width in (("iql", 256), ("qmix", 256), ("ddn", 128), ("dmix", 64), ("naive", 64)):
        sizes = config.battle_sizes(Config(method=method, task="smac-corridor"), env)
        assert sizes.hidden == width
    with pytest.raises(UserError, match="for the games"):
        config.check_battle(Config(method="exact"))
    with pytest.raises(UserError, match="did you mean"):
        config.battle_learning(Config(task="smax-3n"))


# ------------------------------------------------------------------ use


def test_loaded_agents_act_with_and_without_risk(tmp_path: Path) -> None:
    cfg = small(tmp_path / "run", method="ddn")
    train_games.train(cfg)
    learner = train_games.make_learner(cfg, CPU)
    learner.load(Run.load(cfg.out).final()["learner"])
    table = games.Table(GAMES["dfac_m"](), CPU)
    for index, seed in enumerate(cfg.seed):
        policy = dfac.load(cfg.out, seed=seed)
        for cvar in (1.0, 0.1):
            policy.reset()
            first = policy.act(np.tile([1.0, 0, 0], (2, 1)), cvar=cvar)
            second = policy.act(np.tile([0.0, 0, 1], (2, 1)), cvar=cvar)
            chosen = games.choices(learner.net, table, cvar)[index]
            # 32 levels here and 64 there: the same but for near ties
            assert first.shape == (2,) and np.array_equal(first, chosen[0])
            assert np.array_equal(second, chosen[2])
    policy.reset()
    never = np.ones((3, 2, 2), bool)
    never[:, :, 1] = False
    assert not policy.act(np.zeros((3, 2, 3)), never).any()
    for wrong, words in (
        (lambda: policy.act(np.zeros((2, 4))), "2 agents x 3"),
        (lambda: policy.act(np.zeros((2, 3)), cvar=0.0), "in \\(0, 1\\]"),
        (lambda: policy.act(np.zeros((2, 3))), "reset first"),
        (lambda: dfac.load(cfg.out, seed=5), "not 5"),
    ):
        with pytest.raises(UserError, match=words):
            wrong()
    scalar = small(tmp_path / "scalar", method="vdn", updates=1)
    train_games.train(scalar)
    assert dfac.load(scalar.out).act(np.zeros((2, 3))).shape == (2,)
    with pytest.raises(UserError, match="no law"):
        dfac.load(scalar.out).act(np.zeros((2, 3)), cvar=0.5)


def test_loaded_fighters_remember_their_last_action(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from papers.dfac import trained

    monkeypatch.setattr(trained, "make_env", lambda name, n: MatrixGame("dfac_m", n))
    cfg = battle(tmp_path / "run")
    train.train(cfg)
    policy, env = dfac.load(cfg.out), MatrixGame("dfac_m", 4)
    learner = learner_of(cfg, env)
    learner.load(Run.load(cfg.out).final()["learner"])
    played = collect(env, lambda seen, t: policy.act(seen.obs, seen.avail), 1)
    expected = play.greedy_episodes(learner.net, env, 4, 1, midpoints(32))
    for ours, theirs in zip(played, expected, strict=True):
        assert np.array_equal(ours["actions"], theirs["actions"])
    assert END == -1


def test_bench_compares_stacks_with_single_seeds(tmp_path: Path, capsys: Any) -> None:
    from papers.dfac import bench

    sizes = {"stack": 2, "samples": 2, "repeats": 1, "updates": 1}
    bench.bench(bench.BenchConfig(tmp_path / "bench.json", ("qmix", "dmix"), **sizes))
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["qmix"]["over qmix"] == 1 and found["dmix"]["stacking gains"] > 0
    assert capsys.readouterr().out.count("x qmix\n") == 2
