"""The three stages on a stand-in: they find each other, go on after a kill, and are fair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import papers.ovmse as ovmse
from common import files
from common.errors import UserError
from common.marl import datasets
from common.marl.episodes import outcomes
from common.run import Run
from papers.ovmse import chain, data, generate, pretrain, task, train
from papers.ovmse.config import ChainConfig, Config, DataConfig, OfflineConfig
from papers.ovmse.eval import EvalConfig, binned, evaluate, relative, steps_to
from papers.ovmse.learning import Q_OFF
from papers.ovmse.method import memory
from papers.ovmse.methods import METHODS
from papers.ovmse.networks import Values
from tests.papers.ovmse import stand_in

torch.set_num_threads(1)
ONLINE = [m.name for m in METHODS.values() if m.stage == "online"]


def online(scale: Path, method: str = "ovmse", name: str = "", **changes: Any) -> Config:
    out = scale / (name or "online") / "3m-medium" / method / "seed-0"
    return Config(method=method, out=out, **{**stand_in.ONLINE, **changes})


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, x in tree.items() for k, v in flat(x, f"{name}/{key}").items()}
    return {name: tree} if isinstance(tree, torch.Tensor) else {}


def rows_of(out: Path) -> dict[str, Any]:
    evaluate(EvalConfig(run=out))
    return {row["metric"]: row["value"] for row in files.read_json(out / "eval.json")["rows"]}


# -- stage 1 and 2 --------------------------------------------------------------------------------


def test_the_data_sets_of_a_behaviour(earlier: Path) -> None:
    folder = earlier / "data" / "3m" / "qmix" / "seed-0"
    sets = {quality: datasets.read(folder / f"{quality}.npz") for quality in task.QUALITIES}
    for quality, (episodes, header) in sets.items():
        assert header.task == "smax:3m" and header.seed == 10_000, quality
        assert header.win_rate == outcomes(episodes).won.mean()
        assert (header.epsilon is None) == (quality == "replay")
    assert sets["medium"][1].episodes == 12 and sets["medium"][1].checkpoint >= 60
    # half medium, half expert
    mixed = sets["mixed"][0]
    for i, whole in ((0, "medium"), (6, "expert")):
        origin = sets[whole][0][0]
        assert np.array_equal(mixed[i]["actions"], origin["actions"])
    rows = rows_of(folder)
    assert rows["data_episodes"] == 12 and len(rows["behaviour_win_rate"]) == 2


def test_a_behaviour_that_is_never_medium_is_refused(tmp_path: Path, corridor: None) -> None:
    cfg = DataConfig(out=tmp_path / "d", **{**stand_in.DATA, "low": 0.98, "high": 0.99})
    with pytest.raises(UserError, match="win rate from 0.98 to 0.99.*--seed"):
        generate.train(cfg)
    assert not list(cfg.out.glob("*.npz"))


def test_seeds_of_episodes_are_never_shared() -> None:
    seeds = [
        task.episode_seed(purpose, seed, number)
        for purpose in task.PURPOSES
        for seed in (0, 1, 2_000)
        for number in (0, 1, 9_999)
    ]
    assert len(set(seeds)) == len(seeds)
    streams = [task.stream(s, seed) for s in ("data", "offline", "online") for seed in range(5_000)]
    assert len(set(streams)) == len(streams)


def test_cloning_ends_when_it_does_not_improve(earlier: Path) -> None:
    out = earlier / "clone" / "3m-medium" / "bc" / "seed-1"
    values = {**stand_in.OFFLINE, "updates": 400, "patience": 2, "lr": 0.0}
    path = earlier / "data" / "3m" / "qmix" / "seed-0" / "medium.npz"
    pretrain.train(OfflineConfig(method="bc", seed=1, out=out, data=path, **values))
    assert Run.load(out).metrics()[-1]["step"] < 400
    assert "offline_final" in rows_of(out) and "offline_gap" not in rows_of(out)


@pytest.mark.parametrize("method", ["cfcql-moderate", "macql"])
def test_offline_methods_go_on_where_they_were(
    earlier: Path, whole_and_cut: Any, method: str
) -> None:
    folder = earlier / "clone" / "3m-medium" / "bc" / "seed-0"
    path = earlier / "data" / "3m" / "qmix" / "seed-0" / "medium.npz"
    cfg = OfflineConfig(method=method, data=path, clone=folder, **stand_in.OFFLINE)
    whole, cut = whole_and_cut(pretrain.train, cfg, 5)
    one, other = flat(whole["values"]), flat(cut["values"])
    assert one and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_behaviour_goes_on_where_it_was(corridor: None, whole_and_cut: Any) -> None:
    cfg = DataConfig(until="expert", **stand_in.DATA)
    whole, cut = whole_and_cut(generate.train, cfg, 1)
    one, other = flat(whole["values"]), flat(cut["values"])
    assert one and all(torch.equal(value, other[name]) for name, value in one.items())


# -- stage 3 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ovmse", "mix-50", "keep-cql"])
def test_online_goes_on_where_it_was(earlier: Path, whole_and_cut: Any, method: str) -> None:
    places = {
        "offline": earlier / "offline" / "3m-medium" / "cfcql" / "seed-0",
        "data": earlier / "data" / "3m" / "qmix" / "seed-0" / "medium.npz",
    }
    whole, cut = whole_and_cut(train.train, Config(method=method, **places, **stand_in.ONLINE), 3)
    one, other = flat(whole["values"]), flat(cut["values"])
    assert one and all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_method_is_treated_alike(earlier: Path) -> None:
    rows = {}
    for method in ONLINE:
        train.train(online(earlier, method))
        rows[method] = rows_of(online(earlier, method).out)
    starts = {name: found["start"] for name, found in rows.items() if name != "scratch"}
    assert len(set(starts.values())) == 1  # one offline policy, the same episodes
    for name, found in rows.items():
        assert 160 <= found["env_steps"] < 160 + 4 * 12, name
        rounds = found["env_steps"] / 4 / 12  # 4 updates after each but the first, at least
        assert found["updates"] >= 4 * (rounds - 1), name
        assert len(found["win_rate"]) == 9
    assert rows["ovmse"]["explorers_mean"] < rows["ovm-only"]["explorers_mean"]
    assert rows["ovmse-one"]["several_mean"] == 0
    assert rows["ovmse"]["lift_early"] > 0 and rows["se-only"]["lift_early"] == 0
    assert "probe_q" not in rows["scratch"]
    memory_weights = {m: rows[m]["memory"] for m in ("ovmse", "ovmse-fixed", "se-only")}
    assert memory_weights["ovmse-fixed"] == [0.9] * 8 and memory_weights["se-only"] == [0.0] * 8
    assert memory_weights["ovmse"][-1] == 0.0 < memory_weights["ovmse"][0] < 0.9


def test_without_memory_and_with_the_same_exploration_it_is_fine_tuning(earlier: Path) -> None:
    """SE with n epsilon is epsilon-greedy; OVM with weight 0 is none: bit for bit."""
    plain = online(earlier, "finetune-eps", epsilon=0.4, epsilon_end=0.2)
    ours = online(earlier, "ovmse", memory=0.0, epsilon=0.8, epsilon_end=0.4)
    train.train(plain)
    train.train(ours)
    one, other = (flat(Run.load(cfg.out).final()["values"]) for cfg in (plain, ours))
    assert one and all(torch.equal(value, other[name]) for name, value in one.items())
    third = online(earlier, "ovmse", "third", epsilon=0.8, epsilon_end=0.4)
    train.train(third)
    last = flat(Run.load(third.out).final()["values"])
    assert any(not torch.equal(value, last[name]) for name, value in one.items())


def test_the_offline_run_is_untouched_and_its_memory_cached_right(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = earlier / "offline" / "3m-medium" / "cfcql" / "seed-0"
    before = {path.name: files.sha256(path.read_bytes()) for path in folder.iterdir()}
    frozen_networks, seen = [], []
    freeze, draw = train.frozen, train.Batches.draw

    def freezing(values: Values) -> Values:
        frozen_networks.append(freeze(values))
        return frozen_networks[-1]

    def drawing(self: Any, *args: Any) -> Any:
        seen.append(draw(self, *args))
        return seen[-1]

    monkeypatch.setattr(train, "frozen", freezing)
    monkeypatch.setattr(train.Batches, "draw", drawing)
    train.train(online(earlier, "mix-50"))
    saved = Run.load(folder).final()["values"]
    offline = frozen_networks[0]
    assert all(torch.equal(saved[name], t) for name, t in offline.state_dict().items())
    for batch in (seen[0], seen[-1]):
        again = memory(offline, batch) * batch.filled
        torch.testing.assert_close(batch.extra[Q_OFF], again, atol=1e-5, rtol=1e-5)
    after = {path.name: files.sha256(path.read_bytes()) for path in folder.iterdir()}
    assert before == after


def test_explorers_are_counted_while_episodes_last(corridor: None) -> None:
    class Acted:
        explored = [np.array([[True, True], [True, False]])] * 3

    episodes: list[Any] = [
        {"reward": np.zeros(3), "alive": np.ones((4, 2), bool)},
        {"reward": np.zeros(1), "alive": np.array([[True, False], [True, True]])},
    ]
    found = train.explorers(Acted(), episodes)  # type: ignore[arg-type]
    assert found == {"explorers": pytest.approx(7 / 4), "several": pytest.approx(3 / 4)}


# -- where stages find each other, and what is refused --------------------------------------------


def test_places_with_and_without_a_grid(tmp_path: Path) -> None:
    scale = tmp_path / "scale"
    (scale / "offline" / "3m-medium" / "cfcql" / "seed-4").mkdir(parents=True)
    for out in ("online/3m-medium/ovmse/seed-4", "online/3m-medium/ovmse/memory=0.5/seed-4"):
        cfg = Config(out=scale / out, seed=4)
        assert task.offline_folder(cfg) == scale / "offline/3m-medium/cfcql/seed-4"
    assert data.data_file(Config(out=scale / "a/b/c/seed-4")) == (
        scale / "data/3m/qmix/seed-4/medium.npz"
    )


def test_what_is_refused(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean"):
        train.train(online(earlier, "ovmsee"))
    with pytest.raises(UserError, match="doesn't learn online"):
        train.train(online(earlier, "cfcql"))
    with pytest.raises(UserError, match="doesn't learn offline"):
        pretrain.train(OfflineConfig(method="ovmse", out=tmp_path / "o"))
    for name, match in (("3m", "names no data"), ("3m-good", "quality"), ("4m-medium", "map")):
        with pytest.raises(UserError, match=match):
            task.data_task(name)
    with pytest.raises(UserError, match="no run of cfcql.*pretrain"):
        train.train(replace(online(earlier), out=tmp_path / "x" / "y" / "z" / "w" / "seed-0"))
    place = earlier / "offline" / "3m-medium" / "cfcql" / "seed-0"
    with pytest.raises(UserError, match="seed 0; this run needs cfcql on 3m-medium, seed 7"):
        train.train(online(earlier, name="other", seed=7, offline=place))
    monkeypatch.delenv("PAPERS_DATA", raising=False)
    with pytest.raises(UserError, match=r"ovmse/2s3z_medium_replay.h5.*PAPERS_DATA"):
        data.data_file(Config(task="smac_2s3z-replay"))
    for wrong in (ChainConfig(method="mix-50"), ChainConfig(task="3m")):
        with pytest.raises(UserError, match="experiment on the chain"):
            chain.train(replace(wrong, out=tmp_path / "chain"))


def test_public_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py reads SMAC's data, at the paper's scale alone")
    rng = np.random.default_rng(0)
    B, T, N, A, lengths = 3, 5, 2, 4, [5, 2, 1]
    filled = (np.arange(T + 1) <= np.array(lengths)[:, None])[..., None].astype(np.int64)
    arrays = {
        "obs": rng.standard_normal((B, T + 1, N, 3)),
        "state": rng.standard_normal((B, T + 1, 7)),
        "avail_actions": np.ones((B, T + 1, N, A), np.int32) * (np.arange(A) > 0),
        "actions": rng.integers(1, A, (B, T + 1, N, 1)),
        "reward": rng.standard_normal((B, T + 1, 1)),
        "terminated": (np.arange(T + 1) == np.array(lengths)[:, None] - 1)[..., None],
        "filled": filled,
    }
    arrays["avail_actions"][1, 1, 0] = [1, 0, 0, 0]  # dead
    path = tmp_path / "ovmse" / "2s3z_medium.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    episodes = data.load(Config(task="smac_2s3z-medium"))
    assert [len(e["reward"]) for e in episodes] == lengths
    for b, episode in enumerate(episodes):
        n = lengths[b]
        assert episode["obs"].shape == (n + 1, N, 3) and episode["obs"].dtype == np.float32
        assert np.array_equal(episode["actions"], arrays["actions"][b, :n, :, 0])
        assert episode["terminated"].tolist() == [0.0] * (n - 1) + [1.0]
    assert not episodes[1]["alive"][1, 0] and episodes[1]["alive"].sum() == 5
    path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match="no data set of CFCQL's"):
        data.load(Config(task="smac_2s3z-medium"))


# -- evaluation and use ---------------------------------------------------------------------------


def test_summaries_by_hand() -> None:
    steps, wins = np.arange(6) * 10.0, np.array([0.4, 0.5, 0.7, 0.6, 0.5, 0.9])
    assert steps_to(steps, wins, 0.6, 99.0) == 30.0  # (.5 + .7 + .6) / 3
    assert steps_to(steps, wins, 0.7, 99.0) == 99.0
    assert relative(np.array([-2.0, -3.0, -1.0])).tolist() == [1.0, 0.5, 1.5]
    found = binned(np.array([1.0, 9.0, 35.0]), np.array([2.0, 4.0, 7.0]), np.arange(5) * 10.0)
    assert found.tolist() == [3.0, 3.0, 3.0, 7.0]


def test_a_team_can_be_loaded(earlier: Path) -> None:
    folder = earlier / "offline" / "3m-medium" / "cfcql" / "seed-0"
    team = ovmse.load(folder)
    obs = np.eye(6)[[3, 3]]
    first = team.act(obs)
    assert first.shape == (2,) and first.dtype == np.int64
    for avail in ([[True, False, False]] * 2, [[0, 0, 1], [0, 1, 0]]):
        assert team.act(obs, avail).tolist() == np.argmax(avail, -1).tolist()
    team.reset()
    assert np.array_equal(team.act(obs), first)
    for wrong, avail in ((np.zeros(6), None), (obs, np.zeros((2, 3))), (obs, [True])):
        with pytest.raises(UserError):
            team.act(wrong, avail)


def test_the_chain_as_a_run(tmp_path: Path) -> None:
    rows = {}
    for method in ("ovm-only", "finetune-eps", "finetune-small", "ovmse-fixed"):
        cfg = ChainConfig(method=method, seed=(0, 1), out=tmp_path / method, episodes=8)
        chain.train(cfg)
        rows[method] = rows_of(cfg.out)
        assert len(rows[method]["chain_value"]) == 9
    assert rows["ovm-only"]["chain_worst"] > 0.9 > rows["finetune-eps"]["chain_worst"]
    with pytest.raises(UserError, match="no team"):
        ovmse.load(tmp_path / "ovm-only")
