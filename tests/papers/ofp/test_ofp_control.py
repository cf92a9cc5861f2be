"""Experiments B and C and the paper-scale tasks behind the interface of interface.py, made tiny."""

from dataclasses import replace

import numpy as np
import pytest

from common.control.episodes import Episode, write_minari
from common.errors import UserError
from papers.ofp import demos, metaworld_tasks
from papers.ofp.metaworld_tasks import ADROIT, MULTI_TASK, make_metaworld_task, setups
from papers.ofp.task import make_task

pytest.importorskip("metaworld", reason="needs the extra 'control'")


class RowwisePolicy:
    """Deterministic; a row's chunk depends on the network's number and the row's observation."""

    def __init__(self, horizon, action_dim, first_network=0):
        self.shape, self.first = (horizon, action_dim), first_network
        self.resets, self.shapes = [], []

    def reset(self, n_episodes):
        self.resets.append(n_episodes)

    def __call__(self, obs, active):
        self.shapes.append((obs.shape, active.shape))
        S, E = active.shape
        networks = np.arange(self.first, self.first + S)[:, None, None]
        angle = obs[:, :, : self.shape[1]] + networks
        steps = np.arange(self.shape[0])[None, None, :, None]
        return np.sin(3 * angle[:, :, None] + steps).astype(np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERS_CACHE", str(folder))
        patch.setattr(metaworld_tasks, "VALIDATION", 1)  # more demonstrations take only time
        yield folder


@pytest.fixture(scope="module")
def task_b(cache):
    return make_metaworld_task("metaworld", (0, 1), tasks=("reach-v3", "soccer-v3"), demos=2)


@pytest.fixture(scope="module")
def task_c(cache):
    return make_metaworld_task("pointcloud", (0,), tasks=("coffee-button-v3",), demos=2, limit=80)


def test_b_is_the_experiment_of_the_paper_page():
    setup = setups()["metaworld"]
    assert setup.tasks == MULTI_TASK and len(MULTI_TASK) == 5
    assert (setup.demos, setup.obs_frames, setup.horizon, setup.execute) == (20, 2, 8, 4)
    large = setups()["dp3-metaworld"]
    assert len(set(large.tasks)) == 49
    assert (large.demos, large.gains, large.noise) == (10, (1.0,), 0.0)


def test_windows_of_b_are_standardised_and_carry_the_one_hot(task_b):
    obs, actions = task_b.windows(0)
    assert obs.shape[1:] == (task_b.obs_dim,) == (2 * (39 + 2),)
    assert actions.shape[1:] == (8, 4) and len(obs) == len(actions)
    assert obs.dtype == actions.dtype == np.float32
    # standardised over the frames; windows repeat the first frame, so not exactly
    assert np.abs(obs.mean(0)).max() < 0.1
    assert np.abs(actions).max() <= 1 and actions.max() == 1
    one_hot = obs.reshape(len(obs), 2, -1)[:, :, -2:]
    assert len(np.unique(one_hot.reshape(-1, 2), axis=0)) == 2
    assert len(task_b.windows(0, "val")[0]) > 0


def test_training_seeds_have_demonstrations_of_their_own(task_b, cache):
    assert task_b.windows(0)[0].shape != task_b.windows(1)[0].shape
    again = make_metaworld_task("metaworld", (1,), tasks=("reach-v3", "soccer-v3"), demos=2)
    for here, there in zip(task_b.windows(1), again.windows(1), strict=True):
        assert np.array_equal(here, there)
    assert set(task_b.expert_success[0]["reach-v3"]) == {"0.5", "1"}


def test_rollouts_do_not_depend_on_their_company(task_b, cache, monkeypatch):
    short = replace(task_b.setup, limit=40)
    monkeypatch.setattr(task_b, "setup", short)
    policy = RowwisePolicy(8, 4)
    together = task_b.rollout(policy, [1, 2, 3], record=2)
    assert policy.resets == [6]
    assert policy.shapes[0] == ((2, 6, task_b.obs_dim), (2, 6))
    assert together["success"].shape == together["steps"].shape == (2, 6)
    assert together["task"].tolist() == ["reach-v3"] * 3 + ["soccer-v3"] * 3
    assert together["paths"].shape == (2, 2, task_b.setup.limit + 1, 3)
    assert len(policy.shapes) == -(-int(together["steps"].max()) // 4)
    again = task_b.rollout(RowwisePolicy(8, 4), [1, 2, 3], record=2)
    assert np.array_equal(together["paths"], again["paths"], equal_nan=True)

    alone = make_metaworld_task("metaworld", (1,), tasks=("reach-v3", "soccer-v3"), demos=2)
    alone.setup = short
    single = alone.rollout(RowwisePolicy(8, 4, first_network=1), [2], record=2)
    assert np.array_equal(single["success"][0], together["success"][1, [1, 4]])
    assert np.array_equal(single["steps"][0], together["steps"][1, [1, 4]])
    assert np.array_equal(single["paths"][0, 0], together["paths"][1, 1], equal_nan=True)


@pytest.mark.filterwarnings("ignore:Constant")
def test_replaying_a_demonstration_through_the_interface_succeeds(task_b, monkeypatch):
    """Normalisation and its inverse, padding and receding horizon: the expert's chunks succeed."""
    from metaworld.policies import ENV_POLICY_MAP

    monkeypatch.setattr(task_b, "setup", replace(task_b.setup, limit=80))
    data = task_b._data[0]
    expert = ENV_POLICY_MAP["reach-v3"]()

    class Expert:
        def reset(self, n):
            pass

        def __call__(self, obs, active):
            frames = obs.reshape(*obs.shape[:2], 2, -1)[:, :, -1]
            raw = frames * data.scale_obs.std + data.scale_obs.mean
            wanted = [[expert.get_action(row[:39]) for row in rows] for rows in raw]
            chunk = np.repeat(np.asarray(wanted)[:, :, None], 8, 2).clip(-1, 1)
            return data.scale_actions(chunk)

    result = task_b.rollout(Expert(), [0, 1, 2])
    assert result["success"][0, :3].all()  # reach; 4 equal steps at a time are good enough


def test_c_sees_clouds_in_one_scale_and_beside_them_only_the_gripper(task_c):
    obs, actions = task_c.windows(0)
    assert task_c.obs_dim == 3 * task_c.points + 8 == obs.shape[1]
    cloud = obs[:, : 3 * task_c.points].reshape(len(obs), -1, 3)
    assert np.abs(cloud.reshape(-1, 3).mean(0)).max() < 0.1
    assert 0.3 < cloud.reshape(-1, 3).std(0).min() and cloud.reshape(-1, 3).std(0).max() < 2
    result = task_c.rollout(RowwisePolicy(8, 4), [0, 1])
    assert result["success"].shape == (1, 2)


def test_paper_scale_tasks_share_the_code(cache):
    from common.control.clouds import PointCloud

    cloud = PointCloud(points=16, resolution=12)
    task = make_metaworld_task(
        "dp3-metaworld", (0,), tasks=("coffee-button-v3", "reach-v3"), demos=1, cloud=cloud
    )
    assert (task.obs_frames, task.horizon, task.execute) == (2, 4, 3)
    assert task.obs_dim == 2 * (3 * 16 + 8 + 2)
    assert task.expert_success[0]["reach-v3"].keys() == {"1"}
    with pytest.raises(UserError, match="SAPIEN"):
        make_task("dp3-dexart", (0,))


class StandInHand:
    """An Adroit-like gymnasium environment: solved when the first action is above 0.2."""

    def reset(self, seed):
        self.obs = np.random.default_rng(seed).normal(size=5)
        return self.obs, {}

    def step(self, action):
        self.obs = 0.9 * self.obs
        return self.obs, 0.0, False, False, {"success": action[0] > 0.2}

    def close(self):
        pass


def test_adroit_reads_minari_data_in_papers_data(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    monkeypatch.setattr(metaworld_tasks, "VALIDATION", 4)
    rng = np.random.default_rng(0)

    def episode(success, T=9):
        ends = np.arange(T) == T - 1
        return Episode(
            rng.normal(size=(T + 1, 5)).astype(np.float32),
            rng.uniform(-0.5, 0.5, (T, 3)).astype(np.float32),
            np.zeros(T, np.float32),
            np.zeros(T, bool),
            ends,
            {"success": ends & success},
        )

    dataset = ADROIT["pen"][0]
    made = [episode(i % 3 > 0) for i in range(9)]
    write_minari(tmp_path / "minari" / dataset, dataset, made, {})
    task = make_metaworld_task("dp3-adroit-pen", (0, 1), demos=4, limit=8, make_env=StandInHand)
    obs, actions = task.windows(1)
    assert obs.shape == (4 * 9, 2 * 5) and actions.shape == (4 * 9, 4, 3)
    assert len(task.windows(0, "val")[0]) == 2 * 9  # six of nine episodes are successes
    assert np.abs(actions).max() == 1
    result = task.rollout(RowwisePolicy(4, 3), [5, 6, 7])
    assert result["success"].shape == result["steps"].shape == (2, 3)
    assert result["steps"].max() <= 8
    with pytest.raises(UserError, match="6 successful episodes of 7 needed"):
        make_metaworld_task("dp3-adroit-pen", (0,), demos=7)


def test_adroit_without_data_says_what_to_get(tmp_path, monkeypatch):
    import minari

    def no_network(*_, **__):
        raise ConnectionError

    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(minari, "download_dataset", no_network)
    with pytest.raises(UserError, match=r"D4RL/hammer/expert-v2 is missing.*PAPERS_DATA/minari"):
        make_task("dp3-adroit-hammer", (0,))


def test_the_data_stage_reports_the_expert_and_ends(cache, tmp_path, monkeypatch, capsys):
    small = replace(setups()["metaworld"], tasks=("reach-v3", "soccer-v3"), demos=2)
    monkeypatch.setattr(metaworld_tasks, "setups", lambda: {"metaworld": small})
    cfg = demos.Config(seed=(0, 1), out=tmp_path / "run")
    demos.make(cfg)
    assert "seed 1  expert_success/soccer-v3/gain-0.5" in capsys.readouterr().out
    demos.make(cfg)  # finished: nothing to do
    assert capsys.readouterr().out == ""
