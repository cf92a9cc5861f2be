"""Small environments in NumPy of the real ones' shapes: a hunt, battles, a robot."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.errors import UserError
from common.marl.vectors import Outcome, Vectors, View

MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float32)


def view(obs: Any, state: Any, avail: Any, alive: Any = None, kinds: Any = None) -> View:
    n = len(obs)
    return View(
        np.asarray(obs, np.float32),
        np.asarray(state, np.float32),
        np.asarray(avail, bool),
        np.ones(n, bool) if alive is None else alive,
        np.zeros(n, np.int64) if kinds is None else kinds,
    )


class Hunt:
    """Four predators, two preys that stay, 5 steps; the state is laid out as jaxmarl's."""

    n_agents, obs_dim, state_dim, n_actions, action_dim = 4, 20, 28, 5, 0
    episode_limit, n_types = 5, 1

    def reset(self, seed: int) -> View:
        self.points = np.random.default_rng(seed).uniform(-1, 1, (8, 2)).astype(np.float32)
        return self.view()

    def view(self) -> View:
        obs = np.zeros((4, 20), np.float32)
        for i in range(4):
            others = np.delete(self.points, i, 0) - self.points[i]
            obs[i, 2:4], obs[i, 4:18] = self.points[i], others.reshape(-1)
        state = np.concatenate([self.points.reshape(-1), np.zeros(12, np.float32)])
        return view(obs, state, np.ones((4, 5)))

    def step(self, actions: Any) -> Outcome:
        self.points[:4] += 0.1 * MOVES[actions]
        distances = np.linalg.norm(self.points[:4, None] - self.points[None, 4:6], axis=-1)
        nearest = distances.min(0)
        return Outcome(
            self.view(), float(10 * (nearest < 0.2).sum() - 0.1 * nearest.mean()), False, False
        )


class Battle:
    """Five units of six kinds; the first action is for the dead, one of whom is from step 2 on."""

    n_agents, obs_dim, state_dim, n_actions, action_dim = 5, 12, 9, 4, 0
    episode_limit, n_types = 8, 6

    def reset(self, seed: int) -> View:
        self.rng, self.t = np.random.default_rng(seed), 0
        self.kinds = self.rng.integers(0, 6, 5)
        self.length = int(self.rng.integers(3, 9))
        return self.view()

    def view(self) -> View:
        alive = np.ones(5, bool)
        alive[0] = self.t < 2
        avail = self.rng.random((5, 4)) < 0.6
        avail[:, 1] = True
        avail[~alive] = [True, False, False, False]
        obs = self.rng.standard_normal((5, 12)) * alive[:, None]
        state = self.rng.standard_normal(9)
        return view(obs, state, avail, alive, np.where(alive, self.kinds, 0))

    def step(self, actions: Any) -> Outcome:
        self.t += 1
        over, won = self.t >= self.length, bool(self.length % 2)
        return Outcome(self.view(), float(actions.mean() + won * over), over, False, won and over)


class Robot:
    """Two halves with three joints each; falls where an action is far off."""

    n_agents, obs_dim, state_dim, n_actions, action_dim = 2, 11, 17, 0, 3
    episode_limit, n_types = 6, 1

    def reset(self, seed: int) -> View:
        self.state = np.random.default_rng(seed).standard_normal(17).astype(np.float32)
        return self.view()

    def view(self) -> View:
        obs = np.stack([self.state[:11], self.state[6:]])
        return view(obs, self.state, np.zeros((2, 0)))

    def step(self, actions: Any) -> Outcome:
        self.state = 0.9 * self.state
        self.state[:6] += actions.reshape(-1)
        return Outcome(self.view(), float(actions.sum()), bool(actions[0, 0] > 0.99), False)


def stand_in(name: str, n_envs: int, **options: Any) -> Vectors[Any]:
    """In the place of ``common.marl.environments.make_env``."""
    kinds = {"mpe": Hunt, "smax": Battle, "smacv2": Battle, "mamujoco": Robot}
    family = name.split(":")[0]
    if family not in kinds:
        raise UserError(f"no stand-in for {name}")
    return Vectors(name, n_envs, kinds[family])
