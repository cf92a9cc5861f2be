"""Growth across horizons: exponents of T, and that of log T, which decides what counts as one."""

from __future__ import annotations

import numpy as np

from common.rows import NoResults, Rows
from common.stats import Interval, loglog_slope


def by_horizon(
    rows: Rows, metric: str, *, least: int = 2, first: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Horizons [T] from ``first`` on, and a metric [n_seeds, T], of a policy in one setting.

    Raises:
        NoResults: with fewer than ``least`` horizons, or two seeds, or other seeds at some.
    """
    T = [h for h in rows.unique("horizon") if h >= first]
    if len(T) < least:
        raise NoResults(f"{len(T)} of {least} horizons of {rows}")
    cells = [rows.of(metric=metric, horizon=h).values() for h in T]
    if len({len(cell) for cell in cells}) > 1:
        raise NoResults(f"the horizons of {rows} have different seeds")
    return np.array(T), np.column_stack(cells)


def gaps(rows: Rows, reference: float) -> tuple[np.ndarray, np.ndarray]:
    """Horizons [T] and utility gaps [n_seeds, T] of a policy at one V to a reference."""
    T, u = by_horizon(rows, "utility")
    return T, reference - u


def exponent(T: np.ndarray, values: np.ndarray) -> Interval:
    """Exponent of the growth of values [n_seeds, T] with T.

    Raises:
        NoResults: if their mean is not positive everywhere.
    """
    if (values.mean(axis=0) <= 0).any():
        raise NoResults("what should grow or shrink is not positive")
    return loglog_slope(T, values, t_min=0)


def logarithm(T: np.ndarray) -> float:
    """Exponent of log T at the middle of a fit: d log log T / d log T = 1 / log T."""
    return float(1 / np.log(T).mean())


def law(ci: Interval) -> str:
    """T to an exponent with its interval; two decimals say what a rate is."""
    return f"T^{ci.value:.2f} [{ci.low:.2f}, {ci.high:.2f}]"
