"""A trained team, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common import files
from common.errors import UserError
from common.marl.environments import make_env
from common.marl.protocol import Floats, Ints, Seen
from common.marl.targets import epsilon_greedy
from common.run import Run
from papers.kaleidoscope import probe, train_matd3
from papers.kaleidoscope.agents import Acting
from papers.kaleidoscope.config import Config, MATD3Config, resolved
from papers.kaleidoscope.methods import METHODS
from papers.kaleidoscope.qmix import make_team
from papers.kaleidoscope.task import TASKS, make


def checked(obs: ArrayLike, n_agents: int, obs_dim: int) -> NDArray[np.float32]:
    """Observations as float32 [E, N, O].

    Raises:
        UserError: for another shape.
    """
    given = np.asarray(obs, np.float32)
    if given.shape[-2:] != (n_agents, obs_dim):
        raise UserError(f"observations are [..., {n_agents}, {obs_dim}], not {given.shape}")
    return given.reshape(-1, n_agents, obs_dim)


class Team:
    """Agents with a memory of the episode: what they do depends on what they have seen.

    Attributes:
        n_agents, obs_dim, n_actions: of the task.
    """

    def __init__(self, agents: Any, env: Any, last: bool, ids: bool) -> None:
        self.n_agents, self.obs_dim, self.n_actions = env.n_agents, env.obs_dim, env.n_actions
        self._agents, self._form = agents, {"last": last, "ids": ids}
        self._acting: Acting | None = None
        self._n = 0

    def reset(self) -> None:
        """Begin an episode: forget what was seen."""
        self._acting = None

    def act(
        self, obs: ArrayLike, avail: ArrayLike | None = None, types: ArrayLike | None = None
    ) -> Ints:
        """The best actions at the next moment of an episode. [..., N, O] -> [..., N].

        Args:
            obs: of one episode, or of several side by side.
            avail: which actions are available, [..., N, A]; default: all.
            types: kinds of the units, [..., N]; default: 0.

        Raises:
            UserError: for observations of another shape, or another number of episodes in the
                midst of them.
        """
        given = checked(obs, self.n_agents, self.obs_dim)
        if self._acting is None:
            self._n = len(given)
            self._acting = Acting(self._agents, self._n, self.n_actions, **self._form)
        if len(given) != self._n:
            raise UserError(f"{self._n} episodes are running, not {len(given)}; reset() begins new")
        shape = (len(given), self.n_agents)
        every = np.ones((*shape, self.n_actions), bool)
        allowed = every if avail is None else np.asarray(avail, bool).reshape(every.shape)
        kinds = np.zeros(shape, np.int64)
        if types is not None:
            kinds = np.asarray(types, np.int64).reshape(shape)
        seen = Seen(given, np.zeros((len(given), 0), np.float32), allowed, every[..., 0], kinds)
        values = self._acting.values(seen)
        actions = epsilon_greedy(values, allowed, 0.0, np.random.default_rng(0))
        self._acting.acted(actions)
        return actions.reshape(np.shape(obs)[:-1])


class Actors:
    """Deterministic policies of MATD3.

    Attributes:
        n_agents, obs_dim, action_dim: of the task.
    """

    def __init__(self, net: Any, env: Any) -> None:
        self.n_agents, self.obs_dim, self.action_dim = env.n_agents, env.obs_dim, env.action_dim
        self._net = net

    @torch.no_grad()
    def act(self, obs: ArrayLike) -> Floats:
        """Actions in [-1, 1]. [..., N, O] -> [..., N, action].

        Raises:
            UserError: for observations of another shape.
        """
        given = torch.from_numpy(checked(obs, self.n_agents, self.obs_dim))
        out = self._net(given).numpy()
        return np.asarray(out.reshape(*np.shape(obs)[:-1], self.action_dim))


def load(folder: Path) -> Team | Actors:
    """See :func:`papers.kaleidoscope.load`."""
    run = Run.load(folder)
    given = files.read_json(folder / "config.json")
    if given["task"] == probe.TASK or METHODS[given["method"]].sharing == "script":
        raise UserError(f"the run in {folder} holds no team that acts on observations")
    if given["task"] not in TASKS:
        robot = run.config(MATD3Config)
        env = make_env(f"mamujoco:{robot.task}", 1)
        actors, _ = train_matd3.make_networks(robot, METHODS[robot.method], env)
        actors.load_state_dict(run.final()["actors"])
        return Actors(actors, env)
    cfg, task = resolved(run.config(Config))
    method, final, env = METHODS[cfg.method], run.final(), make(task, 1)
    team = make_team(cfg, method, task, env, final["groups"])
    team.load_state_dict(final["team"])
    return Team(team.agents, env, task.last, method.ids)
