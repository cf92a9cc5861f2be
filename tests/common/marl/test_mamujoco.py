"""Robots whose joints are shared out among agents."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from common.marl.mamujoco import SHARES, MaMujoco, order_joints
from tests.common.marl.checks import conforms, played


def test_a_cheetah_runs_for_1000_steps() -> None:
    env = MaMujoco("HalfCheetah-2x3", 1)
    steps = played(env, env.reset(0), 0, 1000)
    assert len(steps) == 1000
    assert steps[-1].truncated.all() and not steps[-1].terminated.any()
    assert steps[-1].seen.alive.all()


@pytest.mark.parametrize("task", ["Hopper-3x1", "Ant-4x2", "Pusher-3p"])
def test_conforms(task: str) -> None:
    conforms(MaMujoco(task, 2), twin=MaMujoco(task, 2), most=300, ends=task != "Ant-4x2")


def test_joints_of_one_name_have_an_order() -> None:
    env = MaMujoco("Pusher-3p", 1)
    robot = env.singles[0].env
    for of_agent in robot.k_dicts:
        of_agent[0].reverse()
    order_joints(robot)
    seen = env.reset(0)
    position = robot.single_agent_env.unwrapped.data.qpos[[2, 0, 1]]
    np.testing.assert_array_equal(seen.obs[0, 0, [0, 2, 4]], position.astype(np.float32))


def test_a_hopper_that_falls_has_terminated() -> None:
    env = MaMujoco("Hopper-3x1", 2)
    steps = played(env, env.reset(0), 0, 1000)
    assert len(steps) < 1000 and steps[-1].terminated.all() and not steps[-1].truncated.any()


@pytest.mark.parametrize(
    ("task", "agents", "obs", "state", "actions", "limit"),
    [
        ("HalfCheetah-2x3", 2, 11, 17, 3, 1000),
        ("Walker2d-6x1", 6, 7, 17, 1, 1000),
        ("ManySegmentSwimmer-4x2", 4, 4, 20, 2, 1000),
        ("Reacher-2x1", 2, 8, 10, 1, 50),
    ],
)
def test_sizes(task: str, agents: int, obs: int, state: int, actions: int, limit: int) -> None:
    env = MaMujoco(task, 1)
    assert (env.n_agents, env.obs_dim, env.state_dim) == (agents, obs, state)
    assert (env.n_actions, env.action_dim, env.episode_limit) == (0, actions, limit)


def test_an_agent_may_see_further() -> None:
    assert MaMujoco("HalfCheetah-2x3", 1, agent_obsk=1).obs_dim == 12


@pytest.mark.parametrize("shares", SHARES["Walker2d"])
def test_agents_move_the_robot_as_one_would(shares: str) -> None:
    import gymnasium

    env = MaMujoco(f"Walker2d-{shares}", 2)
    seen = env.reset(4)
    alone = gymnasium.make("Walker2d-v5")
    state, _ = alone.reset(seed=int(env.state_dict()["seeds"][1]))
    np.testing.assert_array_equal(seen.state[1], state.astype(np.float32))
    motors = [
        joint.act_ids for part in env.singles[1].env.agent_action_partitions for joint in part
    ]
    assert motors == [2, 1, 0, 5, 4, 3]  # of each leg: foot, shin, thigh
    plan = np.random.default_rng(0)
    for _ in range(5):
        torques = plan.uniform(-1, 1, (2, 6)).astype(np.float32)  # [E, motors]
        step = env.step(torques[:, motors].reshape(2, env.n_agents, env.action_dim))
        state, reward, *_ = alone.step(torques[1].astype(np.float64))
        np.testing.assert_array_equal(step.seen.state[1], state.astype(np.float32))
        assert step.reward[1] == np.float32(reward)


def test_full_torque_is_that_of_the_motors() -> None:
    single = MaMujoco("Humanoid-9|8", 1).singles[0]
    single.reset(0)
    chosen = single._chosen(np.ones((2, 9), np.float32))
    assert [len(c) for c in chosen] == [9, 8]
    np.testing.assert_array_equal(chosen[0], np.full(9, np.float32(0.4)))


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("HalfCheeta-2x3", "did you mean HalfCheetah"),
        ("HalfCheetah-3x2", "way to share out HalfCheetah"),
        ("HalfCheetah", "way to share out"),
        ("ManySegmentSwimmer-ten", "AGENTSxSEGMENTS"),
    ],
)
def test_what_there_is_not_is_said(task: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        MaMujoco(task, 1)
