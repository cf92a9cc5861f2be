"""Quantities of the logged curves, per seed: what claims compare and tables show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from common.claims import NoResults, Rows
from papers.egfn.task import GRIDS


def curve(rows: Rows, task: str, method: str, metric: str) -> pd.DataFrame:
    """A logged curve: a line per seed, a column per step.

    Raises:
        NoResults: if there is none.
    """
    selected = rows.of(task=task, method=method, metric=metric)
    steps, values = selected.curve()
    seeds = sorted(selected.frame["seed"].unique())
    return pd.DataFrame(values, index=seeds, columns=steps)


def at(table: pd.DataFrame, step: float) -> pd.Series:
    """Column of a step.

    Raises:
        NoResults: if it was not logged.
    """
    if step not in table:
        raise NoResults(f"nothing at step {step:g}")
    return table[step]


def regions(rows: Rows, task: str, method: str, step: int) -> pd.Series:
    """Regions that the star's own samples have found by a step, per seed."""
    return at(curve(rows, task, method, "regions_star"), float(step))


def regions_at_calls(rows: Rows, task: str, method: str, calls: float) -> pd.Series:
    """Regions found by so many reward calls, per seed; the first evaluation that has as many."""
    table = curve(rows, task, method, "regions_star")
    spent = rows.of(task=task, method=method, metric="reward_calls").value()
    steps = table.columns.to_numpy(dtype=float)
    enough = steps[steps * spent / steps[-1] >= calls * (1 - 1e-9)]
    if not len(enough):
        raise NoResults(f"{method} made fewer than {calls:,.0f} calls on {task}")
    return table[enough[0]]


def area(rows: Rows, task: str, method: str, until: int) -> pd.Series:
    """Mean share of the regions found over the steps up to one, per seed."""
    table = curve(rows, task, method, "regions_star")
    return table.loc[:, table.columns <= until].mean(axis=1) / 2 ** GRIDS[task].ndim


def late_l1(rows: Rows, task: str, method: str, until: int) -> pd.Series:
    """Exact L1, mean of the last five evaluations up to a step, per seed."""
    table = curve(rows, task, method, "l1_sum_exact")
    return table.loc[:, table.columns <= until].iloc[:, -5:].mean(axis=1)


def difference(a: pd.Series, b: pd.Series) -> np.ndarray:
    """a - b of every seed that both have (they start from the same star).

    Raises:
        NoResults: if they share fewer than two.
    """
    both = (a - b).dropna().to_numpy(dtype=float)
    if len(both) < 2:
        raise NoResults(f"{len(both)} seeds that both have")
    return both
