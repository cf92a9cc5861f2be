"""Training, resuming, stacked seeds, simulators, demonstrations, evaluation."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.run import Run
from papers.tdil import demonstration, mazes, task, train
from papers.tdil.config import Config, resolve
from papers.tdil.demonstration import ARRAYS, Demonstration
from papers.tdil.eval import auc, grid_rows, paid_share, rank_correlation, time_gap
from papers.tdil.method import TDILConfig
from papers.tdil.methods import METHODS
from papers.tdil.networks import make_networks
from papers.tdil.task import SETTINGS, Rollout, make_task

torch.set_num_threads(1)

SIMULATED = {name: s.env for name, s in SETTINGS.items() if s.env}


def config(tmp_path, name="run", **changes):
    values = {
        **{"method": "tdil", "task": "grid", "seed": (0, 1), "steps": 30, "warm_up": 12},
        **{"eval_every": 10, "episodes": 2, "hidden": 8, "batch": 8},
    }
    return Config(**{**values, **changes, "out": tmp_path / name})


def networks(cfg):
    """Final parameters by name."""
    final = Run.load(cfg.out).final()["networks"]
    return {f"{net}.{k}": v for net, state in final.items() for k, v in state.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@functools.cache
def random_episode(env_id, steps=40):
    """A stand-in for a demonstration: uniformly random actions, which no one may call an expert."""
    import gymnasium

    if env_id.startswith("Adroit"):
        gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
    options = {"terminate_when_unhealthy": False} if env_id in ("Hopper-v5", "Walker2d-v5") else {}
    env = gymnasium.make(env_id, **options).unwrapped
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    rows = {name: [] for name in ARRAYS}
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, *_ = env.step(action)
        for name, value in zip(ARRAYS, (obs, action, following, reward), strict=True):
            rows[name].append(value)
        obs = following
    return {name: np.asarray(values, np.float32) for name, values in rows.items()}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Random-policy episodes where $PAPERS_DATA would have demonstrations."""
    root = tmp_path / "data"
    monkeypatch.setenv("PAPERS_DATA", str(root))

    def make(*names):
        for env_id in {SIMULATED[name] for name in names}:
            stem = root / "tdil" / f"expert-{env_id.lower()}"
            demonstration.save(stem, random_episode(env_id), {"algorithm": "random stand-in"})

    return make


# ------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("name", "method"),
    [("grid", "tdil"), ("continuous", "tdil"), ("continuous", "gail-bc"), ("hopper-200", "tdil")],
)
def test_resumed_run_is_the_undisturbed_one(tmp_path, monkeypatch, stand_ins, name, method):
    if name in SIMULATED:
        stand_ins(name)
    changes = {"task": name, "method": method}
    if name == "hopper-200":
        changes |= {"expert_states": 5, "steps": 26}
    whole = config(tmp_path, "whole", **changes)
    train.train(whole)
    monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "7")
    broken, step = config(tmp_path, "broken", **changes), train.ReplayBuffer.add
    calls = []

    def stop(buffer, **transition):
        calls.append(0)
        if len(calls) == 19:
            raise KeyboardInterrupt
        step(buffer, **transition)

    monkeypatch.setattr(train.ReplayBuffer, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        train.train(broken)
    monkeypatch.setattr(train.ReplayBuffer, "add", step)
    train.train(broken)
    assert same(networks(whole), networks(broken))
    assert Run.load(whole.out).metrics() == Run.load(broken.out).metrics()


@pytest.mark.parametrize(("name", "method"), [("grid", "tdil"), ("continuous", "tdil-irl")])
def test_a_stacked_seed_is_what_it_would_be_alone(tmp_path, trained_alike, name, method):
    both = config(tmp_path, "both", task=name, method=method, seed=(4, 7), rho=1.0)
    alone = config(tmp_path, "alone", task=name, method=method, seed=(7,), rho=1.0)
    other = config(tmp_path, "other", task=name, method=method, seed=(4,), rho=1.0)
    first = dataclasses.replace(alone, steps=1, out=tmp_path / "first")
    for cfg in (both, alone, other, first):
        train.train(cfg)
    pair, single = networks(both), networks(alone)
    stacked = {key: pair[key][-len(value) :] for key, value in single.items()}
    trained_alike(single, stacked, networks(first))
    assert not same(single, networks(other))


@pytest.mark.parametrize("name", ["grid", "continuous"])
def test_no_reward_of_the_environment_reaches_a_loss(tmp_path, monkeypatch, name):
    train.train(config(tmp_path, "usual", task=name))
    kind = {"grid": mazes.GridMaze, "continuous": mazes.ContinuousMaze}[name]
    step = kind.step

    def poisoned(env, action):
        following, reward = step(env, action)
        return following, np.full_like(reward, np.nan)

    monkeypatch.setattr(kind, "step", poisoned)
    train.train(config(tmp_path, "poisoned", task=name))
    usual, poisoned = (networks(config(tmp_path, n)) for n in ("usual", "poisoned"))
    assert same(usual, poisoned)
    assert all(torch.isfinite(v).all() for v in usual.values())


def test_the_buffer_keeps_no_reward_and_no_end(tmp_path, monkeypatch):
    """Also where an episode ended at the goal: every target bootstraps."""
    kept = []
    add = train.ReplayBuffer.add

    def watch(buffer, **transition):
        kept.append(transition)
        add(buffer, **transition)

    monkeypatch.setattr(train.ReplayBuffer, "add", watch)
    step = mazes.GridMaze.step

    def arrive(env, action):
        env.cell[:] = mazes.GOAL_CELL - 1
        return step(env, np.ones_like(action))  # right, onto the goal

    monkeypatch.setattr(mazes.GridMaze, "step", arrive)
    train.train(config(tmp_path))
    goal = mazes.scaled(np.array(mazes.GOAL))
    assert len(kept) == 30 and all((t["next_obs"] == goal).all() for t in kept)
    assert all(np.isnan(t["reward"]) and t["terminated"] == 0 for t in kept)


def moved(tmp_path, **changes):
    """Which networks differ from where they began."""
    cfg = config(tmp_path, steps=14, eval_every=14, **changes)
    start = make_networks(cfg, make_task(cfg.task), torch.device("cpu")).state()
    train.train(cfg)
    end = Run.load(cfg.out).final()["networks"]
    names = {(k, n.split(".")[0]) for k, state in end.items() for n in state}
    return {
        part if net == "agent" else net
        for net, part in names
        for n, v in end[net].items()
        if n.startswith(part) and not torch.equal(v, start[net][n])
    }


def test_a_threshold_of_zero_leaves_the_actor_to_cloning(tmp_path):
    for name in ("grid", "continuous"):
        nothing = moved(tmp_path, name=f"{name}-0", task=name, rho=0.0, method="tdil-no-bc")
        assert nothing == {"critic", "target", "discriminator", "paying"}
        cloned = moved(tmp_path, name=f"{name}-bc", task=name, rho=0.0)
        assert cloned == {*nothing, "actor", "selected"}
        free = moved(tmp_path, name=f"{name}-1", task=name, filtered=False, method="tdil-no-bc")
        assert free == {*cloned, "log_alpha"}


def test_which_networks_a_method_trains(tmp_path):
    assert moved(tmp_path, name="bc", method="bc") == {"actor"}
    agent = {"actor", "critic", "target", "log_alpha"}
    gail = moved(tmp_path, name="gail", method="gail-bc", filtered=False)
    assert gail == {*agent, "imitation"}
    both = moved(tmp_path, name="irl", method="tdil-irl", filtered=False)
    assert both == {*agent, "imitation", "discriminator", "paying", "selected"}


def test_methods_change_what_they_say():
    base = resolve(Config("tdil", "continuous")).tdil
    assert (base.hard_negatives, base.bc, base.beta) == (True, True, 0.0)
    for method in METHODS.values():
        changed = resolve(Config(method.name, "continuous")).tdil
        differing = {k for k in vars(base) if getattr(base, k) != getattr(changed, k)}
        assert differing == {k for k, v in method.changes.items() if getattr(base, k) != v}
    own = resolve(Config(rho=2.0, steps=5, filtered=False))
    assert (own.tdil.rho, own.steps, own.tdil.filtered) == (2.0, 5, False)
    for wrong in (Config("tdli"), Config(task="gird")):
        with pytest.raises(UserError, match="did you mean"):
            resolve(wrong)


def test_settings_are_the_authors():
    assert TDILConfig() == TDILConfig(
        **{"gamma": 0.99, "tau": 1e-4, "tau_n": 1e-4, "kappa": 0.99, "hard_negatives": True},
        **{"rho": 10.0, "bc": True, "beta": 0.0, "batch": 256, "hidden": 256, "lr": 3e-4},
        **{"expert_states": 0, "warm_up": 2_000},
    )
    for name in ("hopper", "walker2d", "ant", "halfcheetah", "humanoid"):
        setting = SETTINGS[name]
        assert setting.tdil == TDILConfig() and (setting.steps, setting.limit) == (3_000_000, 1_000)
        upright = setting.options.get("terminate_when_unhealthy") is False
        assert upright == (name in ("hopper", "walker2d"))
    door = SETTINGS["adroit-door"]
    assert (door.tdil.hard_negatives, door.tdil.rho, door.limit) == (False, 0.005, 200)
    for name in ("grid", "grid-paper"):
        grid = SETTINGS[name].tdil
        assert (grid.gamma, grid.tau, grid.tau_n, grid.kappa) == (0.8, 0.005, 0.005, 0.1)
        assert (grid.hard_negatives, grid.rho) == (False, 0.5)


def test_blind_selection_keeps_the_best_seed_by_seed():
    kept, now = (torch.nn.Linear(2, 2) for _ in range(2))
    before, after = kept.weight.clone(), now.weight.clone()
    train.keep_better(kept, now, torch.tensor([True, False]))
    assert torch.equal(kept.weight[0], after[0]) and torch.equal(kept.weight[1], before[1])


# ------------------------------------------------------------------ environments


def test_grid_episodes_end_at_the_goal_or_after_fifty_steps():
    env = mazes.GridMaze(task.generators((0, 1, 2)))
    env.cell = np.array([mazes.GOAL_CELL - 1, 0, 3])  # right of the first is the goal
    env.clock[2] = 49
    following, reward = env.step(np.array([1, 0, 1]))
    assert reward.tolist() == [1, 0, 0] and env.clock.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(following, mazes.scaled(mazes.CELLS[[99, 0, 4]]))
    assert env.cell[1] == 0  # a blocked move stays


def test_tests_start_everywhere_and_are_the_same_every_time():
    def still(obs):
        return np.zeros(obs.shape[:2], int)

    grid = make_task("grid")
    tests = grid.rollout(still, 2, 10)
    assert sorted(grid.cells(tests.obs[1, :, 0]).tolist()) == list(range(100))
    again = grid.rollout(still, 2, 10)
    np.testing.assert_array_equal(tests.next_obs, again.next_obs)
    # at the goal nothing more happens
    at_goal = grid.cells(tests.obs[0, :, 0]) == mazes.GOAL_CELL
    assert not tests.alive[0, at_goal].any() and tests.alive[0, ~at_goal, 0].all()


def test_the_demonstrator_succeeds_in_its_mazes():
    grid, continuous = make_task("grid"), make_task("continuous")
    policy = np.zeros(100, int)
    policy[mazes.PATH_CELLS[:-1]] = grid.demonstration.actions
    scores = grid.scores(grid.rollout(lambda obs: policy[grid.cells(obs)], 1, 1))
    assert 0.16 <= scores["success"][0] < 1 and scores["reach"][0] >= scores["success"][0]

    start = continuous.demonstration.observations[0] * 10 + 5
    continuous.starts = np.stack([start, [5.5, 2.5]])
    clock = iter([*continuous.demonstration.actions, *np.zeros((30, 2))])

    def replay(obs):
        return np.broadcast_to(next(clock), obs.shape)

    scores = continuous.scores(continuous.rollout(replay, 1, 1))
    assert scores["success"][0] == 0.5 and scores["reach"][0] >= 0.5


def actions_of(env_task, n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, 2, env_task.action_dim))


@pytest.mark.parametrize("name", ["hopper-200", "ant", "adroit-door"])
def test_simulators_go_on_bit_for_bit(stand_ins, name):
    stand_ins(name)
    one = make_task(name)
    actions = actions_of(one, 60)
    first, second = one.training((0, 1)), one.training((5, 6))
    first.limit = second.limit = 25  # resets on the way
    for a in actions[:30]:
        first.step(a)
    second.load(first.state())
    for a in actions[30:]:
        np.testing.assert_array_equal(first.step(a)[0], second.step(a)[0])
        np.testing.assert_array_equal(first.observation, second.observation)


def test_simulators_restart_at_their_limit_and_only_there(stand_ins):
    stand_ins("hopper-200")
    env = make_task("hopper-200").training((0, 1))
    env.limit = 60
    actions = np.random.default_rng(0).uniform(-1, 1, (61, 2, 3))
    for t, a in enumerate(actions):  # random actions make a Hopper fall long before 60 steps
        following, _ = env.step(a)
        restarted = not np.array_equal(following, env.observation)
        assert restarted == (t == 59)


def test_actions_are_scaled_to_the_environments_units(stand_ins):
    stand_ins("humanoid")
    humanoid = make_task("humanoid")
    raw = random_episode("Humanoid-v5")["actions"]
    assert np.abs(raw).max() <= 0.4 < np.abs(humanoid.demonstration.actions).max() <= 1
    np.testing.assert_allclose(humanoid.units(humanoid.demonstration.actions), raw, atol=1e-6)


# ------------------------------------------------------------------ demonstrations


def test_demonstrations_are_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    stem = tmp_path / "tdil" / "expert-hopper-v5"
    demonstration.save(stem, random_episode("Hopper-v5"), {"algorithm": "random stand-in"})
    loaded = demonstration.load("Hopper-v5")
    assert len(loaded) == 40 and loaded.observations.shape == (40, 11)
    assert len(loaded.first(7)) == 7
    card = json.loads(stem.with_suffix(".json").read_text())
    assert card["sha256"] == demonstration.digest(random_episode("Hopper-v5"))

    changed = {k: v + (k == "actions") for k, v in random_episode("Hopper-v5").items()}
    with open(stem.with_suffix(".npz"), "wb") as file:
        np.savez(file, **changed)
    with pytest.raises(UserError, match="not the file of its card"):
        demonstration.load("Hopper-v5")
    stem.with_suffix(".npz").write_bytes(b"PK not an archive")
    with pytest.raises(UserError, match="damaged"):
        demonstration.load("Hopper-v5")
    stem.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="no card"):
        demonstration.load("Hopper-v5")


def test_a_missing_demonstration_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    monkeypatch.setattr(demonstration, "FOLDER", tmp_path / "none")
    with pytest.raises(UserError, match="'make expert PAPER=tdil'") as error:
        train.train(config(tmp_path, task="hopper-200"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="papers.tdil.expert --env HalfCheetah-v5"):
        make_task("halfcheetah")
    with pytest.raises(UserError, match="DAPG or D4RL"):
        make_task("adroit-door")


def test_expert_is_made_and_can_be_loaded(tmp_path, monkeypatch, capsys):
    pytest.importorskip("stable_baselines3")
    from papers.tdil import expert

    out = tmp_path / "tdil"
    cfg = expert.Config("Pendulum-v1", steps=120, every=50, episodes=2, least=-1e9, out=out)
    expert.make_expert(cfg)
    tested = [line.split(" steps")[0] for line in capsys.readouterr().out.splitlines()[:3]]
    assert tested == ["50", "100", "120"]
    card = json.loads((out / "expert-pendulum-v1.json").read_text())
    assert card["return"] == max(card["returns"]) and card["length"] == 200
    assert {"stable-baselines3", "gymnasium", "mujoco", "torch"} <= set(card["packages"])
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    loaded = demonstration.load("Pendulum-v1")
    assert loaded.rewards.sum() == pytest.approx(card["return"], rel=1e-5)
    np.testing.assert_array_equal(loaded.observations[1:], loaded.next_observations[:-1])
    # the episode is what the environment does with these actions
    import gymnasium

    env = gymnasium.make("Pendulum-v1")
    for i in range(2):
        obs, _ = env.reset(seed=10_000 + i)
        if np.allclose(obs, loaded.observations[0]):
            following, reward, *_ = env.step(loaded.actions[0])
            np.testing.assert_allclose(following, loaded.next_observations[0], atol=1e-6)
            assert reward == pytest.approx(loaded.rewards[0], rel=1e-5)
            break
    else:
        pytest.fail("no test episode begins like the demonstration")

    # training stops at the first episode that is good enough, and fails without a good one
    expert.make_expert(dataclasses.replace(cfg, enough=-1e9))
    assert json.loads((out / "expert-pendulum-v1.json").read_text())["trained_steps"] == 50
    cfg.least, cfg.out = 0.0, tmp_path / "poor"
    with pytest.raises(UserError, match="train longer with --steps 240"):
        expert.make_expert(cfg)
    assert not cfg.out.exists()


# ------------------------------------------------------------------ evaluation


@pytest.mark.parametrize(("kappa", "hard"), [(0.1, False), (0.1, True), (0.99, True)])
def test_the_error_of_d_is_against_its_own_optimum(kappa, hard):
    exact = mazes.exact_discriminator(kappa, hard)
    tables = {"D": exact[None], "tdil_reward": np.ones((1, 400))}
    rows = grid_rows(tables, TDILConfig(kappa=kappa, hard_negatives=hard))
    assert rows["d_own_error"] == rows["d_own_error_true"] == 0
    assert rows["d_open"] == pytest.approx(rows["d_open_optimum"])
    other = grid_rows(tables, TDILConfig(kappa=0.5, hard_negatives=hard))
    assert other["d_own_error_true"] > 0.05


def test_measures():
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)
    assert paid_share(np.array([[1.0, 0.11, 0.1, 0.0]])).tolist() == [0.5]
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([5.0, 6, 9])) == 1.0
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None

    class Forward(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(1))

        def forward(self, s, s_next):
            return (s_next > s)[..., 0].float() * self.one

    obs = np.zeros((1, 2, 3, 1), np.float32)
    alive = np.array([[[True, True, True], [True, False, False]]])
    up = np.array([[[[1], [1], [-1]], [[1], [-1], [-1]]]], np.float32)
    gap = time_gap(Forward(), Rollout(obs, up, np.zeros((1, 2, 3)), alive))
    assert gap.item() == pytest.approx((3 - 1) / 4)


def test_returns_are_relative_to_the_demonstration(stand_ins):
    stand_ins("hopper-200")
    hopper = make_task("hopper-200")
    short = Demonstration(*(getattr(hopper.demonstration, n) for n in ARRAYS))
    assert len(short) == 40
    tests = hopper.rollout(lambda obs: np.zeros((*obs.shape[:2], 3)), 2, 2)
    assert tests.obs.shape == (2, 2, 200, 11) and tests.alive.all()  # it falls, and goes on
    scores = hopper.scores(tests)
    expected = tests.reward.sum(-1).mean(-1)
    np.testing.assert_allclose(scores["return"], expected)
    np.testing.assert_allclose(scores["relative_return"], expected / short.rewards.sum())
    np.testing.assert_array_equal(tests.obs[0, 0], tests.obs[1, 0])  # the same resets
    assert not np.array_equal(tests.obs[0, 0], tests.obs[0, 1])
