"""Runs: resuming, stacked seeds, limits, rows, devices, and what an agent does afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import papers.ne as ne
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from common.stacked import seed_generators
from papers.ne import drq, pixels, probe, report, train
from papers.ne import eval as evaluation
from papers.ne.agent import make_agent, narrow_width
from papers.ne.baselines import redo, reset
from papers.ne.config import Config, resolve
from papers.ne.eval import EvalConfig, evaluate
from papers.ne.method import connections, dormancy
from papers.ne.methods import METHODS
from papers.ne.task import SETTINGS, Task, direction_of
from tests.fake_cuda import same_on_both
from tests.papers import kit

torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    **{"steps": 60, "warm_up": 12, "limit": 9, "eval_every": 12, "episodes": 1, "batch": 8},
    **{"hidden": 12, "interval": 4, "redo_every": 6, "seed": (0, 1)},
}
PROBE: dict[str, Any] = {"tasks": 4, "steps": 8, "batch": 16, "hidden": 12, "interval": 4}
DRQ: dict[str, Any] = {
    **{"training": 5, "warm_up": 6, "eval_every": 2, "episodes": 1, "batch": 4, "size": 21},
    **{"hidden": 12, "feature": 6, "interval": 4, "capacity": 20, "redo_every": 6},
}


def config(folder: Path, **changes: Any) -> Config:
    return Config(**{**SMALL, "out": folder, **changes})


def rows_of(folder: Path) -> Rows:
    evaluate(EvalConfig(run=folder))
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


def weights(folder: Path) -> dict[str, Tensor]:
    final = Run.load(folder).final()
    return {
        f"{part}.{net}.{name}": value
        for part in ("actor", "critic")
        for net in ("net", "slow")
        for name, value in final[part][net].items()
    }


# -- resuming and determinism ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ne", "ne-fau", "redo"])
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    whole, cut = whole_and_cut(train.train, config(tmp_path, method=method), 31)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 30
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("method", ["ne", "redo"])
def test_a_killed_probe_ends_with_the_same_numbers(
    method: str, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    cfg = probe.ProbeConfig(method=method, seed=(0, 1), redo_every=6, **PROBE)
    whole, cut = whole_and_cut(probe.train, cfg, 13)
    pairs = zip(kit.tensors(whole), kit.tensors(cut), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def test_a_killed_run_of_drq_ends_with_the_same_numbers(
    tmp_path: Path, whole_and_cut: Callable[..., Any], small_pixels: None
) -> None:
    whole, cut = whole_and_cut(drq.train, drq.DrQConfig(seed=3, **DRQ), 2)
    pairs = zip(kit.tensors(whole), kit.tensors(cut), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("method", ["ne", "redo", "static"])
def test_a_stacked_seed_is_what_it_would_be_alone(
    method: str, tmp_path: Path, trained_alike: Callable[..., None]
) -> None:
    folders = {}
    for name, seed, steps in (("both", (4, 7), 40), ("alone", (7,), 40), ("first", (7,), 13)):
        folders[name] = tmp_path / name
        train.train(config(folders[name], method=method, seed=seed, steps=steps))
    both, alone = weights(folders["both"]), weights(folders["alone"])
    stacked = {key: both[key][-len(value) :] for key, value in alone.items()}
    nets = [key for key in alone if ".net.net" in key]
    first = weights(folders["first"])
    trained_alike(*({key: part[key] for key in nets} for part in (alone, stacked, first)))


# -- what methods are -----------------------------------------------------------------------------


def test_without_sparsity_and_review_it_is_td3_bit_for_bit(tmp_path: Path) -> None:
    train.train(config(tmp_path / "dense", method="dense"))
    none = {"start_sparsity": 0.0, "end_sparsity": 0.0}
    train.train(config(tmp_path / "ne", method="ne-no-review", **none))
    ours, theirs = weights(tmp_path / "ne"), weights(tmp_path / "dense")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("method", METHODS)
def test_which_topologies_change(method: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, method=method)
    train.train(cfg)
    lines = Run.load(tmp_path).metrics()
    density = [line["critic_density"][0] for line in lines if "forward" in line]
    grows = METHODS[method].role in ("method", "variant", "ablation")
    assert (density[-1] > density[0]) == grows
    actor = [line["actor_density"][0] for line in lines if "forward" in line]
    assert (actor[-1] > actor[0]) == (grows and METHODS[method].actor)
    final = Run.load(tmp_path).final()
    for part in ("actor", "critic"):
        masks = final[part]["topology"]["masks"]
        for net in ("net", "slow"):
            for k, mask in enumerate(masks):
                weight = final[part][net][f"net.layers.{k}.weight"]
                assert (weight[~mask] == 0).all()
    reviewed = sum(sum(line["reviewed"]) for line in lines if "forward" in line)
    assert reviewed == 0 or METHODS[method].review != "none"


def test_a_review_takes_batches_from_the_early_part(tmp_path: Path) -> None:
    train.train(config(tmp_path, method="ne", floor=0.0))
    lines = [line for line in Run.load(tmp_path).metrics() if "forward" in line]
    assert sum(sum(line["reviewed"]) for line in lines) > 0
    assert lines[-1]["review_other"] == lines[-1]["reviewed"]  # of the first direction alone


def test_a_small_dense_network_has_as_many_weights_as_a_sparse_one() -> None:
    task = Task("cycle")
    cfg = Config(method="small", seed=(0,))
    agent = make_agent(cfg, task, seed_generators((0,), 6), torch.device("cpu"))
    full = make_agent(Config(seed=(0,)), task, seed_generators((0,), 6), torch.device("cpu"))
    small = sum(w.weight.numel() for p in (agent.actor, agent.critic) for w in p.layers)
    sparse = sum(float(m.sum()) for p in (full.actor, full.critic) for m in p.topology.masks)
    assert 0.97 * sparse < small <= sparse
    assert narrow_width([3], [1], 8, 1.0) == 8


def test_redo_recycles_what_is_nearly_dormant_and_nothing_else(tmp_path: Path) -> None:
    task, cfg = Task("cycle"), Config(method="redo", seed=(0, 1), hidden=16)
    agent = make_agent(cfg, task, seed_generators((0, 1), 6), torch.device("cpu"))
    critic = agent.critic
    with torch.no_grad():
        critic.layers[1].bias[:, :, :3] = -100.0
    obs, action = torch.randn(2, 32, task.obs_dim), torch.rand(2, 32, 6)
    hidden = agent.critic_hidden(obs, action)
    before = [layer.weight.clone() for layer in critic.layers]
    low = [dormancy(h) <= 0.1 for h in hidden]
    n = redo(critic.layers, hidden, critic.optimizer, seed_generators((0, 1), 7))
    assert torch.equal(n, sum(x.sum(1) for x in low)) and (n >= 3).all()
    assert (critic.layers[1].bias[:, 0, :3].abs() < 1).all()
    assert (critic.layers[2].weight[:, :3] == 0).all()
    kept = ~low[1]
    columns = critic.layers[1].weight.transpose(1, 2)
    assert not torch.equal(columns[low[1]], before[1].transpose(1, 2)[low[1]])
    both = kept[:, :, None] & ~low[0][:, None, :]
    assert torch.equal(columns[both], before[1].transpose(1, 2)[both])


def test_a_reset_begins_the_last_layers_anew() -> None:
    task, cfg = Task("cycle"), Config(method="reset", seed=(0,), hidden=16)
    agent = make_agent(cfg, task, seed_generators((0,), 6), torch.device("cpu"))
    part = agent.actor
    before = [layer.weight.clone() for layer in part.layers]
    reset(part.layers, part.slow_layers, part.optimizer, seed_generators((0,), 7))
    same = [torch.equal(a, b.weight) for a, b in zip(before, part.layers, strict=True)]
    assert same == [True, False, False]
    for fast, slow in zip(part.layers, part.slow_layers, strict=True):
        assert torch.equal(fast.weight, slow.weight)


# -- the tasks ------------------------------------------------------------------------------------


def test_the_direction_flips_and_ends_backwards() -> None:
    setting = SETTINGS["cycle"]
    turns = [direction_of(step, setting) for step in range(setting.steps)]
    assert turns[0] == turns[5_000] == turns[14_999] == 1 and turns[15_000] == turns[-1] == -1
    assert sum(a != b for a, b in zip(turns, turns[1:], strict=False)) == 3
    assert {direction_of(s, SETTINGS["ant"]) for s in (0, 30_000, 2_999_999)} == {1.0}


def test_the_direction_is_paid_and_seen() -> None:
    task = Task("cycle")
    env = task.training((0,), limit=50)
    action = np.random.default_rng(0).uniform(-1, 1, (1, 6))
    for direction in (1.0, -1.0):
        env.direction = direction
        following, reward, over = env.step(action)
        info = env.simulators.infos[0]
        cost = 0.1 * np.square(action).sum()
        assert reward[0] == pytest.approx(direction * info["x_velocity"] - cost)
        assert following[0, -1] == direction == env.observation[0, -1] and not over[0]
    assert task.obs_dim == 18 == len(following[0])
    plain = Task("halfcheetah")
    assert plain.obs_dim == 17 and plain.training((0,), 50).observation.shape == (1, 17)


def test_returns_are_those_of_each_seeds_policy_and_direction() -> None:
    task = Task("cycle")

    def policy(obs: Any) -> Any:
        action = np.zeros((*obs.shape[:2], 6), np.float32)
        action[1] = 0.5
        return action

    found = task.returns(policy, 2, 2, 20)
    assert found.shape == (2, 2)
    np.testing.assert_array_equal(found, task.returns(policy, 2, 2, 20))
    assert found[0, 0] == pytest.approx(-found[1, 0])  # no action costs nothing
    costs = 20 * 0.1 * 6 * 0.25
    assert found[0, 1] + costs == pytest.approx(-(found[1, 1] + costs), rel=1e-5)


def test_an_episode_that_ends_pays_no_more() -> None:
    walker = Task("walker2d")
    long, short = (
        walker.returns(lambda o: np.ones((*o.shape[:2], 6), np.float32), 1, 1, n)
        for n in (400, 200)
    )
    assert long == short  # it has fallen


def test_settings_are_the_authors() -> None:
    for name in ("halfcheetah", "ant", "walker2d", "humanoid"):
        setting, ne = resolve(Config(task=name))
        assert (setting.steps, setting.warm_up, setting.batch) == (3_000_000, 25_000, 256)
        assert (setting.lr, setting.interval, setting.limit) == (3e-4, 10_000, 1_000)
        assert (ne.start_sparsity, ne.end_sparsity, ne.omega) == (0.8, 0.25, 0.4)
    pixel = drq.DrQConfig()
    assert (pixel.batch, pixel.lr, pixel.tau, pixel.capacity) == (128, 1e-3, 0.01, 100_000)
    assert (pixel.hidden, pixel.feature, pixel.size) == (1_024, 50, 84)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "nee"}, "did you mean"),
        ({"task": "cycel"}, "did you mean"),
        ({"interval": 5}, "multiple of 2"),
        ({"steps": 10}, "nothing after a warm-up"),
        ({"phases": 0}, "one or more"),
        ({"task": "halfcheetah", "phases": 2}, "no direction"),
        ({"end_sparsity": 0.9}, "a network grows"),
        ({"start_sparsity": 1.0}, "a network grows"),
        ({"omega": 1.0}, "no share below 1"),
    ],
)
def test_bad_input_ends_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        train.train(config(tmp_path, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "config.json").exists()


# -- rows -----------------------------------------------------------------------------------------


def test_rows_of_a_run(tmp_path: Path) -> None:
    train.train(config(tmp_path))
    rows = rows_of(tmp_path)
    steps, curve = rows.of(metric="return").curve()
    assert steps.tolist() == [24, 36, 48, 60]
    lines = [line for line in Run.load(tmp_path).metrics() if "forward" in line]
    assert [line["direction"] for line in lines] == [1, -1, 1, -1]
    names = ("forward", "backward", "forward", "backward")
    expected = [line[name] for line, name in zip(lines, names, strict=True)]
    np.testing.assert_allclose(curve.T, expected, rtol=1e-6)
    both = np.mean([lines[-2]["forward"], lines[-1]["backward"]], axis=0)
    np.testing.assert_allclose(rows.of(metric="final_return").values(), both, rtol=1e-5)
    np.testing.assert_allclose(rows.of(metric="final_other").values(), lines[-1]["forward"])
    again = np.subtract(lines[3]["backward"], lines[1]["backward"])
    np.testing.assert_allclose(rows.of(metric="relearned").values(), again, rtol=1e-5)
    rise = np.subtract(lines[-1]["critic_inactive"], lines[0]["critic_inactive"])
    np.testing.assert_allclose(rows.of(metric="critic_inactive_rise").values(), rise)
    assert (rows.of(metric="least_growth").values() >= 0).all()
    assert (rows.of(metric="most_pruned").values() <= 0.4).all()
    assert (rows.of(metric="target_missed").values() == 0).all()
    assert rows.of(metric="critic_skipped").values().tolist() == [10, 10]  # of 12; little is left


def test_a_tuned_rate_makes_rows_that_claims_read_and_a_grids_does_not(tmp_path: Path) -> None:
    small = {"steps": 24, "eval_every": 6}
    train.train(config(tmp_path / "tuned", method="dense", lr=3e-4, **small))
    train.train(config(tmp_path / "grid", method="dense", lr=3e-4, labels=("lr",), **small))
    tuned, grid = rows_of(tmp_path / "tuned"), rows_of(tmp_path / "grid")
    assert tuned.of(metric="final_return", lr=None) and not tuned.of(metric="return", lr=3e-4)
    assert grid.of(metric="return", lr=3e-4) and not grid.of(metric="final_return", lr=None)
    twice = [dict(row, lr=lr) for row in grid.frame.to_dict("records") for lr in (3e-4, 1e-3)]
    assert "by learning rate" in report.tables(Rows(twice))[0].title
    assert "means over" in report.tables(tuned)[0].title
    with pytest.raises(UserError, match="did you mean lr"):
        train.train(config(tmp_path / "wrong", labels=("lrr",)))


def test_floors_are_those_of_the_warm_up_and_of_the_first_network(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    train.train(cfg)
    [line] = [line for line in Run.load(tmp_path).metrics() if "untrained" in line]
    task, (setting, _) = Task("cycle"), resolve(cfg)
    agent = make_agent(cfg, task, seed_generators(cfg.seed, 6), torch.device("cpu"))
    found = task.returns(train.policy_of(agent), 2, setting.episodes, setting.limit)
    np.testing.assert_allclose(line["untrained"], found[0], rtol=1e-5)
    rows = rows_of(tmp_path)
    np.testing.assert_allclose(rows.of(metric="untrained_return").values(), found[0], rtol=1e-5)
    assert (rows.of(metric="random_return").values() != 0).all()


def test_the_final_return_is_of_both_directions() -> None:
    """Ends of the last two phases, at default's and tuning's lengths; else the last quarter."""
    last = np.arange(16) >= 12
    four = evaluation.ends(np.repeat([1, -1, 1, -1], 4), last)
    assert np.flatnonzero(four).tolist() == [10, 11, 14, 15]
    two = evaluation.ends(np.repeat([1, -1], 4), last[:8])
    assert np.flatnonzero(two).tolist() == [2, 3, 6, 7]
    assert evaluation.ends(np.ones(16), last).tolist() == last.tolist()


def test_a_target_that_is_missed_is_seen() -> None:
    shapes = [(6, 8), (8, 2)]
    n = connections(shapes, 0.25)
    masks = [torch.zeros(2, *shape) for shape in shapes]
    for mask, count in zip(masks, n, strict=True):
        mask.view(2, -1)[:, :count] = 1
    assert evaluation.missing(masks, 0.25).tolist() == [0, 0]
    masks[0][1, 0, 0] = 0
    assert evaluation.missing(masks, 0.25).tolist() == [0, 1 / n[0]]
    assert evaluation.missing(masks, 0.25)[0] == 0


def test_rows_of_the_probe(tmp_path: Path) -> None:
    probe.train(probe.ProbeConfig(method="ne", seed=(0, 1), out=tmp_path, **PROBE))
    rows = rows_of(tmp_path)
    steps, values = rows.of(metric="inactive").curve()
    assert steps.tolist() == [1, 2, 3, 4] and ((values >= 0) & (values <= 1)).all()
    np.testing.assert_allclose(rows.of(metric="last_inactive").values(), values.mean(1), rtol=1e-6)
    assert (rows.of(metric="target_missed").values() == 0).all()


def test_the_probe_learns_and_permutes(tmp_path: Path) -> None:
    cfg = probe.ProbeConfig(method="dense", tasks=2, steps=60, hidden=64, out=tmp_path)
    probe.train(cfg)
    lines = Run.load(tmp_path).metrics()
    ends = [line["accuracy"][0] for line in lines if "accuracy" in line]
    starts = [line["early_accuracy"][0] for line in lines if "early_accuracy" in line]
    assert min(ends) > 0.85 > starts[1] + 0.1


# -- pixels ---------------------------------------------------------------------------------------


def test_frames_are_stacked_within_their_episode() -> None:
    buffer = pixels.FrameBuffer(10, 1, 2)

    def frame(value: int) -> Any:
        return np.full((3, 2, 2), value, np.uint8)

    value = 0
    for _ in range(4):  # episodes of 4 frames: 3 transitions; the ring holds 10 frames
        buffer.begin(frame(value))
        for _ in range(3):
            value += 1
            buffer.add(torch.zeros(1), float(value), frame(value))
        value += 7
    batch = buffer.sample(torch.Generator().manual_seed(0), 300)
    obs, following = (x[:, ::3, 0, 0].int() for x in (batch.obs, batch.next_obs))  # [B, 3]
    assert torch.equal(following[:, 2], batch.reward.int())  # named after the next frame
    assert torch.equal(following[:, :2], obs[:, 1:]) or ((obs[:, 2] % 10) == 0).any()
    for stack in obs.tolist():
        first = stack[2] // 10 * 10
        assert stack == [max(first, stack[2] - 2), max(first, stack[2] - 1), stack[2]]
    stored = {int(v) for v in batch.reward}
    assert stored <= {21, 22, 23, 31, 32, 33, 12, 13} and {31, 32, 33} <= stored
    early = buffer.sample(torch.Generator().manual_seed(0), 300, 0.3)
    assert early.reward.max() < 30
    fresh = pixels.FrameBuffer(10, 1, 2)
    fresh.load(buffer.state())
    again = fresh.sample(torch.Generator().manual_seed(0), 300)
    assert torch.equal(again.obs, batch.obs) and torch.equal(again.reward, batch.reward)


def test_images_are_shifted_with_their_border_repeated() -> None:
    image = torch.arange(25).view(1, 1, 5, 5).repeat(200, 2, 1, 1).to(torch.uint8)
    moved = pixels.shifted(image, torch.Generator().manual_seed(0), pad=1)
    padded = torch.nn.functional.pad(image[:1].float(), (1, 1, 1, 1), mode="replicate")
    windows = {
        tuple(padded[0, 0, i : i + 5, j : j + 5].flatten().int().tolist())
        for i in range(3)
        for j in range(3)
    }
    found = {tuple(x[0].flatten().tolist()) for x in moved}
    assert found == windows and torch.equal(moved[:, 0], moved[:, 1])


def test_drq_grows_its_trunks_and_keeps_last_layers_dense(
    tmp_path: Path, small_pixels: None
) -> None:
    drq.train(drq.DrQConfig(out=tmp_path, **DRQ))
    final = Run.load(tmp_path).final()
    masks = final["topologies"]["critic"]["masks"]
    assert masks[-1].all() and not masks[1].all()
    inner = [tuple(mask.shape[1:]) for mask in masks[:-1]]
    assert [int(m[0].sum()) for m in masks[:-1]] == connections(inner, 0.25)
    for k, mask in enumerate(masks):
        for net in ("critic", "slow.2"):
            assert (final["nets"][f"{net}.net.layers.{k}.weight"][~mask] == 0).all()
    rows = rows_of(tmp_path)
    assert rows.of(metric="final_return").values(1).shape == (1,)
    assert rows.of(metric="critic_active").values(1)[0] <= 1


def test_the_suite_is_rendered() -> None:
    """In a process of its own: a machine without OpenGL may end it."""
    pytest.importorskip("dm_control")
    code = (
        "import numpy as np; from papers.ne.pixels import make; "
        "env = make('pixels-cheetah_run', 0, 32); first = env.reset(); "
        "after, paid = env.step(np.ones(env.action_dim)); "
        "assert first.shape == after.shape == (3, 32, 32) and first.max() > 0; "
        "assert env.length == 250 and paid >= 0; print('rendered')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "rendered" not in done.stdout and "AssertionError" not in done.stderr:
        pytest.skip("no OpenGL here")
    assert "rendered" in done.stdout, done.stderr


def test_an_unknown_pixel_task_is_refused() -> None:
    with pytest.raises(UserError, match="cheetah_run"):
        pixels.make("pixels-cheetah_ran", 0, 84)


# -- devices and use ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ne", "ne-fau", "redo"])  # the others add no operation
def test_a_gpu_has_the_cpus_rows(method: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, method=method, steps=30, warm_up=14, eval_every=8)
    same_on_both(train, evaluation, cfg, tmp_path)


def test_a_gpu_has_the_cpus_rows_of_the_probe(tmp_path: Path) -> None:
    cfg = probe.ProbeConfig(method="ne", seed=(0, 1), **{**PROBE, "tasks": 2})
    same_on_both(probe, evaluation, cfg, tmp_path)


@pytest.mark.parametrize("method", ["ne", "redo"])
def test_a_gpu_has_the_cpus_rows_of_drq(method: str, tmp_path: Path, small_pixels: None) -> None:
    cfg = drq.DrQConfig(method=method, **{**DRQ, "training": 2})
    same_on_both(drq, evaluation, cfg, tmp_path)


def test_a_policy_acts_as_it_was_evaluated(tmp_path: Path) -> None:
    cfg = config(tmp_path, seed=(3, 5))
    train.train(cfg)
    lines = [line for line in Run.load(tmp_path).metrics() if "forward" in line]
    for index, seed in enumerate(cfg.seed):
        policy = ne.load(tmp_path, seed=seed)
        assert policy.density["critic"] == pytest.approx(lines[-1]["critic_density"][index])
        for name, direction in (("forward", 1.0), ("backward", -1.0)):

            def acts(obs: Any, policy: Any = policy) -> Any:
                return policy.act(obs[0, :, :-1], direction=float(obs[0, 0, -1]))[None]

            found = policy.task.returns(acts, 1, 1, 9)[0 if direction > 0 else 1, 0]
            assert found == pytest.approx(lines[-1][name][index], rel=1e-4)
    with pytest.raises(UserError, match=r"observations \[n, 17\]"):
        ne.load(tmp_path).act(np.zeros((2, 18)))
    with pytest.raises(UserError, match="not 4"):
        ne.load(tmp_path, seed=4)


def test_a_probe_leaves_no_policy(tmp_path: Path) -> None:
    probe.train(probe.ProbeConfig(out=tmp_path, **{**PROBE, "tasks": 1}))
    with pytest.raises(UserError, match="no policy of states"):
        ne.load(tmp_path)


def test_seeds_differ(tmp_path: Path) -> None:
    train.train(config(tmp_path))
    rows = rows_of(tmp_path)
    assert len(set(rows.of(metric="final_return").values())) == 2
