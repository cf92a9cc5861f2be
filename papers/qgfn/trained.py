"""A trained pair of P_F and Q on strings, with one seed picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, choose
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.trained import seed_index
from papers.qgfn.config import Config, make_networks, make_task
from papers.qgfn.learning import behaviour
from papers.qgfn.method import MIXTURES
from papers.qgfn.methods import METHODS
from papers.qgfn.networks import Networks


class Sampler:
    """Samples objects, as greedily as is asked for.

    Args:
        config: of the run.
        final: its last checkpoint.
        index: which of its seeds.
    """

    def __init__(self, config: Config, final: dict[str, Any], index: int) -> None:
        self.config, self._index = config, index
        self._task = make_task(config)
        self._nets: Networks | None = None
        method = METHODS[config.method]
        if method.learns_pf or method.learns_q:
            self._nets = make_networks(config, self._task)
            self._nets.load_state_dict(final["nets"])
            self._nets.eval()

    @torch.no_grad()
    def sample(
        self, n: int, p: float | None = None, mixture: str | None = None, seed: int = 0
    ) -> Tensor:
        """``n`` strings [n, L] of letters' numbers.

        Args:
            n: how many.
            p: greediness from 0 (P_F alone) to 1; default: that of the training.
            mixture: p-greedy, p-quantile or p-of-max; default: that of the training.
            seed: of the samples.

        Raises:
            UserError: if the run has no such pair of networks, or p or the mixture is none.
        """
        method = METHODS[self.config.method]
        if not method.sweeps and (p is not None or mixture is not None):
            raise UserError(f"{method.label} has not both P_F and Q; leave p and mixture out")
        if mixture is not None:
            choose("mixture", mixture, MIXTURES)
        if p is None:
            p = method.p if self.config.p is None else self.config.p
        if not 0 <= p <= 1:
            raise UserError(f"p is a greediness from 0 to 1, not {p}")
        env = self._task.env
        generators = [torch.Generator().manual_seed(seed) for _ in self.config.seed]
        mu = behaviour(self._nets, env, mixture or method.mixture, p)
        return sample(env, mu, uniforms(generators, (env.length, n))).last[self._index]

    def reward(self, objects: Tensor) -> Tensor:
        """Raw reward R of strings. [n, L] -> [n]."""
        return self._task.score(objects)[0]


def load_sampler(folder: Path, seed: int | None = None) -> Sampler:
    """See :func:`papers.qgfn.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    if config.task == "seh":
        raise UserError("load knows the string tasks; molecules are sampled by the evaluation")
    return Sampler(config, run.final(), seed_index(folder, config.seed, seed))
