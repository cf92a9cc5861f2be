"""What CommFormer is compared with: fixed graphs, uniform actions, the shortest way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.marl.predator_prey import CAPTURE, MOVES, PredatorCapturePrey, PredatorPrey
from common.marl.protocol import Ints
from common.stacked import rand
from papers.commformer.method import k_hot


def random_graph(
    generators: Sequence[torch.Generator], n: int, k: int, *, exclude_diagonal: bool = False
) -> Tensor:
    """k edges per row, drawn once per seed, each set of columns equally likely. [S, N, N]."""
    scores = rand(generators, n, n)
    if exclude_diagonal:
        scores.diagonal(dim1=1, dim2=2).fill_(-1.0)
    return k_hot(scores, k)


def shortest_way(env: PredatorPrey | PredatorCapturePrey) -> Ints:
    """Actions of agents that know where the prey is: a lower bound of the steps. [E, N]."""
    way = env.prey[:, None] - env.positions  # [E, N, 2]
    closer = np.abs(way[:, :, None] - MOVES[:4]).sum(-1).argmin(-1)  # a step nearer to the prey
    there = (way == 0).all(-1)
    wait = np.where(env.can_capture, CAPTURE, 4)
    return np.where(there, wait, closer).astype(np.int64)
