"""Stability, measured: logistic regression on two data sets that differ in one example.

The paper bounds how far two trainings with the same order of samples come apart. Here the
distance is measured for one pair; the bound is about the worst pair, which this is not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from common.torch_utils import setup
from papers.sewa.config import NeighboursConfig
from papers.sewa.method import Average, Problem, Selection
from papers.sewa.methods import METHODS

TASK, WIDTH, RATE = "neighbours", 20, 0.1
LOOKS = ("sewa", "last", "lawa", "swa", "all", "ema", "random")

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def data(n: int, seed: int) -> tuple[Pair, Pair]:
    """Two data sets of n examples (x, y in {0, 1}); one example, a random one, is another."""
    rng = np.random.default_rng([11, seed])
    truth = rng.standard_normal(WIDTH)
    x = rng.standard_normal((n + 1, WIDTH))
    y = (x @ truth + 2 * rng.standard_normal(n + 1) > 0).astype(float)
    at = int(rng.integers(n))
    other = (x[:n].copy(), y[:n].copy())
    other[0][at], other[1][at] = x[n], 1 - y[at]
    return (x[:n], y[:n]), other


def iterates(pair: Pair, steps: int, seed: int) -> Tensor:
    """SGD with one example a step from 0, the order of the seed. [steps, d]."""
    x, y = pair
    order = np.random.default_rng([12, seed]).integers(len(x), size=steps)
    w, found = np.zeros(WIDTH), np.empty((steps, WIDTH))
    for t, i in enumerate(order):
        w = w - RATE * (1 / (1 + np.exp(-x[i] @ w)) - y[i]) * x[i]
        found[t] = w
    return torch.from_numpy(found).float()


def averages(
    way: Callable[[Problem], Average], pair: Pair, theta: Tensor, cfg: NeighboursConfig, seed: int
) -> Average:
    """A method's average; the draws are the same for both data sets."""
    x, y = (torch.from_numpy(a).float() for a in pair)
    batches = torch.Generator().manual_seed(seed)

    def objective() -> Callable[[Tensor], Tensor]:
        at = torch.randint(len(x), (64,), generator=batches)
        wanted = y[at]
        each = F.binary_cross_entropy_with_logits
        return lambda w: each(w @ x[at].T, wanted.expand(len(w), -1), reduction="none").mean(1)

    def score(w: Tensor) -> float:
        return float(F.binary_cross_entropy_with_logits(x @ w, y))

    how = Selection(iterations=cfg.iterations, lr=METHODS["sewa"].lr)
    masks = torch.Generator().manual_seed(seed)
    return way(Problem(theta, cfg.K, objective, score, how, masks, examples=len(x) / 64))


def train(cfg: NeighboursConfig) -> None:
    """Measure every pair of data sets.

    Raises:
        UserError: for another task or method, or more snapshots than steps.
    """
    choose("task", cfg.task, (TASK,))
    choose("method on neighbours", cfg.method, LOOKS)
    if not 1 <= cfg.K <= cfg.k <= cfg.steps // 2:
        raise UserError(f"1 <= --K <= --k <= half of --steps, not {cfg.K}, {cfg.k}, {cfg.steps}")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup("cpu", 0)
    run.keep()
    for number in run.steps(len(cfg.seed)):
        seed = cfg.seed[number]
        pairs = data(cfg.n, seed)
        whole = [iterates(pair, cfg.steps, seed) for pair in pairs]
        for k in (cfg.k, cfg.steps // 2):
            way = METHODS[cfg.method].way
            thetas = [theta[-k:] for theta in whole]
            made = [averages(way, *two, cfg, seed) for two in zip(pairs, thetas, strict=True)]
            apart = float((made[0].weights - made[1].weights).norm())
            same = apart
            if made[0].chosen:  # the first one's choice for both
                rows = [theta[list(made[0].chosen)].mean(0) for theta in thetas]
                same = float((rows[0] - rows[1]).norm())
            equal = float(made[0].chosen == made[1].chosen)
            run.log(number + 1, seed=seed, k=k, apart=apart, same=same, equal=equal)


if __name__ == "__main__":
    run_cli(train, NeighboursConfig)
