"""Data sets on disk: Minari reads what is written, the cache notices damage and changes."""

import numpy as np
import pytest

from common.control import episodes as module
from common.control.episodes import Episode, cached_episodes, load_minari, read_minari, write_minari
from common.errors import UserError

ID = "repro/stand-in/counter-v3/noisy-v0"


def make_episodes(lengths=(3, 5), seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for T in lengths:
        ends = np.zeros(T, bool)
        ends[-1] = True
        made.append(
            Episode(
                rng.normal(size=(T + 1, 4)).astype(np.float32),
                rng.uniform(-1, 1, (T, 2)).astype(np.float32),
                rng.normal(size=T).astype(np.float32),
                np.zeros(T, bool),
                ends,
                {"success": ends, "gain": np.full(T, 0.5, np.float32)},
            )
        )
    return made


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert a.infos.keys() == b.infos.keys()
        assert all(np.array_equal(a.infos[k], b.infos[k]) for k in a.infos)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path))
    return tmp_path


class Generator:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return make_episodes(), {"success_rate": {"1": 0.5}}


@pytest.mark.filterwarnings("ignore")
def test_minari_reads_what_is_written(tmp_path, monkeypatch):
    made = make_episodes()
    write_minari(tmp_path / ID, ID, made, {"generator": {"name": "counter"}})
    assert_same(read_minari(tmp_path / ID)[0], made)

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    import minari

    dataset = minari.load_dataset(ID)
    assert dataset.total_episodes == 2 and dataset.total_steps == 8
    for there, here in zip(dataset.iterate_episodes(), made, strict=True):
        assert np.array_equal(there.observations, here.observations)
        assert np.array_equal(there.actions, here.actions)
        assert there.infos["gain"][0] == np.float32(0.5)


def test_a_second_call_reads_and_another_configuration_is_another_data_set(cache):
    generate = Generator()
    first, metadata = cached_episodes(ID, {"gain": 0.5}, generate, libraries=["numpy"])
    again, _ = cached_episodes(ID, {"gain": 0.5}, generate, libraries=["numpy"])
    assert generate.calls == 1
    assert_same(first, again)
    assert metadata["generator"] == {"gain": 0.5}
    assert metadata["libraries"]["numpy"] == np.__version__
    assert metadata["success_rate"] == {"1": 0.5}
    _, other = cached_episodes(ID, {"gain": 0.6}, generate, libraries=["numpy"])
    assert generate.calls == 2
    assert other["config_hash"] != metadata["config_hash"]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_noticed_and_the_data_made_again(cache, harm):
    generate = Generator()
    first, metadata = cached_episodes(ID, {}, generate)
    path = cache / "minari" / metadata["config_hash"] / ID / "data" / module.MAIN_FILE
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    again, _ = cached_episodes(ID, {}, generate)
    assert generate.calls == 2
    assert_same(first, again)


def test_an_interrupted_generation_leaves_nothing_behind(cache):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_episodes(ID, {}, interrupted)
    generate = Generator()
    cached_episodes(ID, {}, generate)
    assert generate.calls == 1
    assert not list(cache.rglob(".new-*"))


def test_published_data_come_from_papers_data_or_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "home"))
    made = make_episodes()
    write_minari(
        tmp_path / "data" / "minari" / "D4RL/door/expert-v2", "D4RL/door/expert-v2", made, {}
    )
    assert_same(load_minari("D4RL/door/expert-v2")[0], made)

    import minari

    def no_network(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(minari, "download_dataset", no_network)
    with pytest.raises(UserError, match=r"minari download D4RL/pen.*\$PAPERS_DATA/minari/D4RL/pen"):
        load_minari("D4RL/pen/expert-v2")


def test_a_damaged_published_data_set_is_named(tmp_path):
    write_minari(tmp_path / ID, ID, make_episodes(), {})
    (tmp_path / ID / "data" / module.MAIN_FILE).write_bytes(b"not HDF5")
    with pytest.raises(UserError, match="damaged"):
        read_minari(tmp_path / ID)


def test_observations_in_parts_are_put_together_as_asked(tmp_path):
    import h5py

    made = make_episodes()
    write_minari(tmp_path / ID, ID, made, {})
    with h5py.File(tmp_path / ID / "data" / module.MAIN_FILE, "r+") as file:
        for name in ("episode_0", "episode_1"):
            whole = file[name]["observations"][:]
            del file[name]["observations"]
            group = file[name].create_group("observations")
            group["observation"], group["desired_goal"] = whole[:, :3], whole[:, 3:]
            group["achieved_goal"] = whole * 0
    episodes, _ = read_minari(tmp_path / ID, ("observation", "desired_goal"))
    assert_same(episodes, made)
    episodes, _ = read_minari(tmp_path / ID, ("desired_goal", "observation"))
    assert np.array_equal(episodes[1].observations[:, 1:], made[1].observations[:, :3])
    with pytest.raises(
        UserError, match="achieved_goal, desired_goal, observation; .* none of them"
    ):
        read_minari(tmp_path / ID)
    with pytest.raises(UserError, match="asked for was 'velocity'"):
        read_minari(tmp_path / ID, ("velocity",))
