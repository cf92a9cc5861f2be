"""Receding-horizon rollouts of many episodes in lock-step, with one policy call per re-plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Simulation(Protocol):
    """One running episode."""

    success: bool

    def step(self, action: Floats) -> None:
        """Apply one action [d]; sets ``success`` once the goal is reached."""


E = TypeVar("E", bound=Simulation)


@dataclass(frozen=True)
class Rollouts:
    """What B episodes came to."""

    success: NDArray[np.bool_]  # [B] the goal was reached at some step
    steps: NDArray[np.int64]  # [B] steps until then, or the time limit
    tracks: Floats | None  # [tracked, limit + 1, k] what ``track`` saw, padded with NaN


def rollout(
    episodes: Sequence[E],
    policy: Callable[[Floats, NDArray[np.bool_]], Floats],
    observe: Callable[[E], Floats],
    *,
    obs_frames: int,
    execute: int,
    limit: int,
    track: Callable[[E], Floats] | None = None,
    tracked: int = 0,
) -> Rollouts:
    """Run freshly reset episodes until success or the time limit.

    All episodes re-plan at the same steps, so that an expensive policy is called once for all of
    them. Between two calls each episode runs its actions on end (its simulator state stays in the
    cache of the processor), and ``observe`` is called only for the frames that the policy will see.
    An episode's course depends on its own actions alone, never on the others in the batch.

    Args:
        episodes: B episodes at their first frame.
        policy: observations [B, obs_frames, ...] and active [B] -> action chunks [B, H, d]; rows
            that are not active hold stale frames and their chunks are ignored.
        observe: the current frame of an episode.
        obs_frames: frames that the policy sees; the first one is repeated at the start.
        execute: actions of a chunk that are executed before the next call.
        limit: steps after which an episode has failed.
        track: something to record at every step (a position [k]).
        tracked: of how many episodes (the first ones).
    """
    n = len(episodes)
    first = np.stack([np.asarray(observe(e), np.float32) for e in episodes])
    history = np.repeat(first[:, None], obs_frames, 1)  # [B, obs_frames, ...]
    active = np.ones(n, bool)
    steps = np.zeros(n, np.int64)
    tracks = None
    if track is not None and tracked:
        starts = np.stack([track(e) for e in episodes[:tracked]])
        tracks = np.full((len(starts), limit + 1, starts.shape[-1]), np.nan, np.float32)
        tracks[:, 0] = starts
    while active.any():
        chunks = policy(history, active)
        for i in np.flatnonzero(active):
            episode, chunk = episodes[i], chunks[i]
            for k in range(execute):
                episode.step(chunk[k])
                steps[i] += 1
                if tracks is not None and track is not None and i < len(tracks):
                    tracks[i, steps[i]] = track(episode)
                if episode.success or steps[i] >= limit:
                    active[i] = False
                    break
                if k >= execute - obs_frames:
                    history[i, :-1] = history[i, 1:]
                    history[i, -1] = observe(episode)
    return Rollouts(np.array([e.success for e in episodes], bool), steps, tracks)
