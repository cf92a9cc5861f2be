"""A trained policy with one seed picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.run import Run
from common.stacked import seed_generators
from common.trained import seed_index
from papers.ne.agent import make_agent
from papers.ne.config import Config
from papers.ne.eval import Settings
from papers.ne.task import SETTINGS, Task


class Policy:
    """Acts as a run has learned to.

    Attributes:
        task: what it was trained on.
        density: share of the connections of actor and critics that are there.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.task, self._index = Task(config.task), index
        moving = seed_generators(config.seed, 6)
        agent = make_agent(config, self.task, moving, torch.device("cpu"))
        self.density = {}
        for name, part in (("actor", agent.actor), ("critic", agent.critic)):
            part.net.load_state_dict(final[name]["net"])
            part.topology.load(final[name]["topology"])
            density = part.topology.density.view(len(config.seed), -1).mean(1)
            self.density[name] = float(density[index])
        self._actor, self._seeds = agent.actor.net, len(config.seed)

    @torch.no_grad()
    def act(self, observations: ArrayLike, direction: float = 1.0) -> NDArray[np.float32]:
        """Deterministic actions in (-1, 1). [n, d] -> [n, A].

        Args:
            observations: the environment's.
            direction: to run in, 1 or -1, where the task's direction flips.
        """
        states = np.atleast_2d(np.asarray(observations, dtype=np.float32))
        if self.task.flips:
            states = np.append(states, np.full((len(states), 1), direction, np.float32), axis=1)
        if states.shape[1] != self.task.obs_dim:
            wanted = self.task.obs_dim - self.task.flips
            raise UserError(
                f"{self.task.name} takes observations [n, {wanted}], "
                f"not {list(np.shape(observations))}"
            )
        seen = torch.from_numpy(states).expand(self._seeds, *states.shape)
        return self._actor(seen)[self._index].numpy()


def load_policy(folder: Path, seed: int | None = None) -> Policy:
    """See :func:`papers.ne.load`."""
    run = Run.load(folder)
    task = run.config(Settings).task
    if task not in SETTINGS:
        raise UserError(f"the run in {folder} is of {task}, which leaves no policy of states")
    config = run.config(Config)
    return Policy(config, run.final(), seed_index(folder, config.seed, seed))
