"""A fitted network, with one seed picked."""

from __future__ import annotations

from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from common.run import Run
from common.stacked import MLP
from common.trained import seed_index
from papers.ne.train import Config, network


class Trained:
    """Predicts y at x.

    Args:
        net: of all seeds.
        index: the seed that is used.
    """

    def __init__(self, net: MLP, index: int) -> None:
        self._net, self._index = net.eval(), index

    @torch.no_grad()
    def predict(self, x: ArrayLike) -> Tensor:
        """Fitted y at x in [-1, 1]. [n] -> [n]."""
        points = torch.as_tensor(x, dtype=torch.float32).view(-1, 1)
        return self._net(points)[self._index, :, 0]


def load_trained(folder: Path, seed: int | None = None) -> Trained:
    """See :func:`papers.ne.load`."""
    run = Run.load(folder)
    config = run.config(Config)
    net = network(config.seed, config.width)
    net.load_state_dict(run.final()["net"])
    return Trained(net, seed_index(folder, config.seed, seed))
