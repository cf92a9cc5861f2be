"""AdaPFOL alone, on synthetic losses: a grid of path lengths and magnitudes, as a job of its own.

Losses of d = 4 coordinates are Gaussian; one coordinate is favourable (mean -0.8), and which one
changes S times at equal distances. The comparator sits on it: its path length is P = 2 S in the
1-norm. Magnitudes: constant, growing like sqrt(t), or 100-fold in 1 % of the rounds. The number is
regret / sqrt((1 + P) sum |l|²). Every expert is gradient descent with one fixed step-size, so that
one pass gives AdaPFOL and all of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cli import run_cli
from common.errors import choose
from common.run import Run
from papers.umo2.method import adapfol_predict, adapfol_update, barycentres
from papers.umo2.methods import OLO
from papers.umo2.task import jit

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SWITCHES = (0, 10, 100, 1000)
MAGNITUDES = ("constant", "growing", "spikes")
D, FAVOUR = 4, -0.8


@dataclass
class Config:
    """One grid."""

    task: str = OLO  # there is no other
    seed: tuple[int, ...] = (0,)  # each seed draws its own losses
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    horizon: int = 4_000  # T, rounds
    experts: int = 8  # J


def synthetic_losses(
    seed: int, switches: int, magnitude: str, horizon: int
) -> tuple[Matrix, NDArray[np.int64]]:
    """Losses [T, 4] and the favourable coordinate [T] of every round."""
    rng = np.random.default_rng([seed, switches, MAGNITUDES.index(magnitude)])
    moves = rng.integers(1, D, size=switches + 1)  # never 0: it changes at every switch
    block = np.arange(horizon) * (switches + 1) // horizon
    best = (np.cumsum(moves) % D)[block]
    losses = rng.normal(size=(horizon, D))
    losses[np.arange(horizon), best] += FAVOUR
    if magnitude == "growing":
        losses *= np.sqrt(np.arange(1, horizon + 1))[:, None]
    elif magnitude == "spikes":
        losses *= np.where(rng.uniform(size=horizon) < 0.01, 100.0, 1.0)[:, None]
    return losses, best


@jit
def play(losses: Matrix, x: Matrix, cumulative: Vector, sums: Vector, decisions: Matrix) -> None:
    """Decisions [T, d] of AdaPFOL on losses [T, d]; ``cumulative`` [J] are its experts' losses."""
    w = np.empty(cumulative.size)
    for t in range(losses.shape[0]):
        adapfol_predict(x[:, 0 : losses.shape[1]], cumulative, sums, w, decisions[t])
        adapfol_update(losses[t], x[:, 0 : losses.shape[1]], cumulative, sums)


def decide(losses: Matrix, experts: int) -> tuple[Matrix, Vector]:
    """Decisions [T, d] of a fresh AdaPFOL, and the total losses [J] of its experts."""
    x = barycentres(np.array([0, losses.shape[1]]), experts)
    cumulative, decisions = np.zeros(experts), np.empty_like(losses)
    play(losses, x, cumulative, np.zeros(2), decisions)
    return decisions, cumulative


def ratios(losses: Matrix, best: NDArray[np.int64], experts: int) -> Vector:
    """[1 + J] regret / sqrt((1 + P) sum |l|²) of AdaPFOL and of each single step-size."""
    decisions, alone = decide(losses, experts)
    comparator = losses[np.arange(len(best)), best].sum()
    path = 2.0 * np.count_nonzero(np.diff(best))
    totals = np.append((losses * decisions).sum(), alone)
    return (totals - comparator) / np.sqrt((1.0 + path) * (losses**2).sum())


def grid(cfg: Config) -> None:
    """Run the grid and keep every ratio."""
    choose("task", cfg.task, (OLO,))
    cells = list(itertools.product(MAGNITUDES, SWITCHES))
    run = Run.open(cfg.out, cfg)
    found = np.zeros((len(cells), len(cfg.seed), 1 + cfg.experts))
    run.keep(ratios=found)  # [cells, seeds, 1 + J]

    def described() -> dict[str, Any]:
        return {
            "kind": OLO,
            "seeds": list(cfg.seed),
            "magnitudes": [magnitude for magnitude, _ in cells],
            "switches": [switches for _, switches in cells],
        }

    for cell in run.steps(len(cells), then=described):
        magnitude, switches = cells[cell]
        for s, seed in enumerate(cfg.seed):
            losses, best = synthetic_losses(seed, switches, magnitude, cfg.horizon)
            found[cell, s] = ratios(losses, best, cfg.experts)
        run.log(cell + 1, ratio=float(found[cell, :, 0].mean()))


if __name__ == "__main__":
    run_cli(grid, Config)
