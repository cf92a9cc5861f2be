"""What rows and extras say of a method in a cell: regret, growth, sets, curves; known values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from common.bands import Band
from common.rows import NoResults, Rows
from common.stats import Interval, loglog_slope, mean_ci
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.risk import LABELS
from papers.rs_disrl.task import TASKS


def name_of(task: str, risk: str) -> str:
    """A cell's name."""
    return f"{TASKS[task].label}, {LABELS[risk]}"


def regret(rows: Rows, method: str, task: str, risk: str) -> Rows:
    """Regret of a method in a cell: a curve per seed, from K/20 to K."""
    return rows.of(metric="regret", method=method, task=task, risk=risk)


def after(curves: Rows, fraction: float = 1.0) -> Rows:
    """Regret after a fraction of the episodes, a value per seed.

    Raises:
        NoResults: if there is no curve.
    """
    if not (steps := curves.unique("step")):
        raise NoResults(f"no {curves}")
    return curves.of(step=float(max(1, round(steps[-1] * fraction))))


def regret_after(rows: Rows, method: str, task: str, risk: str, fraction: float) -> Rows:
    """:func:`after` of :func:`regret`."""
    return after(regret(rows, method, task, risk), fraction)


def horizon(curves: Rows, fraction: float = 1.0) -> int:
    """The number of episodes behind :func:`after`."""
    return round(after(curves, fraction).frame["step"].iloc[0])


def exponent(curves: Rows) -> Interval:
    """Growth exponent over the last decade.

    Raises:
        NoResults: if there are not two seeds, or there is no regret.
    """
    steps, values = curves.curve(least=2)
    try:
        return loglog_slope(steps, values)
    except ValueError as nothing:  # no regret in some draw of the seeds, or too few episodes
        raise NoResults(f"nothing grows in {curves}") from nothing


def flattening(curves: Rows, fraction: float = 1.0) -> Interval:
    """R(K) - 1.5 R(K/2), K a fraction of all episodes."""
    end, middle = after(curves, fraction).paired(after(curves, fraction / 2))
    return mean_ci(end - 1.5 * middle)


def risks(rows: Rows, method: str, task: str) -> list[str]:
    """The risk measures for which a method has curves on a task, in order.

    Raises:
        NoResults: if there is none.
    """
    there = rows.of(metric="regret", method=method, task=task).unique("risk")
    if not there:
        raise NoResults(f"no runs of {METHODS[method].label} on {TASKS[task].label}")
    return [name for name in LABELS if name in there]


def total(rows: Rows, metric: str, method: str, *tasks: str) -> float:
    """Sum of a count over the risk measures and jobs of a method on some tasks.

    Raises:
        NoResults: if it was run on none of them.
    """
    found = rows.of(metric=metric, method=method, task=tasks)
    if not found:
        raise NoResults(f"no {metric} of {METHODS[method].label}")
    return float(found.frame["value"].sum())


def coverage(rows: Rows, method: str, kind: str) -> tuple[Interval, str]:
    """Fraction of runs on a kind of task with the truth in the set in every episode.

    Returns:
        its interval (Clopper and Pearson), and "n of m runs".

    Raises:
        NoResults: if there are none.
    """
    tasks = [task for task, size in TASKS.items() if size.kind == kind]
    held, n = (round(total(rows, metric, method, *tasks)) for metric in ("runs_in_set", "runs"))
    ci = scipy.stats.binomtest(held, n).proportion_ci(method="exact")
    return Interval(held / n, float(ci.low), float(ci.high), n), f"{held} of {n} runs"


def known(rows: Rows, name: str, task: str, risk: str) -> np.ndarray:
    """A known value (optimal | neutral | markov) of a task for each seed, in their order.

    Raises:
        NoResults: if there is none.
    """
    found = rows.of(metric=f"value_{name}", task=task, risk=risk)
    if not found:
        raise NoResults(f"no {name} value of {name_of(task, risk)}")
    return found.frame.sort_values("step")["value"].to_numpy(float)


def early_exponent(curves: Rows) -> Interval:
    """Growth exponent between K/20 and K/10.

    Raises:
        NoResults: if nothing grows there.
    """
    first, second = after(curves, 0.05).paired(after(curves, 0.1))
    steps = [horizon(curves, 0.05), horizon(curves, 0.1)]
    if steps[0] == steps[1] or not (first.all() and second.all()):
        raise NoResults(f"nothing grows in {curves}")
    return loglog_slope(steps, np.stack([first, second], axis=1), t_min=0)


def over_root(curves: Rows, fraction: float) -> float:
    """Mean regret over the square root of the episodes, after a fraction of them."""
    return after(curves, fraction).value() / float(np.sqrt(horizon(curves, fraction)))


def mean_of(rows: Rows) -> float:
    """Mean over jobs and measures of what is a mean over the seeds of a run.

    Raises:
        NoResults: if there is none.
    """
    if not rows:
        raise NoResults(str(rows))
    return float(rows.frame["value"].mean())


@dataclass(frozen=True)
class Curve:
    """Regret of a method in a cell with its band, and the mean live share of its class."""

    regret: Band
    live: np.ndarray


Curves = dict[tuple[str, str], dict[str, Curve]]  # (task, risk) -> method -> curve


def curves_of(extras: Sequence[Mapping[str, Any]]) -> Curves:
    """Mean curves and bands per cell and method; seeds divided among jobs are pooled."""
    jobs: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for extra in (e for e in extras if e["name"] == "curves"):
        for one in extra["data"]:
            methods = jobs.setdefault((extra["task"], one["risk"]), {})
            methods.setdefault(extra["method"], []).append(one)
    return {at: {m: pooled(parts) for m, parts in by.items()} for at, by in jobs.items()}


def pooled(parts: Sequence[Mapping[str, Any]]) -> Curve:
    """One curve of the jobs among which the seeds of a cell were divided."""
    live = np.average([p["live"] for p in parts], axis=0, weights=[p["n"] for p in parts])
    return Curve(Band.pooled(parts[0]["k"], parts), live)
