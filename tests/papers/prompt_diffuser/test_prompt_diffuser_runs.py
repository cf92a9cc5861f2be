"""Runs: what is the same for all methods, resuming, rows, devices, data, what acts afterwards."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.prompt_diffuser as prompt_diffuser
from common.control.sequences import Windows
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from papers.prompt_diffuser import bench, pretrain, train
from papers.prompt_diffuser import eval as evaluation
from papers.prompt_diffuser.config import CANDIDATES, Config, PolicyConfig, check
from papers.prompt_diffuser.eval import EvalConfig, evaluate, nearest, pointing
from papers.prompt_diffuser.learning import Base, Scales, load_base, on_device, policy_folder
from papers.prompt_diffuser.learning import stream as random_stream
from papers.prompt_diffuser.methods import GRADIENTS, METHODS
from papers.prompt_diffuser.suites import Point, Published, Reach, Velocity
from papers.prompt_diffuser.task import TASKS, WORLDS, pools_of, task_of
from papers.prompt_diffuser.tuning import imagined, make_learner, prompts_of, update
from tests.fake_cuda import same_on_both
from tests.papers import kit

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("small")

POLICY: dict[str, Any] = {
    **{"steps": 6, "batch": 4, "width": 8, "layers": 1, "heads": 1, "window": 3, "prompt": 2},
    **{"warm_up": 2, "prior_steps": 3, "prior_batch": 4, "hidden": 8, "diffusion_steps": 3},
}
SMALL: dict[str, Any] = {"steps": 8, "batch": 3, "prompt_batch": 4, "few": 2, "episodes": 2}
TUNED = [name for name in METHODS if METHODS[name].tunes != "nothing"]


def policy_config(folder: Path, **changes: Any) -> PolicyConfig:
    cfg = PolicyConfig(**{**POLICY, **changes})
    return replace(cfg, out=folder / "policies" / cfg.task / f"seed-{cfg.seed}")


@functools.cache
def trained(folder: Path) -> Path:
    """Policies of the point with seeds 0 and 1, once for all tests."""
    for seed in (0, 1):
        pretrain.train(policy_config(folder, seed=seed))
    return folder / "policies"


@pytest.fixture
def policies(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test's own with the point's policies of seeds 0 and 1."""
    made = trained(tmp_path_factory.getbasetemp() / "prompt-diffuser")
    shutil.copytree(made, tmp_path / "policies")
    return tmp_path / "policies"


def config(folder: Path, **changes: Any) -> Config:
    out = folder / "run"
    return Config(**{**SMALL, "policy": folder / "policies", "out": out, **changes})


def rows_of(folder: Path) -> Rows:
    evaluate(EvalConfig(run=folder))
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


def tuned(cfg: Config) -> list[dict[str, Any]]:
    train.train(cfg)
    return list(Run.load(cfg.out).final()["modules"])


# -- resuming, seeds ------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [4, 8])
def test_a_killed_policy_ends_with_the_same_numbers(
    every: int, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    """In the middle of the policy, and of its generators."""
    whole, cut = whole_and_cut(pretrain.train, policy_config(tmp_path, dropout=0.1), every)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 40
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("method", ["prompt_diffuser", "regression", "prompt_tuning_dt", "adapter"])
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, tmp_path: Path, policies: Path, whole_and_cut: Callable[..., Any]
) -> None:
    cfg = config(tmp_path, method=method, steps=10)
    whole, cut = whole_and_cut(train.train, cfg, 2)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 0
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_seeds_side_by_side_are_those_alone(tmp_path: Path, policies: Path) -> None:
    both = tuned(config(tmp_path, seed=(0, 1)))
    alone = tuned(config(tmp_path, seed=(1,), out=tmp_path / "alone"))
    assert len(both) == 4 and len(alone) == 2
    for one, other in zip(both[2:], alone, strict=True):
        assert all(torch.equal(one[k], other[k]) for k in one)
    rows, own = rows_of(tmp_path / "run"), rows_of(tmp_path / "alone")
    for metric in ("score", "expert_distance"):
        assert rows.of(metric=metric, seed=1).value() == own.of(metric=metric).value()


# -- what is equal --------------------------------------------------------------------------------


def learner_of(folder: Path, method: str, **changes: Any) -> Any:
    cfg = config(folder, method=method, **changes)
    return make_learner(load_base(cfg, 0, torch.device("cpu")), cfg, task_of(cfg.task).test[0])


@pytest.mark.parametrize("method", TUNED)
def test_only_what_is_tuned_moves(method: str, tmp_path: Path, policies: Path) -> None:
    learner = learner_of(tmp_path, method)
    frozen = {k: v.clone() for k, v in learner.base.policy.state_dict().items()}
    prior = [p.clone() for net in learner.base.generators.values() for p in net.parameters()]
    before = [p.detach().clone() for p in learner.parameters]
    for _ in range(3):
        said = update(learner)
        assert all(torch.isfinite(v) for v in said.values())
    assert all(torch.equal(v, frozen[k]) for k, v in learner.base.policy.state_dict().items())
    assert all(not p.requires_grad for p in learner.base.policy.parameters())
    after = [p for net in learner.base.generators.values() for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(prior, after, strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True)]
    assert any(moved) and (sum(moved) > 2 or len(moved) < 3)


def test_all_methods_see_the_same_windows_and_draw_the_same_prompts(
    tmp_path: Path, policies: Path
) -> None:
    drawn = {}
    for name in ("prompt_diffuser", "regression", "soft", "adapter", "fine_tuning", "gradient"):
        learner = learner_of(tmp_path, name)
        update(learner)
        drawn[name] = learner.experts.windows(learner.windows, 3, 3).states
    first = drawn.pop("soft")
    assert all(torch.equal(first, other) for other in drawn.values())
    raw, ft = (learner_of(tmp_path, m) for m in ("prompt_dt", "fine_tuning"))
    one, other = (prompts_of(x, 4, random_stream(0, 3)) for x in (raw, ft))
    assert torch.equal(one.states, other.states)
    ours = prompts_of(learner_of(tmp_path, "prompt_diffuser"), 4, random_stream(0, 3))
    assert torch.equal(ours.returns, one.returns)  # conditions of the same segments
    assert torch.equal(ours.timesteps, one.timesteps)
    assert not torch.equal(ours.states, one.states)


def test_all_methods_have_as_many_calls(tmp_path: Path) -> None:
    """A backward pass counts as two; the search has eight candidates an iteration."""
    calls = {name: Config(method=name).calls for name in TUNED if name != "full"}
    assert calls.pop("dm_only") == 0
    most = calls.pop("prompt_tuning_dt")
    assert set(calls.values()) == {450} and 450 - CANDIDATES < most <= 450
    assert Config(method="full").calls == 3 * 450
    assert Config(method="prompt_dt").calls == 0 == Config(method="prompt_dt").updates


def test_the_ablations_are_limits_of_the_method(tmp_path: Path, policies: Path) -> None:
    """Without weight on the guidance it is the diffusion alone; the sum is another direction."""
    by = {
        m: tuned(config(tmp_path, method=m, out=tmp_path / m, lr=1e-3))
        for m in ("dm_only", "sum", "prompt_diffuser", "dt_only")
    }
    none = tuned(config(tmp_path, method="prompt_diffuser", lam=0.0, out=tmp_path / "0", lr=1e-3))

    def same(one: Any, other: Any) -> bool:
        return all(torch.equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)

    assert same(none, by["dm_only"])
    for one, other in (("sum", "prompt_diffuser"), ("dt_only", "sum"), ("dm_only", "dt_only")):
        assert not same(by[one], by[other])


def test_a_pool_changes_prompts_and_no_targets(tmp_path: Path, policies: Path) -> None:
    expert, random = (
        learner_of(tmp_path, "prompt_diffuser", task=f"point-{q}") for q in ("expert", "random")
    )
    assert torch.equal(expert.experts.data.actions, random.experts.data.actions)
    assert not torch.equal(expert.prompting.data.actions, random.prompting.data.actions)
    pair = [next(iter(x.module.parameters())) for x in (expert, random)]
    assert not torch.equal(*pair)  # each began on its own pool


def test_what_stands_before_the_history(tmp_path: Path, policies: Path) -> None:
    suite, goal = WORLDS["point"].suite, TASKS["point-random"].test[0]
    cfg = config(tmp_path)
    base = load_base(cfg, 0, torch.device("cpu"))

    def of(method: str) -> Any:
        learner = make_learner(base, replace(cfg, method=method), goal)
        return prompts_of(learner, 6, random_stream(0, 5))

    def belongs(prompt: Windows, episodes: Any) -> bool:
        known, _ = on_device(episodes, base.scales, torch.device("cpu")).every(2)
        gaps = (prompt.actions.unsqueeze(1) - known.actions).abs().amax((2, 3)).amin(1)
        return bool((gaps < 1e-6).all())

    far = max(WORLDS["point"].train, key=lambda g: suite.distances(goal, (g,))[0])
    assert belongs(of("prompt_dt"), suite.episodes((goal,), "random", "few", 2))
    assert belongs(of("right_prompt"), suite.episodes((goal,), "expert", "few", 2))
    assert belongs(of("wrong_prompt"), suite.episodes((far,), "expert", "reference", 2))
    training = suite.episodes(WORLDS["point"].train, "expert", "train", 2)
    assert belongs(of("random_prompt"), training)
    assert of("no_prompt") is None
    shot = of("zero_shot")
    torch.testing.assert_close(shot.returns[0], torch.tensor([1.0, 1.0 - 1 / 8]))
    assert shot.timesteps[0].tolist() == [0, 1] == imagined(base, 1).timesteps[0].tolist()


def test_prompts_and_windows_are_of_their_tasks() -> None:
    suite = Point(limit=8)
    episodes = suite.episodes((0.0, 90.0, 180.0), "expert", "train", 3)
    scales = Scales.fit(WORLDS["point"], episodes)
    steps = on_device(episodes, scales, torch.device("cpu"))
    of = torch.tensor([2, 0, 1]).repeat(20)
    g = torch.Generator().manual_seed(0)
    for where, latest in (("random", 0), ("end", 6)):
        prompt, rewards = steps.prompts(g, 60, 2, where, of)  # type: ignore[arg-type]
        assert prompt.real.all() and rewards.shape == (60, 2)
        assert prompt.timesteps[:, 0].min() == latest and prompt.timesteps.max() == 7
        x, y = prompt.actions[..., 0], prompt.actions[..., 1]
        wanted = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(20, 1)
        assert (x * wanted[:, :1] + y * wanted[:, 1:] > 0.5).all()
    windows = steps.windows(g, 60, 4, of)
    assert (windows.actions[..., 0] * torch.tensor([[-1.0], [1.0], [0]]).repeat(20, 1) >= 0).all()
    every, rewards = steps.every(3)
    assert len(every.returns) == 9 * 6 and every.real.all()
    raw = torch.tensor(np.stack([e.rewards[1:4] for e in episodes[0]]))
    own = rewards[[1, 7, 13]] * scales.reward_std + scales.reward_mean
    torch.testing.assert_close(own, raw, rtol=1e-4, atol=1e-5)
    again = Scales.of(scales.state())
    assert again.target == scales.target == 36.0
    np.testing.assert_array_equal(again.standardizer.mean, scales.standardizer.mean)


@pytest.mark.parametrize("length", [1, 5, 11])
def test_a_prompts_returns_to_go_are_as_many_as_its_steps(length: int) -> None:
    """Prompt-DT's code cuts the last one off only where the length is 1 modulo 10."""
    episodes = Point(limit=14).episodes((0.0,), "expert", "train", 2)
    scales = Scales.fit(WORLDS["point"], episodes)
    steps = on_device(episodes, scales, torch.device("cpu"))
    prompt, _ = steps.prompts(torch.Generator().manual_seed(0), 3, length, "end")
    assert prompt.returns.shape == (3, length)
    wanted = [np.cumsum(e.rewards[::-1])[::-1][-length:] / 36.0 for e in episodes[0]]
    for row in prompt.returns.numpy():
        assert min(np.abs(row - w).max() for w in wanted) < 1e-6


def test_each_seed_has_demonstrations_of_its_own(tmp_path: Path, policies: Path) -> None:
    """Of the test tasks: intervals over seeds hold the draw of the few episodes as well."""
    for task in ("point-random", "point-expert"):
        cfg = config(tmp_path, task=task)
        one, other = (load_base(cfg, seed, torch.device("cpu")) for seed in (0, 1))
        pair = [make_learner(base, cfg, 33.75) for base in (one, other)]
        for role in ("experts", "prompting"):
            assert not torch.equal(*(getattr(x, role).data.actions for x in pair))
        drawn = [base.training_prompts().data.actions for base in (one, other)]
        assert torch.equal(*drawn)  # of the training tasks all have the same
    hand = Reach(limit=4)
    for quality in ("expert", "random"):
        a, b = (hand.episodes((4.0,), quality, "few", 2, draw)[0] for draw in (0, 1))  # type: ignore[arg-type]
        assert not np.array_equal(a[0].actions, b[0].actions)


def test_one_prompt_before_one_start_is_one_episode(
    tmp_path: Path, policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where episodes begin alike, those after the same prompt need not be run again."""
    assert WORLDS["reach"].suite.alike and not WORLDS["point"].suite.alike
    sizes = []

    def counted(learner: Any, prompt: Any, n: int) -> Any:
        sizes.append(n)
        return outcomes(learner, prompt, n)

    outcomes = evaluation.outcomes
    monkeypatch.setattr(evaluation, "outcomes", counted)
    pretrain.train(policy_config(tmp_path, task="reach"))
    for method in ("soft", "gradient", "no_prompt", "prompt_dt", "adapter"):
        cfg = config(tmp_path, method=method, task="reach-random", out=tmp_path / method, steps=1)
        train.train(cfg)
        rows_of(cfg.out)
    assert sizes == [1] * 6 + [2] * 4
    learner = make_learner(load_base(cfg, 0, torch.device("cpu")), cfg, 40.0)
    returns = outcomes(learner, None, 3).returns
    np.testing.assert_allclose(returns, returns[0], rtol=1e-6)


def test_scales_know_no_test_task(tmp_path: Path, policies: Path) -> None:
    base = load_base(config(tmp_path), 0, torch.device("cpu"))
    of = WORLDS["point"].suite.episodes(WORLDS["point"].train, "expert", "train", 2)
    wanted = Scales.fit(WORLDS["point"], of)
    np.testing.assert_allclose(base.scales.standardizer.std, wanted.standardizer.std, rtol=1e-6)


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prompt_diffuser", "soft", "prompt_dt", "no_prompt", "full"])
def test_rows_of_a_run(method: str, tmp_path: Path, policies: Path) -> None:
    train.train(config(tmp_path, method=method, seed=(0, 1)))
    rows = rows_of(tmp_path / "run")
    goals = [f"{g:g}" for g in TASKS["point-random"].test]
    own = rows.of(metric="task_score")
    assert own.unique("subtask") == sorted(goals) and own.unique("seed") == [0, 1]
    for seed in (0, 1):
        mean = np.mean([own.of(subtask=g, seed=seed).value() for g in goals])
        assert rows.of(metric="score", seed=seed).value() == pytest.approx(mean)
    low, high = WORLDS["point"].suite.references(float(goals[0]))
    returned = rows.of(metric="task_return", subtask=goals[0], seed=0).value()
    score = own.of(subtask=goals[0], seed=0).value()
    assert score == pytest.approx((returned - low) / (high - low))
    assert bool(rows.of(metric="alignment")) == (method not in ("soft", "no_prompt"))
    assert bool(rows.of(metric="cosine")) == (method == "prompt_diffuser")
    assert (rows.of(metric="parameters").value() > 0) == (METHODS[method].tunes != "nothing")
    if METHODS[method].tunes in GRADIENTS:
        steps, values = rows.of(metric="guidance").curve()
        assert values.shape[0] == 2 and steps[-1] == config(tmp_path, method=method).updates


@pytest.mark.parametrize("method", ["prompt_diffuser", "soft"])
def test_what_has_diverged_has_a_score(method: str, tmp_path: Path, policies: Path) -> None:
    """A rate that is too high ends in a bad score, not in a tuning without results."""
    train.train(config(tmp_path, method=method, lr=1e30, steps=20))
    rows = rows_of(tmp_path / "run")
    assert len(rows.of(metric="task_score")) == 2 and rows.of(metric="score").value() < 0.2
    assert np.isfinite(rows.frame["value"]).all()
    extras = json.loads((tmp_path / "run" / "eval.json").read_text(encoding="utf-8"))["extras"]
    assert all(np.isfinite(extra["data"]).all() for extra in extras)


def test_a_sweep_labels_its_rows(tmp_path: Path, policies: Path) -> None:
    train.train(config(tmp_path, method="soft", labels=("lr", "lam")))
    rows = rows_of(tmp_path / "run")
    assert rows.unique("lr") == [METHODS["soft"].lr] and rows.unique("lam") == [1.0]


def test_distances_and_directions_of_prompts() -> None:
    x, others = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert nearest(x, others) == pytest.approx((1.0 + 0.0) / 2)
    actions = torch.tensor([[[0.0, 1.0], [0.0, 0.5]], [[1.0, 0.0], [1.0, 0.0]]])
    zeros = torch.zeros(2, 2)
    prompt = Windows(zeros, zeros.unsqueeze(-1), actions, zeros.long(), zeros.bool())
    torch.testing.assert_close(pointing(90.0, prompt), torch.tensor([[0.75, 0.0], [0.0, -1.0]]))


def test_the_policy_learns_what_its_prompt_says(tmp_path: Path) -> None:
    """The gate of all claims, on the real point: an expert's prompt against the opposite one's."""
    world = replace(
        WORLDS["point"], suite=Point(limit=12), train=tuple(30.0 * k for k in range(12))
    )
    sizes = {"steps": 150, "batch": 24, "width": 32, "layers": 1, "lr": 3e-3, "warm_up": 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORLDS, "point", replace(world, demonstrations=6))
        cfg = policy_config(tmp_path, **sizes, pools=("random",), kinds=("diffusion",))
        pretrain.train(cfg)
        score = {}
        for method in ("right_prompt", "wrong_prompt"):
            out = tmp_path / method
            train.train(config(tmp_path, method=method, out=out, episodes=6))
            score[method] = rows_of(out).of(metric="score").value()
    assert score["right_prompt"] > score["wrong_prompt"] + 0.5


# -- data -----------------------------------------------------------------------------------------


def test_published_data_are_read(published: Callable[..., Path]) -> None:
    folder = published(("cheetah-vel",), 6)
    suite = WORLDS["cheetah-vel"].suite
    [[one, two]] = suite.episodes((2.0,), "expert", "few", 2)
    with np.load(folder / "cheetah_vel-2-expert.npz") as file:
        np.testing.assert_allclose(one.observations[:-1], file["observations"][0], rtol=1e-6)
        np.testing.assert_allclose(two.actions, file["actions"][1], rtol=1e-6)
        np.testing.assert_allclose(two.rewards, file["rewards"][1], rtol=1e-6)
    [[other]] = suite.episodes((2.0,), "expert", "full", 1)
    assert not np.array_equal(other.actions, one.actions)
    low, high = suite.references(2.0)
    assert low < high and suite.distances(2.0, (7.0, 0.0)) == [5.0, 2.0]
    assert isinstance(suite, Published) and suite.goal(7.0) == 7.0
    with pytest.raises(UserError, match="fewer than 7 episodes"):
        suite.episodes((2.0,), "expert", "train", 7)
    with pytest.raises(UserError, match=r"cheetah_vel-99-expert\.npz is missing"):
        suite.episodes((99.0,), "expert", "train", 1)
    (folder / "cheetah_vel-2-expert.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match="is missing or no data"):
        suite.episodes((2.0,), "expert", "train", 1)


def test_published_data_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match="Prompt-DT"):
        WORLDS["ant-dir"].suite.episodes((0.0,), "expert", "train", 1)


def test_the_hands_goal_is_hidden_and_its_episodes_by_goal() -> None:
    suite = Reach(limit=5)
    found = suite.episodes((4.0, 5.0), "expert", "few", 3)
    assert [len(of) for of in found] == [3, 3]
    assert all(not e.observations[:, 36:39].any() for of in found for e in of)
    assert not suite.batch(4.0, 2).observations[:, 36:39].any()
    low, high = suite.references(4.0)
    assert low < high
    near, far = suite.distances(4.0, (4.0, 5.0))
    assert near == 0.0 < far
    with pytest.raises(ValueError, match="no unbroken row"):
        suite.episodes((4.0, 6.0), "expert", "few", 1)


def test_velocities_are_searched_for_each_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    from papers.prompt_diffuser import suites

    asked = []

    def seen(config: Any, make: Any) -> Any:
        asked.append(config)
        from tests.papers.prompt_diffuser.conftest import walking

        return walking(config, make)

    monkeypatch.setattr(suites, "locomotion_episodes", seen)
    suite = Velocity(limit=5)
    found = suite.episodes((0.2, 0.4), "random", "few", 3)
    assert [len(of) for of in found] == [3, 3] and len(found[0][0]) == 5
    assert [c.search.environment for c in asked] == [
        "HalfCheetah-velocity-0.2",
        "HalfCheetah-velocity-0.4",
    ]
    assert asked[0].search.steps == 5 and asked[0].seed == 1
    assert suite.distances(1.0, (0.5, 3.0)) == [0.5, 2.0]


def test_pools_of_a_world() -> None:
    assert set(pools_of("point")) == {"expert", "medium", "random"}


# -- devices, use ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["prompt_diffuser", "svd", "regression", "prompt_tuning_dt", "adapter", "zero_shot"]
)
def test_a_gpu_computes_the_same(method: str, tmp_path: Path, policies: Path) -> None:
    cfg = config(tmp_path, method=method, steps=5, lr=1e-3)
    same_on_both(train, evaluation, cfg, tmp_path / "both")


def test_a_gpu_trains_the_same_policy(tmp_path: Path, policies: Path) -> None:
    from tests.fake_cuda import fake_cuda

    with fake_cuda():
        cfg = policy_config(tmp_path / "cuda", device="cuda")
        pretrain.train(cfg)
    pair = [
        Run.load(folder / "point" / "seed-0").final()
        for folder in (policies, tmp_path / "cuda" / "policies")
    ]
    for one, other in zip(*map(kit.tensors, pair), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["prompt_diffuser", "soft", "adapter", "no_prompt"])
def test_what_was_tuned_acts_as_in_the_evaluation(
    method: str, tmp_path: Path, policies: Path
) -> None:
    train.train(config(tmp_path, method=method, seed=(0, 1)))
    rows = rows_of(tmp_path / "run")
    tuned = prompt_diffuser.load(tmp_path / "run", seed=1)
    goal = tuned.goals[1]
    batch = WORLDS["point"].suite.batch(goal, 2)
    tuned.begin(goal, 2)
    rewards, total = np.zeros(2, np.float32), np.zeros(2)
    for _ in range(8):
        rewards, _ = batch.step(tuned.act(batch.observations, rewards), np.ones(2, bool))
        total += rewards
    own = rows.of(metric="task_return", subtask=f"{goal:g}", seed=1).value()
    assert total.mean() == pytest.approx(own, rel=1e-5)


def test_what_was_tuned_and_is_asked_wrongly_says_so(tmp_path: Path, policies: Path) -> None:
    train.train(config(tmp_path))
    tuned = prompt_diffuser.load(tmp_path / "run")
    with pytest.raises(UserError, match="begin"):
        tuned.act(np.zeros((2, 4)), np.zeros(2))
    with pytest.raises(UserError, match="not tuned on 12"):
        tuned.begin(12.0, 2)
    tuned.begin(tuned.goals[0], 2)
    with pytest.raises(UserError, match=r"\[2, 4\]"):
        tuned.act(np.zeros((3, 4)), np.zeros(3))
    with pytest.raises(UserError, match="seeds"):
        prompt_diffuser.load(tmp_path / "run", seed=7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "prompt_difuser"}, "did you mean"),
        ({"task": "point-exprt"}, "did you mean"),
        ({"batch": 0}, "--batch 0"),
        ({"prompt_batch": 0}, "--prompt-batch 0"),
        ({"lam": -1.0}, "climb"),
        ({"lr": 0.0}, "--lr 0"),
        ({"steps": -1}, "--steps -1"),
        ({"policy": None}, "there is no policy of point for seed 0"),
        ({"task": "point-medium"}, "without medium-diffusion"),
    ],
)
def test_bad_input_ends_in_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path, policies: Path
) -> None:
    with pytest.raises(UserError, match=words) as error:
        train.train(config(tmp_path, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "pint"}, "did you mean"),
        ({"width": 9, "heads": 2}, "no multiple of --heads"),
        ({"prompt": 9}, "episodes of point have 8 steps"),
        ({"max_steps": 4}, "--max-steps 4"),
        ({"kinds": ("difusion",)}, "did you mean"),
        ({"diffusion_steps": 0}, "--diffusion-steps 0"),
    ],
)
def test_bad_input_of_a_policy_ends_in_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as error:
        pretrain.train(policy_config(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_another_seeds_policy_is_refused(tmp_path: Path, policies: Path) -> None:
    (policies / "point" / "seed-1").rename(policies / "point" / "seed-2")
    with pytest.raises(UserError, match="holds point, seed 1; needed is point, seed 2"):
        train.train(config(tmp_path, seed=(2,)))
    cfg = config(tmp_path)
    assert policy_folder(cfg, TASKS[cfg.task], 0) == policies / "point" / "seed-0"
    check(cfg)
    assert Base.__doc__


def test_the_bench_runs(tmp_path: Path) -> None:
    cfg = bench.BenchConfig(json=tmp_path / "b.json", width=8, layers=1, batch=2, repeats=1)
    bench.bench(cfg)
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert "Prompt Diffuser" in found and "Prompt-DT" not in found
