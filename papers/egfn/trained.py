"""A trained star, with one seed picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.gfn.coordinates import sample_states
from common.gfn.sampling import uniforms
from common.run import Run
from common.stacked import seed_generators
from common.trained import seed_index
from papers.egfn.config import Config
from papers.egfn.star import network
from papers.egfn.task import GRIDS
from papers.egfn.train import make_env


class Star:
    """Samples objects in proportion to the reward, as well as the run has learned it.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.config, self._index = config, index
        self.env = make_env(config.task, None, torch.device("cpu"))
        self._net = network(seed_generators(config.seed, 0), self.env).eval()
        self._net.load_state_dict(final["net"])

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` objects [n, D]: coordinates of the grid, or letters of AB10."""
        generators = [torch.Generator().manual_seed(seed) for _ in self.config.seed]
        u = uniforms(generators, (self.env.max_length, n))
        return sample_states(self._net, self.env, u).last[self._index]

    def log_reward(self, objects: Tensor) -> Tensor:
        """log R of objects. [n, D] -> [n]."""
        return self.env.log_reward(objects)


def load_star(folder: Path, seed: int | None = None) -> Star:
    """See :func:`papers.egfn.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if config.task not in (*GRIDS, "ab10"):
        raise UserError(f"load knows the hypergrids and ab10, not {config.task}")
    return Star(config, run.final(), seed_index(folder, config.seed, seed))
