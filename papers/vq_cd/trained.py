"""A trained planner, for use outside of the experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError, choose
from common.run import Run
from common.torch_utils import setup
from common.trained import seed_index
from papers.vq_cd.acting import Learned, Planning, load_learned
from papers.vq_cd.config import Config
from papers.vq_cd.methods import METHODS


class Agent:
    """One seed of a run: acts on any task of its sequence, told which.

    Attributes:
        tasks: of the sequence, in the order in which they were learned.

    Args:
        learned: all seeds of a run.
        seed: its place among them.
        target: return in [0, 1] that it is conditioned on; default: the run's.
    """

    def __init__(self, learned: Learned, seed: int, target: float | None = None) -> None:
        self._learned, self._seed = learned, seed
        self.tasks = tuple(task.name for task in learned.world.tasks)
        last = len(self.tasks) - 1
        self._policies = [
            Planning(learned, j, learned.shares.at(last, j), target=target) for j in range(last + 1)
        ]

    def act(self, observations: ArrayLike, task: str) -> NDArray[np.float32]:
        """Actions in [-1, 1] for a step of n episodes. [n, d_s] -> [n, d_a]

        Args:
            observations: of the task's environment, not standardised.
            task: one of ``tasks``.

        Raises:
            UserError: for an unknown task, or observations of another one's size.
        """
        policy = self._policies[self.tasks.index(choose("task", task, self.tasks))]
        seen = np.atleast_2d(np.asarray(observations, np.float32))
        wanted = policy.task.spaces[0].dim
        if seen.ndim != 2 or seen.shape[1] != wanted:
            raise UserError(f"observations of {task} are [n, {wanted}], not {list(seen.shape)}")
        many = len(self._learned.world.cfg.seed)
        found: NDArray[np.float32] = policy(np.broadcast_to(seen, (many, *seen.shape)))[self._seed]
        return found


def load_agent(folder: Path, seed: int | None = None) -> Agent:
    """See :func:`papers.vq_cd.load`."""
    run = Run.load(folder)
    cfg = run.config(Config)
    place = seed_index(folder, cfg.seed, seed)
    if METHODS[cfg.method].kind == "behaviour":
        raise UserError(f"{folder} holds the mean of the data, of which nothing was learned")
    return Agent(load_learned(run, setup("cpu", 0)), place)
