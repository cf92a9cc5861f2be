"""MTDiff's data: SAC replays of Meta-World v2, a folder per task with an npz file per episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.control.episodes import Episode
from common.errors import UserError
from common.files import find_data

Floats = NDArray[np.float32]
EPISODES = {"near": 2_000, "sub": 1_000}  # all of a task's, or its first: near- and sub-optimal
STEPS = 500  # of an episode at most


def mtdiff_episodes(task: str, number: int) -> list[Episode]:
    """The first episodes of a task's replay (no pickle).

    Args:
        task: by its name in v3 ("reach-v3"); the folder has v2's.
        number: of episodes.

    Raises:
        UserError: if files are missing or lack an array.
    """
    folder = Path(
        find_data(
            "mtdiff",
            "SAC replays of Meta-World v2, published with MTDiff",
            "a folder per task (reach-v2, …) that holds 0.npz, 1.npz, …",
        )
    )
    name = task.replace("-v3", "-v2")
    found = []
    for i in range(number):
        path = folder / name / f"{i}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found.append(_episode(*(arrays[k] for k in ("observations", "actions", "rewards"))))
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path} is missing or no episode of {name} ({error})") from error
    return found


def _episode(observations: Floats, actions: Floats, rewards: Floats) -> Episode:
    """An episode of T steps; an observation after the last step is its last one where missing."""
    steps = len(actions)
    last = observations[-1:] if len(observations) == steps else observations[steps : steps + 1]
    ends = np.arange(steps) == steps - 1
    return Episode(
        np.concatenate([observations[:steps], last]).astype(np.float32),
        actions.astype(np.float32),
        rewards.reshape(steps).astype(np.float32),
        np.zeros(steps, bool),
        ends,
    )
