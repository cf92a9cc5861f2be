"""Runs: resuming, rows, devices, tasks, what makes no sense, what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.sewa as sewa
from common.control.episodes import Episode
from common.errors import UserError
from common.rows import Rows
from common.run import Run
from papers.sewa import cloning, expert, images, neighbours, train, trajectory
from papers.sewa import eval as evaluation
from papers.sewa.config import Config, NeighboursConfig, TrajectoryConfig, of_training, selection_of
from papers.sewa.methods import METHODS
from papers.sewa.task import TASKS
from papers.sewa.weights import flat
from tests.fake_cuda import same_on_both
from tests.papers import kit

pytestmark = pytest.mark.usefixtures("small")
CPU = torch.device("cpu")


def config(folder: Path, **changes: Any) -> Config:
    own = {"out": folder, "iterations": 4, "samples": 2, "seed": (0, 1)}
    return Config(**{**own, **changes})


def rows_of(cfg: Any) -> Rows:
    evaluation.evaluate(evaluation.EvalConfig(run=cfg.out))
    return Rows(json.loads((cfg.out / "eval.json").read_text(encoding="utf-8"))["rows"])


@pytest.mark.parametrize("method", ["plain", "online"])
def test_a_killed_training_ends_with_the_same_snapshots(
    method: str, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    cfg = TrajectoryConfig(out=tmp_path, method=method, iterations=2, samples=1)
    whole, cut = whole_and_cut(trajectory.train, cfg, 7)
    mine, theirs = kit.tensors(whole), kit.tensors(cut)
    assert len(mine) == len(theirs) > 20 and whole["loss"] == cut["loss"]
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_a_killed_choice_ends_with_the_same_weights(
    snapshots: Path, tmp_path: Path, whole_and_cut: Callable[..., Any]
) -> None:
    cfg = config(tmp_path / "x", trajectories=snapshots, K=(2, 3))
    whole, cut = whole_and_cut(train.train, cfg, 1)
    assert sorted(whole["weights"]) == ["0-2", "0-3", "1-2", "1-3"]
    for name, value in whole["weights"].items():
        assert value.equal(cut["weights"][name])


def test_rows_of_a_choice(snapshots: Path, tmp_path: Path) -> None:
    scale = snapshots.parents[2]
    found = {}
    for method in ("sewa", "last", "lawa", "random"):
        cfg = config(scale / "train" / "digits" / method / "seeds-0-1", method=method, K=(2, 3))
        train.train(cfg)
        found[method] = rows_of(cfg)
    own = found["sewa"]
    assert own.unique("seed") == [0, 1] and own.unique("K") == [2, 3]
    for method, rows in found.items():
        scores = rows.of(metric="score", K=3).values()
        assert ((scores >= 0) & (scores <= 100)).all(), method
        assert rows.of(metric="spread", K=3).value() > 1e-4
        assert rows.of(metric="hit", K=2).value() == 0
    assert own.of(metric="calls", K=3).value() == 3 * 4 * 2
    assert 0 < own.of(metric="count", K=3).value() < 8
    last = found["last"]
    assert last.of(metric="train_loss", K=2).value() == last.of(metric="train_loss", K=3).value()
    trained = Run.load(snapshots / "seed-0").final()
    rows = trained["window"]["rows"].roll(-(int(trained["window"]["taken"]) % 8), 0)
    model = TASKS["digits"].make(TASKS["digits"], 0, CPU).model
    model.load_state_dict(trained["model"])
    assert rows[-1].equal(flat(model)) and rows.shape[0] == 8
    kept = Run.load(scale / "train" / "digits" / "lawa" / "seeds-0-1").final()["weights"]
    torch.testing.assert_close(kept["0-3"][0], rows[-3:].mean(0))
    windowed = config(tmp_path / "half", method="all", trajectories=snapshots, window=0.5)
    train.train(windowed)
    kept = Run.load(windowed.out).final()["weights"]
    torch.testing.assert_close(kept["0-3"][0], rows[-4:].mean(0))


def test_damaged_snapshots_and_references(snapshots: Path, tmp_path: Path) -> None:
    """With references every method has the rows of the last iterate."""
    scale, scores = snapshots.parents[2], {}
    for method in ("sewa", "lawa", "random", "last"):
        cfg = config(scale / "x" / "digits-aliased" / method / "seed-0", method=method,
                     task="digits-aliased", seed=(0,))  # fmt: skip
        train.train(cfg)
        rows = rows_of(cfg)
        scores[method] = [rows.of(metric=m).value() for m in ("score", "train_loss")]
        assert rows.of(metric="spread").value() == pytest.approx(0, abs=1e-5)
    for found in scores.values():
        assert found == pytest.approx(scores["last"], rel=1e-4)
    cfg = config(tmp_path / "spoiled", task="digits-spoiled", trajectories=snapshots, seed=(0,))
    opened = train.opened(cfg, 0, CPU)
    clean = train.opened(config(tmp_path, trajectories=snapshots), 0, CPU)
    assert len(opened.hit) == 2
    for i, (w, v) in enumerate(zip(opened.theta, clean.theta, strict=True)):
        assert w.equal(v) == (i not in opened.hit)
        if i in opened.hit:
            assert float((w - v).norm() / v.norm()) == pytest.approx(1.5, rel=1e-4)


def test_online_training_goes_on_from_the_average(tmp_path: Path) -> None:
    scale = tmp_path / "scale"
    folder = scale / "trajectory" / "digits" / "online-lawa" / "seed-0"
    cfg = TrajectoryConfig(out=folder, method="online-lawa", k=4, K=4, interval=3)
    trajectory.train(cfg)
    assert Run.load(folder).final()["window"]["taken"] == 0  # 24 steps: twice four
    own = config(scale / "train" / "digits" / "lawa-online" / "seed-0", method="lawa-online",
                 seed=(0,))  # fmt: skip
    train.train(own)
    assert rows_of(own).of(metric="spread").value() == pytest.approx(0, abs=1e-6)


def test_neighbouring_data_sets(tmp_path: Path) -> None:
    one, other = neighbours.data(30, 0)
    assert (one[0] != other[0]).any(1).sum() == 1
    w = neighbours.iterates(one, 40, 0)
    torch.testing.assert_close(w, neighbours.iterates(one, 40, 0))
    small = {"steps": 40, "k": 6, "K": 2, "iterations": 3, "n": 30, "seed": (0, 1)}
    found = {}
    for method in ("last", "all", "sewa"):
        cfg = NeighboursConfig(out=tmp_path / method, method=method, **small)  # type: ignore[arg-type]
        neighbours.train(cfg)
        found[method] = rows_of(cfg)
    theta = [neighbours.iterates(pair, 40, 0) for pair in neighbours.data(30, 0)]
    mean = float((theta[0][-6:].mean(0) - theta[1][-6:].mean(0)).norm())
    values = found["all"].of(metric="apart", of="last").values()
    assert values[0] == pytest.approx(mean, rel=1e-5)
    assert len(found["sewa"].of(metric="same", of="half").values()) == 2
    for changes in ({"K": 9}, {"method": "twa"}, {"task": "digits"}):
        with pytest.raises(UserError):
            neighbours.train(NeighboursConfig(out=tmp_path / "bad", **{**small, **changes}))  # type: ignore[arg-type]


# -- tasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["bc-hopper", "digits", "text"])
def test_a_gpu_has_the_cpus_rows(task: str, tmp_path: Path) -> None:
    folder = tmp_path / "trajectory"
    trajectory.train(TrajectoryConfig(task=task, out=folder / "seed-0", steps=16, k=4))
    cfg = config(tmp_path / "run", task=task, trajectories=folder, seed=(0,), iterations=2)
    same_on_both(train, evaluation, cfg, tmp_path / "both")


def test_a_gpu_trains_as_the_cpu(tmp_path: Path) -> None:
    from tests.fake_cuda import fake_cuda

    cfg = TrajectoryConfig(out=tmp_path / "cpu", method="online", iterations=1, samples=1)
    trajectory.train(cfg)
    with fake_cuda():
        trajectory.train(TrajectoryConfig(out=tmp_path / "cuda", method="online", iterations=1,
                                          samples=1, device="cuda"))  # fmt: skip
    a, b = (Run.load(tmp_path / name).final()["model"] for name in ("cpu", "cuda"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_works_are_those_of_their_seed() -> None:
    for name in ("digits", "text", "bc-hopper"):
        task = TASKS[name]
        one, again, other = (task.make(task, seed, CPU) for seed in (0, 0, 1))
        assert flat(one.model).equal(flat(again.model)) != flat(one.model).equal(flat(other.model))
        batches = [w.train.take(torch.arange(4)) for w in (one, again, other)]
        assert batches[0][0].equal(batches[1][0]) and not batches[0][0].equal(batches[2][0])
        parts = [w.take(torch.arange(2))[0] for w in (one.train, one.held, one.test)]
        assert not parts[0].equal(parts[1]) and not parts[1].equal(parts[2])


def test_a_share_of_the_labels_is_wrong() -> None:
    labels = np.arange(4000) % 10
    found = images.noisy(labels, 0.2, np.random.default_rng(0))
    assert (found != labels).mean() == pytest.approx(0.2, abs=0.02) and found.max() == 9


def test_the_expert_hops_and_the_bad_file_is_refused(tmp_path: Path) -> None:
    teacher = expert.load()
    assert np.abs(teacher.act(np.full((2, 11), 100.0))).max() == 1
    act = lambda x, _: teacher.act(x)  # noqa: E731
    found = cloning.rollout(cloning.hopper, act, [0, 1], 60)
    nothing = cloning.rollout(cloning.hopper, lambda x, _: np.zeros((2, 3)), [0, 1], 60)
    assert found.min() > 60 and found.mean() > nothing.mean()
    assert cloning.rollout(cloning.hopper, act, [1], 60)[0] == found[1]
    for content in ("{}", '{"weights": [[1]], "mean": [0], "std": [1]}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match="no linear policy"):
            expert.load(tmp_path / "bad.json")
    with pytest.raises(UserError, match="there is no expert"):
        expert.load(tmp_path / "none.json")
    expert.search(expert.SearchConfig(tmp_path / "new.json", iterations=1, directions=2, best=1))
    assert expert.load(tmp_path / "new.json").weights.any()


def test_windows_of_recorded_episodes() -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for n in (3, 5):
        parts = (rng.random((n + 1, 2)), rng.random((n, 1)), np.arange(1, n + 1))
        flags = np.zeros(n, bool)
        episodes.append(Episode(*(p.astype(np.float32) for p in parts), flags, flags))
    found = cloning.windows_of(episodes, 4, 10.0, torch.zeros(2), torch.ones(2))
    assert len(found) == 8
    states, actions, to_go, times, real, wanted = found.take(torch.tensor([1, 7]))
    assert real.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]] and wanted.equal(actions)
    assert times.tolist() == [[0, 0, 0, 1], [1, 2, 3, 4]]
    assert to_go[0, :, 0].tolist() == pytest.approx([0, 0, 0.6, 0.5])
    assert states[0, 2].tolist() == pytest.approx(episodes[0].observations[0].tolist())
    call = lambda *inputs: wanted + 1.0  # noqa: E731
    batch = (states, actions, to_go, times, real, wanted)
    assert float(cloning.dt_loss(call, batch)) == pytest.approx(1)


def test_crops_and_mirrors_keep_the_pixels() -> None:
    pixels = torch.arange(3 * 32 * 32).reshape(1, 3, 32, 32).remainder(251).to(torch.uint8)
    data = images.Augmented(pixels, torch.tensor([5]))
    plain, label = data.take(torch.tensor([0, 0]))
    assert label.tolist() == [5, 5] and plain[0].equal(plain[1])
    seen = data.take(torch.zeros(200, dtype=torch.long), torch.Generator().manual_seed(0))[0]
    same = [i for i in range(200) if seen[i].equal(plain[0]) or seen[i].equal(plain[0].flip(-1))]
    assert len(same) < 20
    inner = [seen[i, :, 4:28, 4:28].ne(0).float().mean() for i in range(20)]
    assert min(inner) > 0.99


# -- use and misuse -------------------------------------------------------------------------------


def test_a_model_can_be_loaded(snapshots: Path, tmp_path: Path) -> None:
    cfg = config(snapshots.parents[2] / "train" / "digits" / "sewa" / "seeds-0-1")
    train.train(cfg)
    rows = rows_of(cfg)
    model = sewa.load(cfg.out, 1)
    assert len(model.chosen) == 3
    assert model.measure()["score"] == rows.of(metric="score", seed=1).value()
    pixels, labels = model.examples(5)
    assert model.predict(pixels).shape == (5, 10) and len(labels) == 5
    assert np.array_equal(sewa.load(cfg.out).predict(pixels), sewa.load(cfg.out, 0).predict(pixels))
    with pytest.raises(UserError, match="inputs are batches of"):
        model.predict(np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match="seeds"):
        sewa.load(cfg.out, 7)
    with pytest.raises(UserError, match="no run directory"):
        sewa.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="no run directory"):
        train.train(config(tmp_path / "a" / "b" / "c" / "d" / "e"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "online-sewa"}, "did you mean"),
        ({"task": "digit"}, "did you mean digits"),
        ({"task": "digits-spoiled"}, "uses the training of digits"),
        ({"steps": 0}, "1 or more"),
        ({"k": 20}, "want more than"),
        ({"method": "online", "K": 9}, "--K is 1 to"),
        ({"decay": 1.0}, "in \\[0, 1\\)"),
    ],
)
def test_trainings_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        of_training(TrajectoryConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "sewaa"}, "did you mean sewa"),
        ({"task": "hopper"}, "did you mean bc-hopper|unknown task"),
        ({"lr": 0.0}, "--lr is positive"),
        ({"tau": -1.0}, "--tau is positive"),
        ({"iterations": 0}, "1 or more"),
        ({"window": 0.0}, "share of the snapshots"),
        ({"seed": (1, 1)}, "different seeds"),
    ],
)
def test_choices_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        selection_of(Config(**changes))


def test_rates_are_the_methods_unless_one_is_asked_for() -> None:
    assert selection_of(Config(method="twa")).lr == METHODS["twa"].lr != METHODS["sewa"].lr
    assert selection_of(Config(method="twa", lr=0.5)).lr == 0.5
