"""The environments, their exact soft values and the estimates of V."""

import numpy as np
import pytest

from papers.meow.multigoal import (
    GOALS,
    MultiGoal,
    midpoints,
    soft_value_iteration,
    transition,
)
from papers.meow.task import TASKS, Mujoco, MujocoReturns, make_environments, multigoal_paths


def test_reward_is_squared_distance_at_the_new_state_and_an_action_cost():
    moved, reward, reached = transition(np.array([1.0, 0.0]), np.array([0.5, -0.2]))
    np.testing.assert_allclose(moved, [1.5, -0.2])
    assert reward == pytest.approx(-30 * 0.29 - (3.5**2 + 0.04)) and not reached
    moved, reward, reached = transition(np.array([3.8, 0.0]), np.array([0.3, 0.0]))
    assert reward == pytest.approx(-30 * 0.09 - 0.9**2 + 10) and reached
    assert not transition(np.array([3.7, 0.0]), np.array([0.3, 0.0]))[2]  # at 1, not below
    np.testing.assert_allclose(transition(np.array([6.8, -6.9]), np.array([1.0, -1.0]))[0], [7, -7])


def test_episodes_restart_and_a_time_limit_is_no_termination():
    env = MultiGoal((0, 1), time_limit=3)
    first = env.reset()
    assert np.abs(first).max() < 0.6 and not np.array_equal(first[0], first[1])
    for _ in range(3):
        reached, _, terminated, after = env.step(np.array([[0.0, 0.0], [0.1, 0.0]]))
        assert not terminated.any()
    np.testing.assert_allclose(reached[1] - first[1], [0.3, 0.0])  # the true last observation
    assert not np.allclose(after, reached) and np.abs(after).max() < 0.6
    env.position[0] = (4.2, 0.0)
    reached, _, terminated, after = env.step(np.zeros((2, 2)))
    assert terminated.tolist() == [True, False]
    np.testing.assert_allclose(reached[0], [4.2, 0.0])
    assert np.abs(after[0]).max() < 0.6


def test_exact_soft_values():
    star = soft_value_iteration()
    at = np.array([[0.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(star.v(at), [-114.6, -46.4, -18.7], atol=0.1)
    # a fixed point: V = alpha log int exp(Q / alpha) da, at grid points, with the same actions
    actions = midpoints(24)
    for x in ((0.0, 0.0), (2.0, -0.5), (-6.0, 6.0)):
        q = star.q(np.array(x), actions)
        value = 2.5 * np.log(np.exp((q - q.max()) / 2.5).sum() * (2 / 24) ** 2) + q.max()
        assert value == pytest.approx(star.v(np.array(x)), abs=1e-4)
    # it rises along each axis towards the goal, and is symmetric
    line = np.linspace(0.0, 3.75, 16)
    for goal in GOALS / 5:
        values = star.v(line[:, None] * goal)
        assert (np.diff(values) > 0).all()
        np.testing.assert_allclose(values, star.v(np.stack((line, 0 * line), -1)))


def test_at_the_centre_four_separated_modes():
    star = soft_value_iteration()
    actions = midpoints(100)
    q = star.q(np.zeros(2), actions) / 2.5
    best = np.abs(actions[q.argmax()])
    assert best.max() == pytest.approx(0.72, abs=0.04) and best.min() < 0.05
    assert q.max() - star.q(np.zeros(2), np.zeros(2)) / 2.5 > 4  # the middle is deep below
    pi = np.exp(q - q.max())
    share = pi[np.abs(np.abs(actions[:, 0]) - np.abs(actions[:, 1])) > 0.2].sum() / pi.sum()
    assert share == pytest.approx(0.93, abs=0.02)


@pytest.mark.parametrize("name", ["multigoal", "InvertedPendulum-v5"])
def test_restored_environments_go_on_bit_for_bit(name):
    rng = np.random.default_rng(0)
    env, other = make_environments(name, (3, 4)), make_environments(name, (3, 4))
    assert np.array_equal(env.reset(), other.reset())  # seeded
    actions = 2 * rng.random((120, 2, env.action_dim)) - 1
    for a in actions[:40]:  # the pendulum falls several times
        obs = env.step(a)[3]
    assert np.array_equal(other.load(env.state()), obs)
    for a in actions[40:]:
        for x, y in zip(env.step(a), other.step(a), strict=True):
            assert np.array_equal(x, y)


def test_mujoco_actions_are_scaled_and_falls_are_terminations():
    env = Mujoco("InvertedPendulum-v5", (0, 1))
    np.testing.assert_allclose(env.scaled(np.array([[-1.0], [0.0], [1.0]])), [[-3], [0], [3]])
    env.reset()
    for _ in range(100):
        reached, _, terminated, after = env.step(np.array([[1.0], [0.0]]))
        if terminated[0]:
            break
    assert terminated.tolist() == [True, False]
    assert not np.array_equal(reached[0], after[0]) and np.array_equal(reached[1], after[1])


def test_returns_are_those_of_single_episodes():
    import gymnasium

    def act(obs):
        return -np.clip(3 * obs[..., 1:2] + obs[..., 3:4], -1, 1)  # pushes the wrong way

    found = MujocoReturns("InvertedPendulum-v5", 2, 3)(act)
    assert found.shape == (2, 3) and np.array_equal(found[0], found[1])
    env = gymnasium.make("InvertedPendulum-v5")
    for e in range(3):
        obs, total, over = env.reset(seed=900_000 + e)[0], 0.0, False
        while not over:
            action = 3 * act(obs.astype(np.float32))
            obs, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        assert total == pytest.approx(found[0, e])


def test_paths_of_a_policy_that_walks_right():
    found = multigoal_paths(lambda o: np.broadcast_to([0.5, 0.0], o.shape), 2, episodes=4, cap=20)
    assert (found.goal == 0).all()
    ends = np.abs(np.diff(found.positions, axis=2)).sum(-1)
    steps = (ends > 0).sum(-1)
    assert (steps >= 7).all() and (steps <= 9).all() and (ends[..., 10:] == 0).all()
    assert (found.returns < -30 * 0.25 * 7).all()
    still = multigoal_paths(lambda o: np.zeros(o.shape), 1, episodes=4, cap=5)
    assert (still.goal == -1).all()


def test_settings_of_the_paper():
    assert TASKS["Ant-v5"].tau == 0.0001 and TASKS["Ant-v5"].alpha == 0.05
    assert TASKS["HalfCheetah-v5"].log_sigma == (-5.0, 2.0)
    assert TASKS["multigoal"].gamma == 0.9 and TASKS["multigoal"].steps == 4_000
    for name in ("Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"):
        assert TASKS[name].log_sigma == (-5.0, -0.3)
        assert (TASKS[name].evaluate_every, TASKS[name].episodes) == (10_000, 10)
