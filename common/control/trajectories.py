"""Episodes as one flat struct of arrays: what critics and sequence models draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.control.episodes import Episode

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trajectories:
    """N steps of E episodes, one episode after the other."""

    observations: Floats  # [N, o]
    actions: Floats  # [N, a]
    rewards: Floats  # [N]
    terminated: NDArray[np.bool_]  # [N] a true end; a time limit is none
    final_observations: Floats  # [E, o] after the last step of each episode
    starts: Ints  # [E + 1] where episodes begin; the last entry is N

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def lengths(self) -> Ints:
        """Steps of each episode. [E]"""
        return np.diff(self.starts)

    @property
    def timesteps(self) -> Ints:
        """Steps since the beginning of the episode. [N]"""
        return np.arange(len(self)) - np.repeat(self.starts[:-1], self.lengths)

    @property
    def ends(self) -> Ints:
        """For each step, the index after the last one of its episode. [N]"""
        return np.repeat(self.starts[1:], self.lengths)

    @property
    def next_observations(self) -> Floats:
        """What followed each action, also at the end of an episode. [N, o]"""
        following = np.concatenate([self.observations[1:], self.final_observations[-1:]])
        following[self.starts[1:] - 1] = self.final_observations
        return following

    @property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode. [E]"""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts[:-1])

    def returns_to_go(self, discount: float = 1.0) -> NDArray[np.float64]:
        """Sum over t' >= t of discount^(t' - t) r_t', within the episode. [N]"""
        from scipy.signal import lfilter

        found = np.empty(len(self))
        for start, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            backwards = self.rewards[start:end][::-1].astype(np.float64)
            found[start:end] = lfilter([1.0], [1.0, -discount], backwards)[::-1]
        return found


def joined(episodes: Sequence[Episode]) -> Trajectories:
    """The episodes in their order.

    Raises:
        ValueError: if there is none, or one without a step.
    """
    if not episodes or not all(len(e) for e in episodes):
        raise ValueError("trajectories need an episode, and each episode a step")
    return Trajectories(
        np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float32),
        np.concatenate([e.actions for e in episodes]).astype(np.float32),
        np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        np.concatenate([e.terminations for e in episodes]).astype(bool),
        np.stack([e.observations[-1] for e in episodes]).astype(np.float32),
        np.concatenate([[0], np.cumsum([len(e) for e in episodes])]).astype(np.int64),
    )


def best(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """The ``count`` episodes of highest return, the highest first; ties in their order."""
    returns = np.array([e.rewards.sum(dtype=np.float64) for e in episodes])
    return [episodes[i] for i in np.argsort(-returns, kind="stable")[:count]]
