"""The multi-goal environment (four goals on a plane), batched, and its exact soft values.

State (x, y) in [-7, 7]^2, start N(0, 0.1^2 I); an action in [-1, 1]^2 is added to the position.
Reward -30 |a|^2 - min_g |s' - g|^2, with s' the new position, +10 and the end within 1 of a goal.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOX = 7.0  # positions are clipped to [-BOX, BOX]^2
GOALS = np.array([(5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0)])
START_STD = 0.1
ACTION_COST = 30.0
GOAL_REWARD = 10.0
RADIUS = 1.0  # an episode ends closer than this to a goal
TIME_LIMIT = 1000


def transition(position: Floats, action: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """s', reward and termination; position [..., 2], action [..., 2] in [-1, 1]^2."""
    moved = np.clip(position + action, -BOX, BOX)
    distance = np.linalg.norm(moved[..., None, :] - GOALS, axis=-1).min(-1)
    reached = distance < RADIUS
    reward = -ACTION_COST * np.square(action).sum(-1) - distance**2 + GOAL_REWARD * reached
    return moved, reward, reached


class MultiGoal:
    """One environment per seed, stepped together; resets itself. See task.Environments."""

    obs_dim, action_dim = 2, 2

    def __init__(self, seeds: Sequence[int], time_limit: int = TIME_LIMIT) -> None:
        self.rngs = [np.random.default_rng((s, 17)) for s in seeds]
        self.time_limit = time_limit
        self.position = np.zeros((len(seeds), 2))
        self.elapsed = np.zeros(len(seeds), dtype=np.int64)

    def reset(self) -> Floats:
        """New starts of all seeds. [S, 2]."""
        self._restart(np.ones(len(self.rngs), dtype=bool))
        return self.position.copy()

    def _restart(self, which: NDArray[np.bool_]) -> None:
        for s in np.flatnonzero(which):
            self.position[s] = START_STD * self.rngs[s].standard_normal(2)
        self.elapsed[which] = 0

    def step(self, action: Floats) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
        """Action [S, 2] -> s' (the true one), reward, terminated, and where each seed goes on."""
        reached_position, reward, terminated = transition(self.position, action)
        self.position = reached_position.copy()
        self.elapsed += 1
        self._restart(terminated | (self.elapsed >= self.time_limit))
        return reached_position, reward, terminated, self.position.copy()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "position": self.position.copy(),
            "elapsed": self.elapsed.copy(),
            "rngs": [rng.bit_generator.state for rng in self.rngs],
        }

    def load(self, state: dict[str, Any]) -> Floats:
        """Restores what `state` gave; returns the present observation."""
        self.position, self.elapsed = state["position"].copy(), state["elapsed"].copy()
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        return self.position.copy()


# --------------------------------------------------------------------------- exact soft values


@dataclass(frozen=True)
class SoftValues:
    """Fixed point of soft value iteration on a grid; all of it by symmetry from x, y >= 0."""

    axis: Floats  # [N] grid of |x| and |y|
    V: Floats  # [N, N]
    gamma: float
    alpha: float

    def v(self, position: Floats) -> Floats:
        """V*(s), bilinear between grid points. [..., 2] -> [...]."""
        index, weight = corners(np.abs(position), self.axis)
        return (self.V.ravel()[index] * weight).sum(-1)

    def q(self, position: Floats, action: Floats) -> Floats:
        """Q*(s, a) = r + gamma (1 - d) V*(s')."""
        moved, reward, reached = transition(position, action)
        return reward + self.gamma * ~reached * self.v(moved)


def corners(point: Floats, axis: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Flat indices and bilinear weights [..., 4] of the grid points around point [..., 2]."""
    place = point / (axis[1] - axis[0])
    low = np.clip(np.floor(place).astype(np.int64), 0, len(axis) - 2)
    part = place - low
    (i, j), (u, v) = np.moveaxis(low, -1, 0), np.moveaxis(part, -1, 0)
    n = len(axis)
    index = np.stack((i * n + j, i * n + j + 1, (i + 1) * n + j, (i + 1) * n + j + 1), -1)
    weight = np.stack(((1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v), -1)
    return index, weight


def midpoints(n: int) -> Floats:
    """Midpoint rule on (-1, 1)^2: n^2 actions [n^2, 2], each of weight (2/n)^2."""
    axis = -1 + (2 * np.arange(n) + 1) / n
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


@functools.cache
def soft_value_iteration(
    gamma: float = 0.9, alpha: float = 2.5, spacing: float = 0.25, n_actions: int = 24
) -> SoftValues:
    """V(s) = alpha log int exp((r + gamma (1 - d) V(s')) / alpha) da over (-1, 1)^2, no 1/4.

    The integral is not normalised by the volume of the actions: it is the V of the paper.
    """
    from scipy.sparse import csr_matrix
    from scipy.special import logsumexp

    axis = np.arange(0.0, BOX + spacing / 2, spacing)
    states = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    actions = midpoints(n_actions)
    moved, reward, reached = transition(states, actions)  # [N^2, M]
    index, weight = corners(np.abs(moved), axis)
    weight *= gamma * ~reached[..., None]
    rows = np.arange(0, weight.size + 1, 4)
    future = csr_matrix((weight.ravel(), index.ravel(), rows), shape=(reward.size, axis.size**2))
    log_cell = 2 * np.log(2 / n_actions)
    V = np.zeros(axis.size**2)
    for _ in range(1000):
        q = reward + (future @ V).reshape(reward.shape)
        new = alpha * (logsumexp(q / alpha, axis=1) + log_cell)
        change, V = np.abs(new - V).max(), new
        if change < 1e-6:
            break
    return SoftValues(axis, V.reshape(axis.size, axis.size), gamma, alpha)
