"""Multi-agent MuJoCo (gymnasium-robotics): one robot whose joints are shared out among agents."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

from filelock import FileLock

from common.errors import UserError, choose
from common.files import cache_root
from common.marl.pettingzoo_env import ParallelSingle
from common.marl.vectors import Vectors

LIMIT = 1000  # steps, where the robot's own task says nothing else
SHARES = {  # how each robot can be shared out: AGENTSxJOINTS in the main
    "Ant": ("2x4", "2x4d", "4x2"),
    "CoupledHalfCheetah": ("1p1",),
    "HalfCheetah": ("2x3", "6x1"),
    "Hopper": ("3x1",),
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
    "Pusher": ("3p",),
    "Reacher": ("2x1",),
    "Swimmer": ("2x1",),
    "Walker2d": ("2x3", "6x1"),
}
SEGMENTED = ("ManySegmentAnt", "ManySegmentSwimmer")  # of any AGENTSxSEGMENTS


class MaMujoco(Vectors[ParallelSingle]):
    """E robots.

    Actions are torques in [-1, 1], scaled to those of the motors; the reward is the robot's own,
    the state its full observation. An episode is cut after the limit of the robot's task (1000
    steps, but Reacher 50, Pusher 100) and terminated where the robot falls. The robots are those
    of Gymnasium's version 5, not of the version 2 that most papers have: returns do not compare.

    Args:
        task: ROBOT-SHARES: "HalfCheetah-2x3", "Ant-4x2", "ManySegmentSwimmer-10x2", ...
        n_envs: E.
        agent_obsk: how many joints away an agent sees; 0: its own joints and the robot's root.
        options: what Gymnasium's environment takes.

    Raises:
        UserError: for an unknown robot, or a way to share it out that there isn't.
    """

    def __init__(self, task: str, n_envs: int, *, agent_obsk: int = 0, **options: Any) -> None:
        robot, _, shares = task.partition("-")
        choose("robot", robot, [*SHARES, *SEGMENTED])
        if robot not in SEGMENTED:
            choose(f"way to share out {robot}", shares, SHARES[robot])
        elif not re.fullmatch(r"[1-9]\d?x[1-9]\d?", shares):
            raise UserError(f"{robot} takes AGENTSxSEGMENTS such as 10x2, not '{shares}'")
        if agent_obsk < 0:
            raise UserError(f"agent_obsk must be 0 or above, not {agent_obsk}")
        super().__init__(
            f"mamujoco:{task}", n_envs, lambda: _robot(robot, shares, agent_obsk, options)
        )


def _robot(robot: str, shares: str, agent_obsk: int, options: dict[str, Any]) -> ParallelSingle:
    with contextlib.redirect_stderr(io.StringIO()):  # it warns of robots that are not used here
        from gymnasium_robotics import mamujoco_v1

    factorization: dict[str, Any] | None = None
    if (robot, shares) == ("Walker2d", "6x1"):  # the library has no such way
        parts, edges, roots = mamujoco_v1.get_parts_and_edges(robot, "2x3")
        single = [(joint,) for part in parts for joint in part]
        factorization = {"partition": single, "edges": edges, "globals": roots}
    with contextlib.ExitStack() as stack:
        if robot in SEGMENTED:  # the library writes the model to a file of one name, and removes it
            cache_root().mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(cache_root() / "mamujoco.lock"))
        env = mamujoco_v1.parallel_env(
            robot,
            shares,
            agent_obsk=agent_obsk,
            agent_factorization=factorization,
            **options,
        )
    order_joints(env)
    spec = env.single_agent_env.spec
    limit = (spec and spec.max_episode_steps) or LIMIT
    # every agent gets the robot's reward
    return ParallelSingle(env, reward="mean", limit=limit)


def order_joints(env: Any) -> None:
    """Have joints seen in the order of their names, and of their numbers where names are equal.

    Two joints of Pusher share a name; the library leaves them in the order of their addresses,
    which differs between robots of one batch and between processes.
    """
    for of_agent in env.k_dicts:
        for joints in of_agent.values():
            joints.sort(key=lambda j: (j.label, -1 if j.qpos_ids is None else j.qpos_ids))


__all__ = ["SEGMENTED", "SHARES", "MaMujoco", "order_joints"]
