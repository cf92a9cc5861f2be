"""Runs: limits that are other methods, resuming, rows, devices, data, what acts afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.vq_cd as vq_cd
from common.control.continual import place
from common.control.episodes import Episode
from common.control.random_search import LinearPolicy, Snapshot
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from papers.vq_cd import align, bench, published, task, train
from papers.vq_cd import eval as evaluation
from papers.vq_cd.acting import Planning, load_learned
from papers.vq_cd.bench import BenchConfig
from papers.vq_cd.config import AlignConfig, Config
from papers.vq_cd.eval import EvalConfig, evaluate, matrix, same
from papers.vq_cd.learning import (
    arrays_of,
    following,
    make_inverses,
    make_masks,
    make_net,
    make_world,
)
from papers.vq_cd.method import Paper, maskable, perplexity
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import SEQUENCES, aligned, worth_of_returns, worth_of_success
from tests.fake_cuda import same_on_both
from tests.papers.vq_cd.conftest import REAL_OFFLINE, episodes_of, stand_in

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("points")

SEEDS = (0, 3)
SMALL: dict[str, Any] = {
    **{"task": "same-mw3", "seed": SEEDS, "steps": 6, "batch": 4, "width": 8, "lr": 1e-2},
    **{"inverse_hidden": 8, "diffusion_steps": 20, "acting_steps": 2, "episodes": 2},
    **{"fisher_batches": 2, "average": 0.5},
}
CPU = torch.device("cpu")


def config(folder: Path, **changes: Any) -> Config:
    return Config(**{**SMALL, "out": folder, **changes})


def aligned_run(folder: Path, **changes: Any) -> Path:
    own: dict[str, Any] = {"task": "spaces-rsh", "seed": SEEDS, "steps": 60, "hidden": 16}
    align.train(AlignConfig(**{**own, "codes": 16, "out": folder, **changes}))
    return folder


def trained(folder: Path, **changes: Any) -> dict[str, Any]:
    train.train(config(folder, **changes))
    return dict(Run.load(folder).final())


def rows_of(folder: Path) -> Rows:
    evaluate(EvalConfig(run=folder))
    return Rows(json.loads((folder / "eval.json").read_text(encoding="utf-8"))["rows"])


# -- spaces ---------------------------------------------------------------------------------------


def test_spaces_are_learned_of_their_own_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other data of the third task change the third task's spaces only; codes are in bounds."""
    one = Run.load(aligned_run(tmp_path / "one")).final()["spaces"]

    def other(domain: Any) -> Any:
        made = stand_in(domain)
        if domain.name == "halfcheetah":
            for e in made.episodes:
                e.observations[:] = 5 * e.observations**2
        return made

    monkeypatch.setattr(align, "offline", other)
    two = Run.load(aligned_run(tmp_path / "two")).final()["spaces"]
    for name, value in one.items():
        changed = not torch.equal(value, two[name])
        assert changed is name.startswith("4."), name  # the third task's states
        if name.endswith("codes"):
            assert value.abs().max() <= Paper.bound


@pytest.mark.parametrize("kind", ["vq", "ae", "vae"])
def test_spaces_are_resumed_and_seeds_stand_alone(
    kind: str, tmp_path: Path, whole_and_cut: Callable[..., Any], trained_alike: Any
) -> None:
    cfg = AlignConfig("spaces-pr", kind, SEEDS, tmp_path, steps=120, hidden=8, codes=8, batch=8)
    whole, cut = whole_and_cut(align.train, cfg, 130)
    assert all(torch.equal(v, cut["spaces"][k]) for k, v in whole["spaces"].items())
    if kind == "vq":
        alone = tmp_path / "alone"
        align.train(AlignConfig(**{**vars(cfg), "seed": SEEDS[1:], "out": alone, "steps": 3}))
        align.train(AlignConfig(**{**vars(cfg), "out": tmp_path / "both", "steps": 3}))
        found = [Run.load(f).final()["spaces"] for f in (alone, tmp_path / "both")]
        for name, value in found[0].items():
            torch.testing.assert_close(value, found[1][name][1:], atol=1e-4, rtol=1e-3)


def test_codes_come_into_use(tmp_path: Path) -> None:
    folder = aligned_run(tmp_path / "vq", steps=160)
    cfg = config(tmp_path / "run", task="spaces-rsh", spaces=folder, method="vq_cd")
    world = make_world(cfg, CPU)
    for made in world.tasks:
        space: Any = made.spaces[0]
        index = space.quantized(space.encoder(made.arrays.states.expand(2, -1, -1)))[1]
        assert (perplexity(index, 16) > 6).all()
        assert made.clip == Paper.bound and float(made.states.abs().max()) <= Paper.bound


def test_spaces_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = aligned_run(tmp_path / "vq" / "spaces-rsh" / "seed-0-3", steps=2)
    cfg = config(tmp_path / "train" / "run", task="spaces-rsh")
    make_world(cfg, CPU)  # found beside the run's stage
    with pytest.raises(UserError, match="there are no ae latents"):
        make_world(Config(**{**vars(cfg), "method": "ae"}), CPU)
    with pytest.raises(UserError, match="needed are ae latents"):
        make_world(Config(**{**vars(cfg), "method": "ae", "spaces": folder}), CPU)


def test_latents_are_standardised_by_task(tmp_path: Path) -> None:
    folder = aligned_run(tmp_path / "ae", kind="ae", steps=5)
    cfg = config(tmp_path / "run", task="spaces-rsh", method="ae_std", spaces=folder)
    for made in make_world(cfg, CPU).tasks:
        z = made.states[:, made.arrays.training]
        torch.testing.assert_close(z.mean(1), torch.zeros(2, 20), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std(1), torch.ones(2, 20), atol=1e-3, rtol=0)
        assert made.clip == pytest.approx(float(made.states.abs().max()))


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "every"),
    [("vq_cd", 8), ("ewc", 14), ("packnet", 5), ("packnet", 11), ("single", 8), ("replay", 15)],
)
def test_a_killed_run_ends_with_the_same_numbers(
    method: str, every: int, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    """Mid-task, before and after pruning, after a task whose checkpoint and Fisher are kept."""
    cfg = config(tmp_path, method=method)
    whole, cut = whole_and_cut(train.train, cfg, every)
    for one, other in zip(whole["snapshots"], cut["snapshots"], strict=True):
        assert same(one, other)
    assert same(whole["inverses"], cut["inverses"]) and same(whole["owner"], cut["owner"])


def test_seeds_stand_alone(tmp_path: Path, trained_alike: Callable[..., None]) -> None:
    both = trained(tmp_path / "both", lr=1e-3)["snapshots"]
    alone = trained(tmp_path / "alone", seed=SEEDS[1:], lr=1e-3)["snapshots"]
    start = dict(make_net(config(tmp_path, seed=SEEDS[1:]), (6, 2)).named_parameters())
    trained_alike(
        alone[0], {k: v[1:] for k, v in both[0].items()}, {k: v.detach() for k, v in start.items()}
    )


def test_one_task_under_its_mask_is_an_unmasked_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I = 1, mask rate 1: the same losses as a network that is told its task by a constant."""
    monkeypatch.setitem(SEQUENCES, "same-one", SEQUENCES["same-mw3"][:1])
    found = trained(tmp_path / "one", task="same-one", steps=100)
    monkeypatch.setattr(train.Weighing, "denoise", lambda self, at: self.net)
    other = trained(tmp_path / "two", task="same-one", steps=100)
    assert same(found["snapshots"][0], other["snapshots"][0])
    lines = [(tmp_path / k / "metrics.jsonl").read_text() for k in ("one", "two")]
    assert lines[0] == lines[1] != ""


@pytest.mark.parametrize("method", ["vq_cd", "vq_cd_reset", "packnet", "single"])
def test_nothing_is_forgotten(method: str, tmp_path: Path) -> None:
    train.train(config(tmp_path, method=method))
    rows = rows_of(tmp_path)
    assert (rows.of(metric="output_change").values() == 0).all()
    assert (rows.of(metric="forgetting").values() == 0).all()
    last = rows.of(metric="unassembled_change").values()
    assert (last == 0).all() == (method in ("vq_cd_reset", "packnet"))


@pytest.mark.parametrize("method", ["finetune", "ewc", "replay", "own_vectors", "kernels_only"])
def test_shared_weights_move(method: str, tmp_path: Path) -> None:
    train.train(config(tmp_path, method=method))
    assert (rows_of(tmp_path).of(metric="output_change").values() > 1e-4).all()


def test_dense_adam_moves_other_tasks_weights_by_its_moments(tmp_path: Path) -> None:
    """What assembling undoes; and with Adam begun anew there is nothing to undo."""
    found = trained(tmp_path / "carried")["snapshots"]
    masks = make_masks(config(tmp_path), make_net(config(tmp_path), (6, 2)))
    moved = {n: (found[2][n] - found[0][n])[m].abs().max() for n, m in masks[0].items()}
    assert max(moved.values()) > 1e-5
    reset = trained(tmp_path / "reset", method="vq_cd_reset")["snapshots"]
    for name, mask in masks[0].items():
        assert torch.equal(reset[0][name][mask], reset[2][name][mask])
    assert same(found[0], reset[0])  # the first task is the same
    train.train(config(tmp_path / "not", method="not_assembled"))
    assert (rows_of(tmp_path / "not").of(metric="output_change").values() > 0).all()


def test_a_task_keeps_its_biases_and_norms(tmp_path: Path) -> None:
    train.train(config(tmp_path))
    learned = load_learned(Run.load(tmp_path), CPU)
    shares = learned.shares
    names = set(shares.own)
    assert names == set(shares.snapshots[0]) - set(maskable(learned.net))
    for j in range(3):
        acting = shares.at(2, j)
        assert all(torch.equal(acting[n], shares.snapshots[j][n]) for n in names)
    assert any(not torch.equal(shares.at(2, 0)[n], shares.at(2, 2)[n]) for n in names)


def test_elastic_weights_move_less(tmp_path: Path) -> None:
    found = {
        strength: trained(tmp_path / str(strength), method="ewc", elastic=strength, steps=20)
        for strength in (0.0, 1e6)
    }
    free, held = (
        sum(float((f["snapshots"][1][n] - w).square().sum()) for n, w in f["snapshots"][0].items())
        for f in (found[0.0], found[1e6])
    )
    assert held < 0.5 * free
    plain = trained(tmp_path / "plain", method="finetune", steps=20)
    assert same(plain["snapshots"][2], found[0.0]["snapshots"][2])


def test_packnet_packs_equal_shares(tmp_path: Path) -> None:
    found = trained(tmp_path, method="packnet")
    for name, owner in found["owner"].items():
        counts = [(owner == i).flatten(1).sum(1) for i in range(-1, 3)]
        assert (counts[0] == 0).all(), name
        assert (counts[1] - counts[3]).abs().max() <= 1
    first, last = found["snapshots"][0], found["snapshots"][2]
    for name, owner in found["owner"].items():
        assert torch.equal(first[name][owner == 0], last[name][owner == 0])


def test_batches_are_of_the_right_tasks(tmp_path: Path) -> None:
    def drawn(method: str, task: int, step: int) -> list[tuple[int, int]]:
        cfg = config(tmp_path, method=method, batch=8)
        world = make_world(cfg, CPU)
        memories = [train.memory(world, i) for i in range(3)] if method == "replay" else []
        generators = [torch.Generator().manual_seed(s) for s in SEEDS]
        at = place(task * 6 + step, [6, 6, 6])
        found = train.draw(world, at, memories, generators)
        return [(b.task, b.states.shape[1]) for b in found]

    assert drawn("finetune", 1, 3) == [(1, 8)] == drawn("vq_cd", 1, 3)
    assert drawn("replay", 0, 1) == [(0, 8)] and drawn("replay", 2, 0) == [(2, 8)]
    assert [drawn("replay", 2, s)[0][0] for s in (1, 3, 5)] == [0, 1, 0]
    assert [b for b, _ in drawn("multitask", 0, 1)] == [1, 2, 0]
    assert sorted(n for _, n in drawn("multitask", 0, 1)) == [2, 3, 3]


def test_plans_tell_states_or_differences_to_come(tmp_path: Path) -> None:
    worlds = [make_world(config(tmp_path, differences=d), CPU) for d in (False, True)]
    at = torch.tensor([[0, 5, 70], [1, 9, 80]])
    plain, moved = (world.tasks[1].windows(at, 8) for world in worlds)
    assert torch.equal(plain.before, plain.states[:, :, :-1])
    z = worlds[0].tasks[1].states
    first = int(worlds[0].tasks[1].arrays.starts[70])
    assert torch.equal(plain.states[0, 2], z[0, first : first + 8])
    assert torch.equal(moved.states[:, :, 0], plain.states[:, :, 0])
    assert torch.equal(moved.before, plain.before)
    difference = plain.states[:, :, 1:] - plain.states[:, :, :-1]
    within = np.ones((10, 24), bool)  # the spread is of steps of the training episodes, no jumps
    within[9], within[:, -1] = False, False
    spread = (z.roll(-1, 1) - z)[:, torch.from_numpy(within.ravel())].std(1, keepdim=True)
    expected = (difference / spread.unsqueeze(1)).clamp(-5, 5)
    torch.testing.assert_close(moved.states[:, :, 1:], expected)
    assert worlds[1].tasks[1].clip >= float(moved.states.abs().max())
    train.train(config(tmp_path / "run", differences=True))
    assert rows_of(tmp_path / "run").of(metric="score").value() == 100.0


def test_a_jump_to_the_next_episode_is_no_difference() -> None:
    """Steps of .01 in episodes 100 apart: differences have variance 1, not the jumps'."""
    z = 0.01 * torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0)).cumsum(1)
    z[:, 25:] += 100.0
    followed = torch.ones(50, dtype=torch.bool)
    followed[[24, 49]] = False
    found = following(z, followed)[:, followed]
    torch.testing.assert_close(found.std(1), torch.ones(1, 2), atol=1e-3, rtol=0)


def test_differences_of_codes_are_not_clamped_by_the_codes_bound(tmp_path: Path) -> None:
    folder = aligned_run(tmp_path / "vq", steps=2)
    for differences in (False, True):
        cfg = config(tmp_path, task="spaces-rsh", spaces=folder, differences=differences)
        for made in make_world(cfg, CPU).tasks:
            largest = float(torch.maximum(made.states.abs(), made.after.abs()).max())
            assert made.clip == (largest if differences else Paper.bound)


def test_of_an_untrained_planner_inverse_dynamics_alone_are_learned(tmp_path: Path) -> None:
    made = trained(tmp_path / "run", method="untrained")
    start = dict(make_net(config(tmp_path, method="untrained"), (6, 2)).named_parameters())
    assert all(same(snapshot, start) for snapshot in made["snapshots"])
    other = trained(tmp_path / "other", method="finetune")["inverses"]
    first = make_inverses(config(tmp_path), (6, 2)).state_dict()
    for name, value in made["inverses"].items():
        assert not torch.equal(value, first[name])
        assert value.shape == other[name].shape


def test_replay_keeps_a_tenth_of_the_windows(tmp_path: Path) -> None:
    world = make_world(config(tmp_path, method="replay", remembered=0.1), CPU)
    kept = train.memory(world, 1)
    count = len(world.tasks[1].arrays.starts)
    assert kept.shape == (2, int(0.1 * count)) and not torch.equal(kept[0], kept[1])
    assert all(len(set(row.tolist())) == kept.shape[1] for row in kept)


# -- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vq_cd", "finetune", "multitask", "untrained", "behaviour"])
def test_rows_of_a_run(method: str, tmp_path: Path) -> None:
    train.train(config(tmp_path, method=method))
    rows = rows_of(tmp_path)
    names = [d.name for d in SEQUENCES["same-mw3"]]
    assert rows.unique("seed") == list(SEEDS)
    ends = rows.of(metric="task_end")
    assert sorted(names) == ends.unique("subtask")
    mean = np.mean([ends.of(subtask=n).value() for n in names])
    assert rows.of(metric="score").value() == pytest.approx(mean)
    if method == "behaviour":
        assert mean == 50.0 and not rows.of(metric="noise_loss")
        return
    assert mean == 100.0  # the stand-in's episodes all end well
    sequential = method != "multitask"
    assert bool(rows.of(metric="forgetting")) is sequential
    assert len(rows.of(metric="R")) == 2 * (6 if sequential else 3)
    assert rows.of(metric="parameters").value() > 1000


def test_the_matrix_is_of_the_weights_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R[i, j] is rolled out with what acted after task i; equal weights are not rolled out anew."""
    for method, calls in (("finetune", 6), ("vq_cd", 3)):
        train.train(config(tmp_path / method, method=method))
        learned = load_learned(Run.load(tmp_path / method), CPU)
        seen = []

        def scored(learned: Any, j: int, weights: Any, seen: list = seen) -> Any:
            seen.append((j, weights))
            return np.full((2, 2), float(len(seen)))

        monkeypatch.setattr(evaluation, "scores", scored)
        found = matrix(learned)
        assert len(seen) == calls and np.isnan(found[:, 0]).all()
        assert np.isfinite(found[0, 1:]).sum() == 6
        j, weights = seen[-1]
        assert j == 2 and same(weights, learned.shares.at(2, 2))
        if method == "finetune":
            assert same(seen[1][1], learned.shares.snapshots[1])
    assert list(evaluation.pairs(5))[-2:] == [(4, 3), (4, 4)]
    assert len(list(evaluation.pairs(5))) == 9


def test_a_sweep_labels_its_rows_and_rolls_nothing_out(tmp_path: Path) -> None:
    train.train(config(tmp_path, lr=None, labels=("lr",), episodes=0))
    rows = rows_of(tmp_path)
    assert rows.unique("lr") == [METHODS["vq_cd"].lr] and not rows.of(metric="score")
    assert rows.of(metric="noise_loss").value() > 0


def test_steps_and_returns_can_be_others(tmp_path: Path) -> None:
    train.train(config(tmp_path, more_steps=20, more_targets=(0.1,)))
    rows = rows_of(tmp_path)
    assert [rows.of(metric="calls", steps=k).value() for k in (2, 20)] == [2, 20]
    assert rows.unique("episode") == [0, 1] and rows.unique("target") == [0.1]
    assert rows.of(metric="seconds_action", steps=20).value() > 0


# -- data -----------------------------------------------------------------------------------------


def test_a_window_is_worth_exactly_so_many_steps() -> None:
    episode = episodes_of("swimmer", 1)[0]
    (found,) = worth_of_returns([episode], limit=10, ahead=8, gamma=0.9)
    for t in range(24):
        if t < 10:
            wanted = sum(0.9**k * float(episode.rewards[t + k]) for k in range(8))
            assert found[t] == pytest.approx(wanted)
        else:
            assert np.isnan(found[t])
    (late,) = worth_of_returns([episode], limit=24, ahead=8, gamma=0.9)
    assert np.isfinite(late).sum() == 17 and np.isfinite(late[16])
    (end,) = worth_of_returns([episode], limit=3, ahead=None, gamma=0.9)
    assert end[22] == pytest.approx(float(episode.rewards[22] + 0.9 * episode.rewards[23]))


def test_a_success_is_worth_more_the_sooner_it_comes() -> None:
    found = worth_of_success(episodes_of("hammer-v3", 3)[2])
    assert (found[:7] == 1 / 8).all() and np.isnan(found[7:]).all()
    never = episodes_of("hammer-v3", 1)[0]
    never.infos["success"][:] = False
    assert (worth_of_success(never) == 0).all()


def test_windows_lie_within_episodes_and_returns_in_the_unit_interval() -> None:
    source = stand_in(SEQUENCES["spaces-rsh"][1])
    arrays = arrays_of(source, 8)
    assert not arrays.training[9 * 24 :].any() and arrays.training[: 9 * 24].all()
    assert ((arrays.starts % 24) < 10).all() and (arrays.held >= 9 * 24).all()
    assert float(arrays.worth.min()) == 0 and float(arrays.worth.max()) == 1
    assert ((arrays.held_worth >= 0) & (arrays.held_worth <= 1)).all()
    states = arrays.states[arrays.training]
    torch.testing.assert_close(states.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="no window of 30"):
        arrays_of(source, 30)


def test_sequences_are_the_papers() -> None:
    assert [d.name for d in SEQUENCES["spaces-d4rl-medium"]] == [
        "hopper",
        "walker2d",
        "halfcheetah",
    ]
    assert len(SEQUENCES["same-cw10"]) == 10 and len(SEQUENCES["same-ant6"]) == 6
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {d.name for d in SEQUENCES["same-cw10"]} <= set(ALL_V3_ENVIRONMENTS)
    assert {d.name for d in SEQUENCES["same-mw3"]} <= {d.name for d in SEQUENCES["same-cw10"]}
    assert not aligned("same-mw3") and aligned("alone-swimmer")
    for domain in SEQUENCES["spaces-rsh"]:
        made: Any = domain.made
        assert made.steps == domain.limit + 100 and made.scored_steps == domain.limit


def test_published_data_are_read(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    (data_root / "d4rl").mkdir()
    rng = np.random.default_rng(0)
    ends = np.isin(np.arange(12), [4, 9])
    with h5py.File(data_root / "d4rl" / "hopper_full_replay-v2.hdf5", "w") as file:
        file["observations"] = rng.normal(size=(12, 11))
        file["actions"] = rng.uniform(-1, 1, (12, 3))
        file["rewards"] = np.arange(12.0)
        file["terminals"] = ends & (np.arange(12) == 4)
        file["timeouts"] = ends & (np.arange(12) == 9)
    found = published.d4rl("hopper", "full-replay")
    assert [len(e) for e in found] == [5, 5]
    assert found[0].terminations[-1] and found[1].truncations[-1]
    assert found[1].rewards.tolist() == [5, 6, 7, 8, 9] and len(found[0].observations) == 6
    asked = []

    def fetched(name: str) -> Any:
        asked.append(name)
        return found, {}

    monkeypatch.setattr(published, "load_minari", fetched)
    assert len(published.d4rl("walker2d", "medium-expert")) == 4
    assert asked == ["mujoco/walker2d/medium-v0", "mujoco/walker2d/expert-v0"]
    folder = data_root / "vq_cd" / "ant-dir"
    folder.mkdir(parents=True)
    arrays = {
        "observations": rng.normal(size=(3, 6, 27)),
        "actions": rng.uniform(-1, 1, (3, 6, 8)),
        "rewards": rng.uniform(size=(3, 6)),
        "direction": np.float64(0.5),
    }
    np.savez(folder / "10.npz", **arrays)
    episodes, direction = published.ant_direction(10)
    assert len(episodes) == 3 and direction == 0.5 and len(episodes[0]) == 6
    np.savez(folder / "15.npz", **{**arrays, "actions": arrays["actions"][..., :7]})
    with pytest.raises(UserError, match=r"actions \(3, 6, 7\)"):
        published.ant_direction(15)


def test_published_data_that_are_not_there_are_named(data_root: Path) -> None:
    with pytest.raises(UserError, match="D4RL's server|D4RL's package"):
        published.d4rl("hopper", "medium-replay")
    with pytest.raises(UserError, match="Prompt-DT"):
        published.ant_direction(4)
    (data_root / "d4rl").mkdir()
    (data_root / "d4rl" / "hopper_medium_replay-v2.hdf5").write_bytes(b"no")
    with pytest.raises(UserError, match="no file of D4RL"):
        published.d4rl("hopper", "medium-replay")


def test_the_ant_is_paid_along_its_direction() -> None:
    env = published.AntDirection(np.pi / 2)
    first, _ = env.reset(seed=0)
    assert first.shape == (27,)
    _, reward, _, _, info = env.step(np.full(8, 0.3))
    rest = info["reward_survive"] + info["reward_ctrl"] + info.get("reward_contact", 0.0)
    assert reward == pytest.approx(info["y_velocity"] + rest)


class Box:
    def __init__(self) -> None:
        low, high = np.array([-2.0]), np.array([4.0])
        self.action_space = type("Box", (), {"low": low, "high": high})
        self.asked: list[float] = []

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.asked.append(float(action[0]))
        return np.zeros(2), 1.0, len(self.asked) >= 3, False, {}


def test_real_tasks_are_made_of_the_searchs_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions fill the box; an episode that terminates earns nothing more."""
    envs: list[Box] = []

    def make() -> Box:
        envs.append(Box())
        return envs[-1]

    monkeypatch.setattr(task, "maker", lambda name: make)
    monkeypatch.setattr(task, "locomotion_episodes", lambda made: (episodes_of("swimmer", 3), {}))
    monkeypatch.setattr(task, "references", lambda made, n: (np.full(n, -1.0), 8.0))
    source = REAL_OFFLINE.__wrapped__(SEQUENCES["spaces-rsh"][1])
    assert source.dims == (8, 2) and source.limit == 100 and not source.by_success
    batch = source.batch(2, 1)
    returns, _ = evaluation.rollout(
        batch, lambda seen: np.full((2, 1, 1), 0.5), 2, 5, stop_at_success=False
    )
    assert returns.tolist() == [[3.0], [3.0]] and envs[-1].asked == [2.5] * 3
    assert source.scores(returns, returns > 0).tolist() == [[50.0], [50.0]]
    summed = [float(e.rewards[:100].sum()) for e in source.episodes]
    assert source.behaviour() == pytest.approx((np.mean(summed) + 1) * 12.5)


class Goal:
    """An arm whose goal lies somewhere else in each episode, and that is paid for effort."""

    action_space = type("Box", (), {"low": -np.ones(1), "high": np.ones(1), "shape": (1,)})

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        self.far = float(seed % 7)
        return np.array([self.far]), {}

    def step(self, action: Any) -> Any:
        return np.array([self.far]), 2.0 * float(action[0]) - self.far, False, False, {}


def test_0_is_doing_nothing_and_100_the_best_from_the_same_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the goals' luck; a task whose agent is worse than doing nothing has 0."""

    def best(weight: float) -> Any:
        policy = LinearPolicy(np.zeros((1, 1)), np.zeros(1), np.ones(1))
        act = type("Act", (), {"__call__": lambda self, seen: np.full(1, weight)})()
        return Snapshot(policy if not weight else act, 0, weight)

    monkeypatch.setattr(task, "maker", lambda name: Goal)
    monkeypatch.setattr(task, "searched", lambda search: [best(0.0), best(0.5)])
    monkeypatch.setattr(task, "locomotion_episodes", lambda made: (episodes_of("swimmer", 3), {}))
    task.references.cache_clear()
    source = REAL_OFFLINE.__wrapped__(SEQUENCES["spaces-rsh"][1])
    for weight, score in ((0.0, 0.0), (0.5, 100.0), (-0.5, -100.0)):

        def act(seen: Any, weight: float = weight) -> Any:
            return np.full((2, 3, 1), weight)

        returns, success = evaluation.rollout(
            source.batch(2, 3), act, 2, source.limit, stop_at_success=False
        )
        assert returns.std(1).max() > 0  # the starts differ
        np.testing.assert_allclose(source.scores(returns, success), score, atol=1e-5)
        found = source.bounded(source.scores(returns, success).mean(1))
        np.testing.assert_allclose(found, max(score, 0.0), atol=1e-5)
    task.references.cache_clear()


def test_meta_world_is_seen_without_the_frame_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and evaluation alike; CW10 of the paper has all 39 numbers."""
    episodes = episodes_of("hammer-v3", 3)
    wide = [replace(e, observations=np.tile(np.arange(39.0), (25, 1))) for e in episodes]

    class Simulator:
        def __init__(self, name: str) -> None: ...

        def goal(self, number: int) -> Any:
            return type("Episode", (), {"obs": np.arange(39.0), "success": False, "reward": 0.0})()

    monkeypatch.setattr(task, "TaskSimulator", Simulator)
    monkeypatch.setattr(task, "goal_episodes", lambda made, simulator: (wide, {}))
    for sequence, seen in (("same-mw3", [*range(18), 36, 37, 38]), ("same-cw10", [*range(39)])):
        source = REAL_OFFLINE.__wrapped__(SEQUENCES[sequence][0])
        assert source.episodes[0].observations[0].tolist() == seen
        assert source.batch(1, 2).observations.tolist() == [seen, seen]


# -- devices, use ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vq_cd", "ewc", "packnet", "multitask"])
def test_a_gpu_computes_the_same(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SEQUENCES, "same-two", SEQUENCES["same-mw3"][:2])
    more = 4 if method == "vq_cd" else 0
    changes = {"task": "same-two", "steps": 2, "lr": 1e-3, "more_steps": more, "episodes": 1}
    cfg = config(tmp_path, method=method, **changes, fisher_batches=1, acting_steps=1)
    same_on_both(train, evaluation, cfg, tmp_path)


def test_a_gpu_learns_the_same_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_cuda import fake_cuda

    cfg: dict[str, Any] = {"task": "spaces-pr", "seed": SEEDS, "steps": 4, "hidden": 8}
    monkeypatch.setattr(align, "REVIVE_EVERY", 2)
    cfg |= {"codes": 8, "batch": 8}
    for kind in ("vq", "vae"):
        align.train(AlignConfig(**cfg, kind=kind, out=tmp_path / f"{kind}-cpu"))
        with fake_cuda():
            align.train(AlignConfig(**cfg, kind=kind, out=tmp_path / kind, device="cuda"))
        found = [Run.load(tmp_path / f"{kind}{k}").final()["spaces"] for k in ("", "-cpu")]
        for name, value in found[0].items():
            torch.testing.assert_close(value, found[1][name], atol=1e-3, rtol=1e-2)


def test_a_trained_agent_acts_as_in_the_evaluation(tmp_path: Path) -> None:
    train.train(config(tmp_path))
    agent = vq_cd.load(tmp_path, seed=3)
    assert agent.tasks == tuple(d.name for d in SEQUENCES["same-mw3"])
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(2, 6)).astype(np.float32)
    action = agent.act(seen, agent.tasks[1])
    assert action.shape == (2, 2) and (np.abs(action) <= 1).all()
    learned = load_learned(Run.load(tmp_path), CPU)
    policy = Planning(learned, 1, learned.shares.at(2, 1))
    np.testing.assert_array_equal(policy(np.stack([seen, seen]))[1], action)
    assert agent.act(seen[0], agent.tasks[0]).shape == (1, 2)


def test_an_agent_that_is_asked_wrongly_says_so(tmp_path: Path) -> None:
    train.train(config(tmp_path / "run"))
    agent = vq_cd.load(tmp_path / "run")
    with pytest.raises(UserError, match="did you mean"):
        agent.act(np.zeros((1, 6)), "hammer-v2")
    with pytest.raises(UserError, match=r"\[n, 6\], not \[1, 7\]"):
        agent.act(np.zeros((1, 7)), "hammer-v3")
    with pytest.raises(UserError, match="seeds"):
        vq_cd.load(tmp_path / "run", seed=7)
    train.train(config(tmp_path / "data", method="behaviour"))
    with pytest.raises(UserError, match="nothing was learned"):
        vq_cd.load(tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "vqcd"}, "did you mean"),
        ({"task": "same-mw4"}, "did you mean"),
        ({"method": "vae"}, "share their spaces"),
        ({"width": 12}, "multiple of 8"),
        ({"horizon": 7}, "of 2"),
        ({"acting_steps": 3}, "do not divide"),
        ({"more_steps": 7}, "do not divide"),
        ({"dropout": 1.5}, "no share"),
    ],
)
def test_bad_input_ends_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        train.train(config(tmp_path, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"kind": "vqq"}, "did you mean"), ({"task": "same-mw3"}, "nothing is to be aligned")],
)
def test_bad_alignments_end_in_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        align.train(AlignConfig(**{"out": tmp_path, **changes}))


def test_the_bench_runs(tmp_path: Path) -> None:
    bench.bench(BenchConfig(json=tmp_path / "found.json", width=8, repeats=1))
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"no mask", "dense Adam", "masked steps", "sparse steps"}


def test_episodes_are_whole() -> None:
    made = published.episode_of(np.ones((3, 2)), np.ones((3, 1)), np.ones(3), terminated=True)
    assert isinstance(made, Episode) and made.terminations.tolist() == [False, False, True]
