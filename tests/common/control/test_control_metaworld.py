"""Meta-World: the fast path is Meta-World itself, episodes do not influence each other."""

import numpy as np
import pytest

from common.control import metaworld
from common.control.clouds import Camera, PointCloud, farthest_points
from common.control.lockstep import rollout
from common.control.metaworld import DemoConfig, TaskSimulator, demonstrations

pytest.importorskip("metaworld", reason="needs the extra 'control'")


@pytest.fixture(scope="module")
def box_close():
    return TaskSimulator("box-close-v3")  # its reset moves a body of the model


@pytest.fixture(scope="module")
def soccer():
    return TaskSimulator("soccer-v3")


def wiggle(seed):
    """Actions that depend on the observation: equal courses mean equal observations."""

    def policy(history, active):
        angle = 40.0 * history[:, -1, :4] + seed
        steps = np.arange(8)[None, :, None]
        return np.sin(angle[:, None] + 0.3 * steps).astype(np.float32)

    return policy


def course(episodes, limit=24):
    seen = [[e.obs] for e in episodes]

    def track(episode):
        seen[episodes.index(episode)].append(episode.obs)
        return episode.obs[:3]

    done = rollout(
        episodes,
        wiggle(0.5),
        lambda e: e.obs,
        obs_frames=2,
        execute=4,
        limit=limit,
        track=track,
        tracked=len(episodes),
    )
    return done, [np.stack(s) for s in seen]


@pytest.mark.parametrize("task", ["box-close-v3", "push-back-v3", "soccer-v3", "hammer-v3"])
def test_an_episode_is_the_one_of_meta_worlds_own_environment(task):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    simulator = TaskSimulator(task)
    other = simulator.evaluation(8)
    episode = simulator.evaluation(7)

    env = ALL_V3_ENVIRONMENTS[task]()
    env._partially_observable = False
    env.__dict__.pop("sawyer_observation_space", None)
    env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
    env.np_random = np.random.default_rng(metaworld.episode_seed(task, 2, 7))
    obs, _ = env.reset()
    assert np.array_equal(episode.obs, obs.astype(np.float32))
    rng = np.random.default_rng(0)
    for k in range(30):
        action = rng.uniform(-1, 1, 4)
        obs, reward, _, _, info = env.step(action)
        episode.step(action)
        if k % 7 == 0:
            other.step(-action)  # the episode beside it moves bodies of the shared model
        assert np.array_equal(episode._exact_obs, obs)
        assert episode.reward == reward
        assert episode.success == bool(info["success"] > 0)


@pytest.mark.filterwarnings("ignore:Constant")
def test_touching_is_meta_worlds_own():
    """The array version of touching_object agrees with the loops, in contact and out of it."""
    from metaworld.policies import ENV_POLICY_MAP
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

    simulator = TaskSimulator("push-v3")
    episode, expert = simulator.demonstration(0), ENV_POLICY_MAP["push-v3"]()
    env = episode._env
    main = env._get_id_main_object()
    found = []
    for _ in range(70):
        episode.step(np.clip(expert.get_action(episode._exact_obs), -1, 1))
        found.append(env.touching_object(main))
        assert found[-1] == SawyerXYZEnv.touching_object(env, main)
    assert any(found) and not all(found)


def test_a_batch_of_many_is_many_batches_of_one_and_reruns_are_bit_identical(box_close):
    together, seen = course([box_close.evaluation(i) for i in range(4)])
    again, seen_again = course([box_close.evaluation(i) for i in range(4)])
    for a, b in zip(seen, seen_again, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(together.steps, again.steps)
    for i in (3, 1):  # in another order, too
        alone, seen_alone = course([box_close.evaluation(i)])
        assert np.array_equal(seen_alone[0], seen[i])
        assert alone.success[0] == together.success[i]


def test_evaluation_starts_differ_from_demonstrations_and_from_each_other(box_close):
    starts = [box_close.evaluation(i).obs for i in range(3)]
    starts += [box_close.demonstration(i, stream).obs for i in range(3) for stream in (0, 1)]
    assert len({s.tobytes() for s in starts}) == len(starts)


def test_the_goal_is_in_the_observation():
    simulator = TaskSimulator("reach-v3")
    goals = np.stack([simulator.evaluation(i).obs[36:] for i in range(4)])
    assert (goals != 0).all() and len(np.unique(goals[:, 0])) == 4


def test_demonstrations_are_successes_of_both_gains_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path))
    calls = []
    generate = metaworld.generate
    monkeypatch.setattr(metaworld, "generate", lambda c: calls.append(c) or generate(c))
    config = DemoConfig("reach-v3", episodes=6)
    episodes, metadata = demonstrations(config)
    again, _ = demonstrations(config)
    assert len(calls) == 1
    for a, b in zip(episodes, again, strict=True):
        assert np.array_equal(a.observations, b.observations)
    assert len(episodes) == 6
    assert [float(e.infos["gain"][0]) for e in episodes] == [0.5, 1.0] * 3
    sigmas = [float(e.infos["sigma"][0]) for e in episodes]
    assert 0 <= min(sigmas) < max(sigmas) <= 0.2
    for e in episodes:
        assert e.infos["success"][-1] and len(e) <= config.limit
        assert (~e.infos["success"]).sum() + 1 + config.tail == len(e)
        assert np.abs(e.actions).max() <= 1
    slow = np.mean([len(e) for e in episodes[::2]])
    assert slow > 1.4 * np.mean([len(e) for e in episodes[1::2]])  # half the speed, longer paths
    assert set(metadata["success_rate"]) == {"0.5", "1"}
    fresh, _ = generate(config)
    for a, b in zip(episodes, fresh, strict=True):
        assert np.array_equal(a.observations, b.observations)
        assert np.array_equal(a.actions, b.actions)
    demonstrations(DemoConfig("reach-v3", episodes=6, stream=1))
    assert len(calls) == 2


def test_clouds_lie_in_the_workspace_see_the_object_and_are_deterministic(soccer):
    config = PointCloud()
    camera = Camera(config)
    episode, other = soccer.evaluation(0), soccer.evaluation(1)
    cloud = episode.cloud(camera)
    assert cloud.shape == (config.points, 3) and cloud.dtype == np.float32
    assert (cloud >= np.asarray(config.low, np.float32)).all()
    assert (cloud <= np.asarray(config.high, np.float32)).all()
    for who in (episode, other):
        ball = who.obs[4:7]
        distances = np.linalg.norm(who.cloud(camera) - ball, axis=-1)
        assert distances.min() < 0.04, "no point of the ball is in the cloud"
        hand = who.obs[:3]
        assert np.linalg.norm(who.cloud(camera) - hand, axis=-1).min() < 0.08
    assert np.array_equal(episode.cloud(camera), cloud)  # after the other one's turn


def test_farthest_points_spread_out_and_repeat_if_there_are_few():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.01, (200, 3)), [[5.0, 0, 0], [0, 5.0, 0]]])
    chosen = farthest_points(points, 3)
    assert {200, 201} <= set(chosen.tolist())
    assert farthest_points(points[:3], 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
