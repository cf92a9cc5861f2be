"""Regret read from rows: curves of the last decade, ratios, exponents of growth."""

from __future__ import annotations

import math

import numpy as np

from common.rows import NoResults, Rows
from common.stats import Interval, loglog_slope, ratio_of_means

TASK_LABELS = {
    "e1": "E1",
    "e1-k2": "E1 K=2",
    "e1-k10": "E1 K=10",
    "e1-k50": "E1 K=50",
    "e2": "E2",
    "e3-s1": "E3",
    "e3-s20": "E3 ×20",
    "e3-s100": "E3 ×100",
    "e4": "E4",
}


def curves(rows: Rows, method: str, task: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Rounds [m] of the last decade and pseudo-regret [n_seeds, m] of a method in a cell."""
    return rows.of(metric="regret", method=method, task=task, alpha=alpha).curve(least=2)


def final(rows: Rows, method: str, task: str, alpha: float) -> np.ndarray:
    """Pseudo-regret at the horizon [n_seeds], in the order of the seeds."""
    return curves(rows, method, task, alpha)[1][:, -1]


def alphas(rows: Rows) -> list[float]:
    """The tail parameters that were run.

    Raises:
        NoResults: if there is none.
    """
    if not (found := rows.unique("alpha")):
        raise NoResults("no tail parameter was run")
    return found


def name_of(task: str, alpha: float) -> str:
    """A cell's name in the evidence."""
    return f"{TASK_LABELS[task]} α={alpha:g}"


def over(above: np.ndarray, below: np.ndarray) -> Interval:
    """Ratio of means, paired by seed where both have the same number of seeds.

    Raises:
        NoResults: if what divides is not positive on average.
    """
    if below.mean() <= 0:
        raise NoResults("regret is not positive: no ratio")
    return ratio_of_means(above, below, paired=len(above) == len(below))


def exponent(t: np.ndarray, regret: np.ndarray) -> Interval:
    """Growth exponent of the mean regret over the last decade.

    Raises:
        NoResults: if it is not positive there.
    """
    if (regret.mean(axis=0) <= 0).any():
        raise NoResults("regret is not positive: no exponent")
    return loglog_slope(t, regret)


def growth_against_log(t: np.ndarray, regret: np.ndarray) -> Interval:
    """(R(T) / log T) / (R(T/10) / log(T/10)): 1 for a logarithm, 10^p for a power p, nearly."""
    ratio = over(regret[:, -1], regret[:, 0])
    c = math.log(t[0]) / math.log(t[-1])
    return Interval(ratio.value * c, ratio.low * c, ratio.high * c, ratio.n)
