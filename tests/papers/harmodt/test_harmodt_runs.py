"""Runs: limits that are other methods, resuming, rows, devices, data, what acts afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.harmodt as harmodt
from common.control.metaworld_goals import DATA_GOALS
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from papers.harmodt import eval as evaluation
from papers.harmodt import task as tasks
from papers.harmodt import train
from papers.harmodt.baselines import surgery
from papers.harmodt.config import Config
from papers.harmodt.eval import EvalConfig, evaluate, jaccard
from papers.harmodt.learning import (
    gradients_of,
    make_net,
    make_world,
    mixture,
    operated_gradients,
)
from papers.harmodt.method import flat, maskable
from papers.harmodt.methods import METHODS
from papers.harmodt.task import SUITES, demonstrations
from tests.fake_cuda import same_on_both
from tests.papers import kit

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("stand_in")

SMALL: dict[str, Any] = {
    **{"task": "mt3-sub", "steps": 24, "batch": 4, "width": 8, "layers": 1, "window": 4},
    **{"prompt": 2, "warm_up": 4, "interval": 4, "goals": 2, "conflict_batch": 4, "lr": 1e-2},
    **{"gate_batch": 4, "flip_share": 0.05, "sparsity": 0.4},
}


def config(folder: Path, **changes: Any) -> Config:
    return Config(**{**SMALL, "out": folder, **changes})


def trained(folder: Path, **changes: Any) -> dict[str, Any]:
    train.train(config(folder, **changes))
    return dict(Run.load(folder).final())


def rows_of(folder: Path) -> Rows:
    evaluate(EvalConfig(run=folder))
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


def same_net(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(v, other["net"][k]) for k, v in one["net"].items())


# -- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "every"),
    [("harmo_f", 9), ("harmo_f_code", 9), ("g_harmo", 2), ("g_harmo", 11), ("pcgrad_dt", 10)],
)
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, every: int, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    """Also before and after groups are formed."""
    cfg = config(tmp_path, method=method, grouping=0.2)
    whole, cut = whole_and_cut(train.train, cfg, every)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 20
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


# -- limits ---------------------------------------------------------------------------------------


def test_without_sparsity_it_is_prompt_dt_bit_for_bit(tmp_path: Path) -> None:
    harmo = trained(tmp_path / "harmo", sparsity=0.0)
    plain = trained(tmp_path / "plain", method="prompt_dt")
    assert same_net(harmo, plain) and harmo["masks"].all()
    sparse = trained(tmp_path / "sparse")
    assert not same_net(sparse, plain)


def test_without_flips_learned_masks_are_random_ones(tmp_path: Path) -> None:
    still = trained(tmp_path / "still", flip_share=0.0)
    random = trained(tmp_path / "random", method="harmo_r")
    assert same_net(still, random) and torch.equal(still["masks"], random["masks"])
    learned = trained(tmp_path / "learned")
    assert not torch.equal(learned["masks"], random["masks"]) and not same_net(learned, random)
    assert torch.equal(learned["masks"].sum(1), random["masks"].sum(1))


def test_masks_begin_alike_and_move_differently(tmp_path: Path) -> None:
    net = make_net(config(tmp_path))
    begun = train.fresh_masks(config(tmp_path), net, 3)
    found = {m: trained(tmp_path / m, method=m)["masks"] for m in METHODS if "harmo_" in m[:6]}
    assert torch.equal(found["harmo_r"], begun)
    for one, other in (("harmo_f", "harmo_m"), ("harmo_f", "harmo_f_code")):
        assert not torch.equal(found[one], found[other])
    flipped = (found["harmo_f"] != begun).sum(1)
    most = sum(
        train.flips(t / 24, round(0.05 * begun.shape[1])) for t in range(24) if (t + 1) % 4 == 0
    )
    assert (flipped > 0).all() and (flipped <= 2 * most).all()


def test_mixed_batches_have_as_many_windows_with_their_own_prompts(tmp_path: Path) -> None:
    world = make_world(config(tmp_path, method="mixed_dt", batch=7), torch.device("cpu"))
    windows, prompt = mixture(world.draw_of_all(torch.Generator().manual_seed(0)))
    again = torch.Generator().manual_seed(0)
    parts = [world.draw(k, again, 2) for k in range(3)]  # 7 // 3
    assert prompt is not None and len(windows.states) == len(prompt.states) == 6
    for k, (own, own_prompt) in enumerate(parts):
        assert own_prompt is not None
        assert torch.equal(windows.states[2 * k : 2 * k + 2], own.states)
        assert torch.equal(prompt.states[2 * k : 2 * k + 2], own_prompt.states)


def test_surgery_steps_as_often_as_the_others_and_leaves_agreeing_tasks_alone(
    tmp_path: Path,
) -> None:
    """On the same batch for every task PCGrad's gradient is the batch's own."""
    final = trained(tmp_path, method="pcgrad_dt", steps=1)
    begun = make_net(config(tmp_path)).state_dict()
    assert final["masks"].all()
    assert any(not torch.equal(v, begun[k]) for k, v in final["net"].items())
    cfg = config(tmp_path, method="pcgrad_dt")
    net, world = make_net(cfg), make_world(cfg, torch.device("cpu"))
    part = world.draw(0, torch.Generator().manual_seed(0))
    loss, joint = operated_gradients(net, {}, [part] * 3, 0.25, torch.Generator())
    own_loss, own = gradients_of(net, {}, part, 0.25)
    assert loss == pytest.approx(float(own_loss), rel=1e-6)
    assert all(torch.allclose(joint[name], own[name], rtol=1e-5, atol=1e-8) for name in own)
    others = [world.draw(k, torch.Generator().manual_seed(1)) for k in range(3)]
    _, changed = operated_gradients(net, {}, others, 0.25, torch.Generator().manual_seed(2))
    each = [gradients_of(net, {}, other, 0.25)[1] for other in others]
    names = list(changed)
    rows = torch.stack([flat(g, names) for g in each])
    expected = surgery(rows, torch.Generator().manual_seed(2))
    assert torch.allclose(flat(changed, names), expected)


def test_groups_are_formed_after_the_warm_up(tmp_path: Path) -> None:
    before = trained(tmp_path / "before", method="g_harmo", steps=24, grouping=0.99)
    assert before["masks"].shape[0] == 2  # formed at its last iteration
    final = trained(tmp_path / "after", method="g_harmo", grouping=0.25)
    size = sum(p.numel() for p in maskable(make_net(config(tmp_path, method="g_harmo"))).values())
    assert final["masks"].shape == (2, size) and not final["masks"].all()
    assert sorted(set(final["groups"].tolist())) == [0, 1]
    still = trained(tmp_path / "random", method="g_harmo_r", grouping=0.25)
    begun = train.fresh_masks(config(tmp_path), make_net(config(tmp_path, method="g_harmo")), 2)
    assert torch.equal(still["masks"], begun) and not torch.equal(final["masks"], begun)


def test_agnostic_methods_are_told_nothing(tmp_path: Path) -> None:
    world = make_world(config(tmp_path, method="g_harmo"), torch.device("cpu"))
    assert all(t.scales is world.tasks[0].scales for t in world.tasks)
    windows, prompt = world.draw(1, torch.Generator().manual_seed(0), 4)
    assert prompt is None and windows.states.shape[-1] == 39
    told = make_world(config(tmp_path), torch.device("cpu"))
    assert told.tasks[0].scales.reward != told.tasks[1].scales.reward
    windows, prompt = told.draw(1, torch.Generator().manual_seed(0), 4)
    assert prompt is not None and prompt.states.shape == (4, 2, 39)
    one_hot = make_world(config(tmp_path, method="mtdt"), torch.device("cpu"))
    windows, prompt = one_hot.draw(1, torch.Generator().manual_seed(0), 4)
    assert prompt is None and (windows.states[..., 39:] == torch.tensor([0.0, 1, 0])).all()


def test_a_prompt_is_the_end_of_a_best_episode(tmp_path: Path) -> None:
    world = make_world(config(tmp_path), torch.device("cpu"))
    task = world.tasks[0]
    top = max(task.source.train, key=lambda e: e.rewards.sum())
    prompt = world.prompt(task, 3)
    assert prompt is not None
    expected = task.scales.standardizer(top.observations[-3:-1])
    np.testing.assert_allclose(prompt.states[2].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert prompt.real.all() and prompt.timesteps[0].tolist() == [5, 6]


def test_no_prompt_is_of_the_worst_episode(tmp_path: Path) -> None:
    """The authors take sorted_indices[-i] for row i of a batch: row 0 gets -0, the worst one."""
    world = make_world(config(tmp_path, prompt_episodes=3), torch.device("cpu"))
    task = world.tasks[0]
    returns = np.array([e.rewards.sum() for e in task.source.train])
    order = np.argsort(returns)
    theirs = [int(order[-i]) for i in range(3)]
    assert returns[theirs[0]] == returns.min() and returns[theirs[1]] == returns.max()
    ends = [
        task.scales.standardizer(task.source.train[i].observations[-3:-1])
        for i in order[::-1][:3]  # the three highest
    ]
    drawn = world.draw(0, torch.Generator().manual_seed(0), 200)[1]
    assert drawn is not None
    found = set()
    for states in drawn.states.numpy():
        [of] = [i for i, end in enumerate(ends) if np.allclose(states, end, atol=1e-5)]
        found.add(of)
    assert found == {0, 1, 2}
    worst = task.scales.standardizer(task.source.train[order[0]].observations[-3:-1])
    assert not any(np.allclose(states, worst, atol=1e-5) for states in drawn.states.numpy())


def test_scores_that_are_noise_repeat_by_chance_alone(tmp_path: Path) -> None:
    cfg = config(tmp_path, flip_share=0.02)
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 20_000, generator=g) < 0.8
    theta = torch.zeros(20_000)
    one, other = (torch.randn(3, 20_000, generator=g) for _ in range(2))
    same = train.repeats(cfg, masks, [one, one], theta, g)
    assert same == {"repeat_drop": 1.0, "repeat_recover": 1.0}
    noise = train.repeats(cfg, masks, [one, other], theta, g)
    assert noise["repeat_drop"] == pytest.approx(0.02 / 0.8, abs=0.02)
    assert noise["repeat_recover"] == pytest.approx(0.02 / 0.2, abs=0.03)
    code = config(tmp_path, method="harmo_f_code", flip_share=0.02)
    masked = train.repeats(code, masks, [one, one], theta, g)  # what is recovered is drawn
    assert masked["repeat_drop"] == 1.0
    assert masked["repeat_recover"] == pytest.approx(0.02 / 0.2, abs=0.03)
    ones = torch.ones(3, 20_000, dtype=torch.bool)
    assert train.repeats(cfg, ones, [one, one], theta, g)["repeat_recover"] == 0.0


def test_the_rate_rises_stays_and_falls() -> None:
    cfg = Config(steps=100, warm_up=10, cool_down=0.2)
    shares = [train.schedule(step, cfg) for step in range(100)]
    assert shares[0] == 0.1 and shares[9:81] == [1.0] * 72
    assert shares[90] == pytest.approx(0.5) and shares[99] == pytest.approx(0.05)
    paper = [
        train.schedule(step, Config(steps=100, warm_up=10, cool_down=0.0)) for step in (50, 99)
    ]
    assert paper == [1.0, 1.0]


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["harmo_f", "mtdt", "g_harmo", "untrained"])
def test_rows_of_a_run(method: str, tmp_path: Path) -> None:
    train.train(config(tmp_path, method=method))
    rows = rows_of(tmp_path)
    names = list(SUITES["mt3-sub"].tasks)
    for metric in ("success", "return", "action_error", "imitation_error"):
        own = rows.of(metric=f"task_{metric}")
        assert sorted(names) == own.unique("subtask")
        mean = np.mean([own.of(subtask=name).value() for name in names])
        assert rows.of(metric=metric).value() == pytest.approx(mean)
    assert rows.of(metric="success").value() == 1.0  # the stand-in's episodes all end well
    assert bool(rows.of(metric="gate_late")) == (method == "g_harmo")
    assert bool(rows.of(metric="kept_masks")) == (METHODS[method].masks != "none")
    assert bool(rows.of(metric="misled_error")) == (METHODS[method].told == "prompt")
    learned = METHODS[method].masks == "learned" and METHODS[method].kind == "trained"
    assert bool(rows.of(metric="repeat_drop")) == learned
    if method == "untrained":
        assert not rows.of(metric="conflict_masked")
        return
    if method == "harmo_f":
        misled = rows.of(metric="misled_error").value()
        assert misled != rows.of(metric="action_error").value()
    steps, values = rows.of(metric="conflict_masked").curve()
    assert steps.tolist() == [6, 12, 18, 24] and ((values >= 0) & (values <= 1)).all()
    density = rows.of(metric="density").value()
    assert density == pytest.approx(1.0 if METHODS[method].masks == "none" else 0.6, abs=0.06)


def test_the_expert_and_the_data_have_rows(tmp_path: Path) -> None:
    returns, errors = {}, {}
    for method in ("expert", "mean"):
        train.train(config(tmp_path / method, method=method))
        rows = rows_of(tmp_path / method)
        assert rows.of(metric="behaviour").value() == 0.5
        assert rows.of(metric="success").value() == 1.0
        returns[method] = rows.of(metric="return").value()
        errors[method] = rows.of(metric="action_error").value()
    assert returns["mean"] < returns["expert"]  # the stand-in pays for large actions
    assert 0 < errors["mean"] < errors["expert"]  # nothing that does not know sigma is below it


def test_a_sweep_labels_its_rows(tmp_path: Path) -> None:
    """And a run that does not act has errors alone."""
    train.train(config(tmp_path, lr=None, labels=("lr", "sparsity"), acts=False))
    rows = rows_of(tmp_path)
    assert rows.of(metric="action_error") and not rows.of(metric="success")
    assert rows.unique("lr") == [METHODS["harmo_f"].lr] and rows.unique("sparsity") == [0.4]


def test_errors_are_those_of_the_networks_actions(tmp_path: Path) -> None:
    """A network that predicts 0 errs by the mean square of what is wanted."""
    train.train(config(tmp_path, method="prompt_dt"))
    cfg = config(tmp_path, method="prompt_dt")
    world = make_world(cfg, torch.device("cpu"))
    actor = evaluation.load_actor(cfg, Run.load(tmp_path).final(), torch.device("cpu"))
    for p in actor.nets[0].head.parameters():
        p.zero_()
    found = evaluation.held_out_error(actor, world, 1)
    source = world.tasks[1].source
    wanted, done = (
        np.concatenate(source.wanted),
        np.concatenate([e.actions for e in source.held_out]),
    )
    assert found["action_error"] == pytest.approx(float(np.square(wanted).mean()), rel=1e-5)
    assert found["imitation_error"] == pytest.approx(float(np.square(done).mean()), rel=1e-5)


def test_overlap_of_masks() -> None:
    a, b = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    assert float(jaccard(a, b)) == pytest.approx(1 / 3) and float(jaccard(a, a)) == 1


# -- data -----------------------------------------------------------------------------------------


def test_goals_of_evaluation_are_in_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    made = tasks.goal_episodes

    def seen(data: Any, simulator: Any) -> Any:
        asked.append((data.first_goal, data.goals, data.stream))
        return made(data, simulator)

    monkeypatch.setattr(tasks, "goal_episodes", seen)
    demonstrations(SUITES["mt6-sub"], "reach-v3", DATA_GOALS, 20, None)
    assert asked == [(0, 40, 0), (40, 20, 1)]


def test_published_data_are_learned_from_but_for_the_last_two(
    published: Callable[..., Path],
) -> None:
    published(("reach-v3",), 3)
    made = demonstrations(SUITES["mt5-sub"], "reach-v3", DATA_GOALS, 2, 3)
    assert (len(made.train), len(made.held_out)) == (1, 2)
    for episode, wanted in zip(made.held_out, made.wanted, strict=True):
        np.testing.assert_array_equal(wanted, episode.actions)  # nobody knows their noise
    assert (SUITES["mt5-near"].episodes, SUITES["mt5-sub"].episodes) == (2_000, 1_000)


def test_suites_are_the_papers() -> None:
    sizes = {name: len(suite.tasks) for name, suite in SUITES.items()}
    assert [sizes[f"mt{n}-sub"] for n in (3, 5, 6, 8, 10, 30, 50)] == [3, 5, 6, 8, 10, 30, 50]
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    for suite in SUITES.values():
        assert len(set(suite.tasks)) == len(suite.tasks)
        assert set(suite.tasks) | set(suite.unseen) <= set(ALL_V3_ENVIRONMENTS)
        assert not set(suite.tasks) & set(suite.unseen)
    assert set(SUITES["mt50-sub"].tasks) == set(ALL_V3_ENVIRONMENTS)


# -- devices, use ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["harmo_f_code", "g_harmo", "pcgrad_dt"])
def test_a_gpu_computes_the_same(method: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, method=method, steps=8, dropout=0.0, grouping=0.25)
    same_on_both(train, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["harmo_f", "g_harmo", "mtdt"])
def test_a_trained_policy_acts(method: str, tmp_path: Path) -> None:
    train.train(config(tmp_path, method=method))
    policy = harmodt.load(tmp_path)
    rng = np.random.default_rng(0)
    policy.begin(None if method == "g_harmo" else "reach-v3", 2)
    seen = []
    for t in range(6):
        seen.append(policy.act(rng.normal(size=(2, 39)), np.full(2, 0.1 * t)))
    assert all(a.shape == (2, 4) and (np.abs(a) < 1).all() for a in seen)
    policy.begin(None if method == "g_harmo" else "reach-v3", 2)
    again = np.random.default_rng(0)
    np.testing.assert_array_equal(policy.act(again.normal(size=(2, 39)), np.zeros(2)), seen[0])


def test_a_policy_acts_as_in_the_evaluation(tmp_path: Path) -> None:
    train.train(config(tmp_path))
    rows = rows_of(tmp_path)
    policy = harmodt.load(tmp_path)
    name = "reach-v3"
    batch = tasks.goal_batch(name, DATA_GOALS, 2)
    policy.begin(name, 2)
    rewards, total, active = np.zeros(2, np.float32), np.zeros(2), np.ones(2, bool)
    while active.any():
        action = policy.act(batch.observations, rewards)
        rewards, _ = batch.step(action, active)
        total += rewards
        active &= ~batch.success
    own = rows.of(metric="task_return", subtask=name).value()
    assert total.mean() == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "harmo_g"}, "did you mean"),
        ({"task": "mt7-sub"}, "did you mean"),
        ({"width": 9}, "no multiple of --heads"),
        ({"sparsity": 1.0}, "not in"),
        ({"flip_share": 1.5}, "no share"),
        ({"grouping": 0.0}, "no share of the iterations"),
        ({"method": "g_harmo", "steps": 3}, "after a step of each of the"),
        ({"cool_down": 1.5}, "no share of the iterations"),
        ({"first_goal": 10}, "those of the data"),
    ],
)
def test_bad_input_ends_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        train.train(config(tmp_path, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "config.json").exists()


def test_a_policy_that_is_asked_wrongly_says_so(tmp_path: Path) -> None:
    train.train(config(tmp_path))
    policy = harmodt.load(tmp_path)
    with pytest.raises(UserError, match="begin"):
        policy.act(np.zeros((2, 39)), np.zeros(2))
    with pytest.raises(UserError, match="did you mean"):
        policy.begin("reach-v2", 2)
    with pytest.raises(UserError, match="tell it the task"):
        policy.begin(None, 2)
    policy.begin("reach-v3", 2)
    with pytest.raises(UserError, match=r"\[2, 39\]"):
        policy.act(np.zeros((3, 39)), np.zeros(3))
    with pytest.raises(UserError, match="seeds"):
        harmodt.load(tmp_path, seed=7)
    train.train(config(tmp_path / "expert", method="expert"))
    with pytest.raises(UserError, match="scripted expert"):
        harmodt.load(tmp_path / "expert")
