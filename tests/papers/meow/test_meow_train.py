"""Training with stacked seeds, resuming, the SAC baseline against stable-baselines3."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.rows import Rows, long_form
from common.run import Run
from common.sac import Batch
from common.stacked import randn, seed_generators
from papers.meow import baselines, report, train
from papers.meow.agent import make_agent
from papers.meow.baselines import SAC, SACConfig
from papers.meow.config import Config, settings_of
from papers.meow.eval import EvalConfig, evaluate, goal_entropy
from papers.meow.method import MEow
from papers.meow.methods import METHODS
from papers.meow.multigoal import MultiGoal

torch.set_num_threads(1)


def config(tmp_path, name="run", **changes):
    values = {"seed": (0, 1), "steps": 40, "learning_starts": 20, "batch": 16, "quick": True}
    return Config(**{**values, **changes, "out": tmp_path / name})


def final(cfg):
    return Run.load(cfg.out).final()["agent"]


def flat(tree, name=""):
    if isinstance(tree, dict):
        return {k: v for key, x in tree.items() for k, v in flat(x, f"{name}/{key}").items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), name)
    return {name: tree} if isinstance(tree, torch.Tensor) else {}


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("method", "task"),
    [("meow", "multigoal"), ("sac", "InvertedPendulum-v5"), ("meow-vanilla", "HalfCheetah-v5")],
)
def test_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, monkeypatch, method, task):
    changes = {"method": method, "task": task}
    if task != "multigoal":
        monkeypatch.setattr(train, "MujocoReturns", lambda *a: lambda act: np.zeros((2, 1)))
        changes["evaluate_every"] = 10
    whole = config(tmp_path, "whole", **changes)
    train.train(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "15")
    broken = config(tmp_path, "broken", **changes)
    kind = SAC if method == "sac" else MEow
    update, calls = kind.update, [0]

    def stop_at_14(self, batch):
        calls[0] += 1
        if calls[0] == 14:  # step 34, after the checkpoint at 30
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(kind, "update", stop_at_14)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    train.train(broken)
    expected, found = flat(final(whole)), flat(final(broken))
    assert expected.keys() == found.keys() and len(found) > 20
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    assert Run.load(whole.out).metrics() == Run.load(broken.out).metrics()


@pytest.mark.parametrize("method", ["meow", "sac"])
def test_a_stacked_seed_is_what_it_would_be_alone(tmp_path, trained_alike, method):
    runs = [
        config(tmp_path, "both", method=method, seed=(4, 7), steps=30),
        config(tmp_path, "alone", method=method, seed=(7,), steps=30),
        config(tmp_path, "first", method=method, seed=(7,), steps=21),
    ]
    for cfg in runs:
        train.train(cfg)
    both, alone, first = (weights(final(cfg)) for cfg in runs)
    for name, value in both.items():
        if method == "sac" and "actor" not in name and name != "/log_alpha":
            both[name] = value.unflatten(0, (2, -1))[1]  # twin critics, seed by seed
        else:
            both[name] = value[1:]
    trained_alike(alone, both, first)


def weights(agent):
    return {k: v for k, v in flat(agent).items() if "optimizer" not in k and "mask" not in k}


def test_what_is_left_open_is_the_environments():
    settings = settings_of(Config(task="Ant-v5"))
    assert (settings.tau, settings.alpha, settings.steps) == (0.0001, 0.05, 4_000_000)
    settings = settings_of(Config(task="HalfCheetah-v5", tau=0.005, steps=20_000))
    assert (settings.tau, settings.steps, settings.gamma) == (0.005, 20_000, 0.99)
    device = torch.device("cpu")
    agent = make_agent(Config(task="HalfCheetah-v5"), 17, 6, device)
    assert (agent.cfg.tau, agent.cfg.lr, agent.cfg.log_sigma) == (0.003, 1e-3, (-5.0, 2.0))
    assert (agent.cfg.shifts, agent.cfg.clip, agent.cfg.dropout) == (2, 30.0, 0.1)
    agent = make_agent(Config(method="sac", task="HalfCheetah-v5"), 17, 6, device)
    assert (agent.cfg.alpha, agent.cfg.tau, agent.cfg.lr) == (None, 0.005, 3e-4)
    agent = make_agent(Config(method="sac", task="multigoal"), 2, 2, device)
    assert agent.log_alpha.exp().item() == pytest.approx(2.5)
    assert METHODS["meow-lrs"].changes == {"shifts": 1}
    assert METHODS["meow-vanilla"].changes == {"shifts": 0}
    for wrong, match in (
        ({"method": "meoww"}, "did you mean"),
        ({"task": "Hopper-v4"}, "did you mean"),
        ({"steps": 100}, "must exceed"),
    ):
        with pytest.raises(UserError, match=match):
            settings_of(Config(**wrong))
    with pytest.raises(UserError, match="reference"):
        train.train(Config(method="sb3-sac"))


@pytest.mark.parametrize(
    ("method", "task", "flag", "tau"),
    [
        ("meow", "multigoal", None, 0.0005),
        ("sac-slow", "multigoal", None, 0.0005),  # the same rate: what the two are compared at
        ("meow-fast", "multigoal", None, 0.005),
        ("sac", "multigoal", None, 0.005),
        ("sac", "Ant-v5", None, 0.005),
        ("sac-slow", "Ant-v5", None, 0.0001),
        ("sac-slow", "Ant-v5", 0.02, 0.02),
        ("meow-fast", "multigoal", 0.02, 0.02),
    ],
)
def test_the_slow_copys_rate_is_the_flags_the_methods_or_the_environments(method, task, flag, tau):
    agent = make_agent(Config(method=method, task=task, tau=flag), 2, 2, torch.device("cpu"))
    assert agent.cfg.tau == tau


def test_replay_holds_squashed_actions_and_true_last_states(tmp_path, monkeypatch):
    seen = []
    add = train.ReplayBuffer.add
    monkeypatch.setattr(
        train.ReplayBuffer, "add", lambda self, **t: (seen.append(t), add(self, **t))[1]
    )
    monkeypatch.setattr(train, "make_environments", lambda _, seeds: MultiGoal(seeds, 5))
    train.train(config(tmp_path, steps=30))
    action = torch.stack([t["action"] for t in seen])
    assert action.shape == (30, 2, 2) and action.abs().max() <= 1
    for i, (t, following) in enumerate(itertools.pairwise(seen)):
        moved = np.clip(t["obs"] + t["action"].double().numpy(), -7, 7)
        np.testing.assert_allclose(t["next_obs"], moved)
        limit = i % 5 == 4
        if not t["terminated"].any():  # the time limit: goes on elsewhere, and bootstraps
            assert np.array_equal(t["next_obs"], following["obs"]) != limit


# one of each kind of network; test_meow_claims takes all methods through their scales
@pytest.mark.parametrize("method", ["meow", "meow-vanilla", "meow-affine", "sac"])
def test_a_method_trains_and_is_evaluated(tmp_path, monkeypatch, method):
    from papers.meow import eval as evaluation

    monkeypatch.setattr(evaluation, "QUICK_SIZES", {10: 4, 100: 2})
    monkeypatch.setattr(evaluation, "STATES", evaluation.STATES[:2])
    monkeypatch.setattr(evaluation, "MC_STATES", evaluation.STATES[:1])
    quadrature = evaluation.quadrature_v
    monkeypatch.setattr(evaluation, "quadrature_v", lambda p, s, points: quadrature(p, s, 100))
    fitted = evaluation.fitted_gaussian_v
    monkeypatch.setattr(
        evaluation, "fitted_gaussian_v", lambda *a: fitted(*a, steps=3, samples=8, judged=50)
    )
    cfg = config(tmp_path, method=method)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    result = json.loads((cfg.out / "eval.json").read_text())
    rows = long_form(result["rows"])
    assert set(rows.seed) == {0, 1} and set(rows.method) == {method}
    share = rows[rows.metric == "goal_share"].groupby("seed").value.sum()
    reached = rows[rows.metric == "reached"].groupby("seed").value.sum()
    np.testing.assert_allclose(share, reached)
    drawn = {e["name"] for e in result["extras"]}
    if not METHODS[method].has_value:
        assert drawn == {"paths"}
        return
    assert drawn == {"paths", "V", "V*"}
    assert len(rows[rows.metric == "mc_error"]) == 4
    assert (rows[rows.metric == "exactness"].value < 0.05).all()  # 100 points only
    assert len(rows[rows.metric == "log_det_linear"]) > 2


def test_mujoco_run_becomes_curves(tmp_path):
    cfg = config(tmp_path, task="InvertedPendulum-v5", evaluate_every=20, episodes=2)
    train.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = long_form(json.loads((cfg.out / "eval.json").read_text())["rows"])
    returns = rows[rows.metric == "returns"]
    assert sorted(set(returns.step)) == [20, 40] and len(returns) == 4
    last = returns[returns.step == 40].sort_values("seed").value.to_numpy()
    found = Rows(rows)
    np.testing.assert_allclose(found.of(method="meow", metric="final_return").values(), last)
    assert report.tables(found)[-1].title.startswith("InvertedPendulum")


def test_entropy_of_goals():
    assert goal_entropy(np.array([0, 1, 2, 3, -1])) == pytest.approx(np.log(4))
    assert goal_entropy(np.array([2, 2, -1])) == 0 == goal_entropy(np.array([-1, -1]))


def test_paper_scale_on_a_tiny_stand_in(tmp_path, monkeypatch):
    """The settings of Section 3 with few steps, short episodes and a small buffer."""
    monkeypatch.setattr(train, "MujocoReturns", lambda *a: lambda act: np.zeros((1, 2)))
    for method in ("meow", "meow-affine"):
        cfg = config(
            tmp_path,
            method,
            method=method,
            task="Humanoid-v5",
            seed=(0,),
            steps=12,
            learning_starts=8,
            checkpoint_every=50_000,
        )
        train.train(cfg)
        assert torch.stack([p.sum() for p in flat(final(cfg)["policy"]).values()]).isfinite().all()


# ------------------------------------------------------------------ SAC against its reference


def test_one_update_of_sac_is_stable_baselines3s(monkeypatch):
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium

    env = gymnasium.make("InvertedPendulum-v5")
    model = sb3.SAC("MlpPolicy", env, batch_size=32, learning_starts=5, seed=0, device="cpu")
    model.learn(40)  # a few updates: optimiser states are of no interest, weights are
    for optimizer in (model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer):
        optimizer.state.clear()
    ours = SAC(seed_generators((0,), 0), seed_generators((0,), 1), 4, 1, SACConfig())

    def fill(linear, *theirs):
        with torch.no_grad():
            linear.weight.copy_(torch.stack([t.weight.T for t in theirs]))
            linear.bias.copy_(torch.stack([t.bias[None] for t in theirs]))

    def linears(module):
        return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]

    def heads():
        last = torch.nn.Linear(256, 2)
        with torch.no_grad():
            last.weight.copy_(torch.cat((model.actor.mu.weight, model.actor.log_std.weight)))
            last.bias.copy_(torch.cat((model.actor.mu.bias, model.actor.log_std.bias)))
        return last

    for linear, theirs in zip(
        ours.actor.net.layers, [*linears(model.actor.latent_pi), heads()], strict=True
    ):
        fill(linear, theirs)
    for mine, theirs in ((ours.critic, model.critic), (ours.target, model.critic_target)):
        nets = (linears(theirs.qf0), linears(theirs.qf1))
        for linear, q1, q2 in zip(mine.net.layers, *nets, strict=True):
            fill(linear, q1, q2)
    with torch.no_grad():
        ours.log_alpha.copy_(model.log_ent_coef)

    data = model.replay_buffer.sample(32)
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *a, **k: data)
    noise = randn(seed_generators((0,), 5), 2, 32, 1)
    draws = iter((noise[0, 0], noise[0, 1]))
    monkeypatch.setattr(
        torch.distributions.Normal,
        "rsample",
        lambda self, shape=(): self.loc + self.scale * next(draws),
    )
    model.train(1, 32)
    monkeypatch.setattr(baselines, "randn", lambda *a: noise)
    ours.update(
        Batch(
            data.observations[None].float(),
            data.actions[None],
            data.rewards[None, :, 0],
            data.next_observations[None].float(),
            data.dones[None, :, 0],
        )
    )
    close = {"atol": 2e-5, "rtol": 1e-3}
    for linear, theirs in zip(
        ours.actor.net.layers, [*linears(model.actor.latent_pi), heads()], strict=True
    ):
        moved = (linear.weight[0] - theirs.weight.T).abs()
        assert moved.quantile(0.99) < 2e-5  # Adam's first step is a sign: ties may flip
    for mine, theirs in ((ours.critic, model.critic), (ours.target, model.critic_target)):
        for linear, q1, q2 in zip(
            mine.net.layers, linears(theirs.qf0), linears(theirs.qf1), strict=True
        ):
            moved = (linear.weight - torch.stack((q1.weight.T, q2.weight.T))).abs()
            assert moved.flatten()[:: max(1, moved.numel() // 10_000)].quantile(0.99) < 2e-5
    torch.testing.assert_close(ours.log_alpha.detach()[0], model.log_ent_coef.detach(), **close)


# ------------------------------------------------------------------ peers


def test_reference_run_and_bench(tmp_path, capsys):
    pytest.importorskip("stable_baselines3")
    from papers.meow import bench, reference

    cfg = config(
        tmp_path,
        method="sb3-sac",
        task="InvertedPendulum-v5",
        seed=(0,),
        steps=40,
        evaluate_every=20,
        episodes=2,
    )
    reference.train(cfg)
    evaluate(EvalConfig(run=cfg.out))
    rows = long_form(json.loads((cfg.out / "eval.json").read_text())["rows"])
    returns = rows[rows.metric == "returns"]
    assert list(returns.step) == [20, 40] and (returns.value > 0).all()
    with pytest.raises(UserError, match="one seed"):
        reference.train(dataclasses.replace(cfg, seed=(0, 1)))

    bench.bench(
        bench.BenchConfig(tmp_path / "bench.json", stack=2, batch=(8, 4), repeats=1, updates=1)
    )
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [len(sides) for sides in result.values()] == [4, 4]
    assert capsys.readouterr().out.count("x stable-baselines3\n") == 8
    assert result["batch 8"]["stable-baselines3 SAC"]["over stable-baselines3"] == 1
