"""A trained sampler of the grid or the bit sequences, with one seed picked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError
from common.gfn.coordinates import sample_states
from common.gfn.exact import terminating_distribution
from common.gfn.nets import StackedMLP
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import seed_generators
from common.trained import seed_index
from papers.gfn_losses.bits import SlotPolicy
from papers.gfn_losses.config import Config
from papers.gfn_losses.grid import log_pf_of_all_states
from papers.gfn_losses.task import BIT_TASKS, GRID_TASKS, BitSpec, grid_spec


class Sampler:
    """Samples objects in proportion to the reward, as well as the run has learned it.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict, index: int) -> None:
        self.config, self._index = config, index
        first = seed_generators(config.seed, 0)
        if config.task in GRID_TASKS:
            spec = grid_spec(config.task, config.ndim, config.height, config.reward)
            self.env = spec.env("cpu")
            n_out = self.env.n_actions + self.env.n_backward + 1
            widths = (self.env.input_dim, spec.hidden, spec.hidden, n_out)
            self._net: StackedMLP | SlotPolicy = StackedMLP(first, widths)
            self._net.load_state_dict(final["net"])
        else:
            spec = BitSpec(config.n_bits, config.word_bits, config.n_modes, config.delta)
            self._modes = spec.modes("cpu")
            self.env = self._modes.env("slots")
            self._net = SlotPolicy(config.net, first, self.env, spec.hidden)
            self._net.load_state_dict(final["policy"])
        self._net.eval()

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` objects: coordinates of the grid [n, D] or bits [n, n_bits]."""
        n_seeds = len(self.config.seed)
        generators = [torch.Generator().manual_seed(seed) for _ in range(n_seeds)]
        if self.config.task in GRID_TASKS:
            u = uniforms(generators, (self.env.max_length, n))
            return sample_states(self._net, self.env, u).last[self._index]
        u = uniforms(generators, (self.env.length, n))
        words = sample(self.env, lambda s: self._net(s)[0], u).last[self._index]
        return self._modes.to_bits(words)

    @torch.no_grad()
    def distribution(self) -> Tensor:
        """Exact probability of each object of the grid [N], by dynamic programming.

        Raises:
            UserError: for the bit sequences, which are too many.
        """
        if self.config.task not in GRID_TASKS:
            raise UserError("the distribution can be enumerated on the grid only")
        dag = self.env.dag()
        return terminating_distribution(dag, log_pf_of_all_states(self._net, self.env, dag))[
            self._index
        ]


def load_sampler(folder: Path, seed: int | None = None) -> Sampler:
    """See :func:`papers.gfn_losses.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if config.task not in (*GRID_TASKS, *BIT_TASKS):
        raise UserError(f"load knows the grid and the bit sequences, not {config.task}")
    return Sampler(config, run.final(), seed_index(folder, config.seed, seed))
