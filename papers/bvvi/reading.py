"""What the rows say of a learner: regret, its growth, its last policies; exact values."""

from __future__ import annotations

import numpy as np

from common.rows import NoResults, Rows
from common.stats import Interval, loglog_slope, ratio_of_means
from papers.bvvi.methods import METHODS


def lengths(rows: Rows) -> list[int]:
    """The numbers of episodes K that were run, from the main runs' to the longest.

    Raises:
        NoResults: if nothing has learnt.
    """
    if not (found := rows.of(metric="regret").unique("episodes")):
        raise NoResults("nothing has learnt")
    return [int(K) for K in found]


def regret(
    rows: Rows, method: str, task: str, gamma: float, c: float, K: int | None = None
) -> Rows:
    """Regret of a learner on an environment: a curve per seed, from K/10 to K (the main one)."""
    return rows.of(
        metric="regret",
        method=method,
        task=task,
        gamma=gamma,
        c=METHODS[method].scale(c),
        episodes=lengths(rows)[0] if K is None else K,
    )


def at_K(rows: Rows, method: str, task: str, gamma: float, c: float) -> Rows:
    """Regret at the K of the main runs, a value per seed."""
    return regret(rows, method, task, gamma, c).of(step=float(lengths(rows)[0]))


def exact(rows: Rows, task: str, gamma: float, metric: str) -> float:
    """An exact value of an environment whose state is hidden (mean over the random ones)."""
    where = task.removesuffix("-full")
    return rows.of(method="planner", task=where, gamma=gamma, metric=metric).value()


def optimum(rows: Rows, task: str, gamma: float) -> float:
    """V* of an environment; of one whose state is seen, too."""
    seen = task.endswith("-full")
    return exact(rows, task, gamma, "v_full" if seen else "v_star")


def final_J(curves: Rows, best: float) -> np.ndarray:
    """Mean J of the policies of the last 5 % of the episodes [n_seeds], from regret."""
    k, values = curves.curve(least=2)
    return best - (values[:, -1] - values[:, -2]) / (k[-1] - k[-2])


def growth(curves: Rows) -> tuple[Interval, Interval]:
    """Exponent over the last decade, and average regret at K over that at K/4.

    Raises:
        NoResults: if there is no regret, or none yet at K/10: nothing grows.
    """
    k, values = curves.curve(least=2)
    if len(k) < 4 or values[:, 0].min() <= 1e-6:
        raise NoResults(f"no regret at K/10 in some seed: {curves}")
    even = k != k[-2]  # 0.95 K would count the end twice
    slope = loglog_slope(k[even], values[:, even])
    quarter = int(np.argmin(np.abs(k - k[-1] / 4)))
    ratio = ratio_of_means(values[:, -1], values[:, quarter], paired=True)
    part = k[quarter] / k[-1]
    return slope, Interval(ratio.value * part, ratio.low * part, ratio.high * part, ratio.n)


def square_root_fit(curves: Rows) -> str:
    """a and R² of a√k fitted to the mean curve over the last decade (below 0: no square root)."""
    k, values = curves.curve()
    k, mean = np.delete(k, -2), np.delete(values.mean(0), -2)
    a = (np.sqrt(k) @ mean) / k.sum()
    rest, spread = ((mean - a * np.sqrt(k)) ** 2).sum(), ((mean - mean.mean()) ** 2).sum()
    r2 = 1 - rest / spread if spread > 0 else -1.0
    return f"{a:.3g}√k, {r2:.2f}" if r2 >= 0 else f"{a:.3g}√k, < 0"
