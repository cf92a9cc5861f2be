"""A trained policy with one seed picked, and the reward that it was paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from common.errors import UserError
from common.run import Run
from common.trained import seed_index
from papers.tdil import mazes
from papers.tdil.config import Config
from papers.tdil.method import surrogate_reward
from papers.tdil.networks import make_networks
from papers.tdil.task import SimulatorTask, make_task


class Imitation:
    """Acts as a run has learned to.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.config, self.task, self._index = config, make_task(config.task), index
        self._nets = make_networks(config, self.task, torch.device("cpu"))
        self._nets.load(final["networks"])

    def _seen(self, observations: ArrayLike) -> Tensor:
        """What the networks of all seeds see. [n, d] -> [S, n, d]."""
        states = np.atleast_2d(np.asarray(observations, dtype=np.float64))
        if states.ndim != 2 or states.shape[1] != self.task.obs_dim:
            raise UserError(
                f"{self.config.task} takes observations [n, {self.task.obs_dim}], "
                f"not {list(np.shape(observations))}"
            )
        if not isinstance(self.task, SimulatorTask):
            states = mazes.scaled(states)
        seen = torch.from_numpy(states.astype(np.float32))
        return seen.expand(len(self.config.seed), *seen.shape)

    @torch.no_grad()
    def act(self, observations: ArrayLike) -> NDArray:
        """Deterministic actions.

        Args:
            observations: the environment's; of the mazes (row, column) of cells or positions.
                [n, d]

        Returns:
            Actions in the environment's units [n, A]; on the grid [n], 0 up, 1 right, 2 down,
            3 left.
        """
        action = self._nets.agent.mode(self._seen(observations))[self._index].numpy()
        return self.task.units(action) if isinstance(self.task, SimulatorTask) else action

    @torch.no_grad()
    def proximity(self, observations: ArrayLike) -> NDArray:
        """R_TDIL of arriving in states: from how many expert states they are one step away. [n].

        Raises:
            UserError: for a method without a transition discriminator.
        """
        if self._nets.paying is None:
            raise UserError(f"{self.config.method} has no transition discriminator")
        shown = torch.from_numpy(self.task.demonstration.next_observations)
        seen = self._seen(observations)
        expert = shown.expand(len(seen), *shown.shape)
        return surrogate_reward(self._nets.paying, seen, expert)[self._index].numpy()


def load_imitation(folder: Path, seed: int | None = None) -> Imitation:
    """See :func:`papers.tdil.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    return Imitation(config, run.final(), seed_index(folder, config.seed, seed))
