"""Tables of uniINF: regret, its growth, ratios to others, what uniINF did; figures.py draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.report import (
    DASH,
    Column,
    Table,
    grid,
    mean,
    report_cli,
)
from common.rows import NoResults, Rows
from common.stats import mean_ci
from papers.uniinf.figures import MAIN_ALPHA, figures, marked
from papers.uniinf.methods import METHODS
from papers.uniinf.regret import TASK_LABELS, alphas, curves, exponent, final, name_of, over
from papers.uniinf.task import make_env

TOLD_RIGHT = [name for name, method in METHODS.items() if not method.mistold]


def tasks(rows: Rows) -> list[str]:
    """The environments that were run, in order."""
    there = set(rows.unique("task"))
    return [task for task in TASK_LABELS if task in there]


def or_dash(compute: Callable[[], Any]) -> str:
    """A cell, or a dash where nothing was run or nothing can be fitted."""
    try:
        return str(compute())
    except NoResults:
        return DASH


def thousands(x: float) -> str:
    """A number of regret; thousands without decimals."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def shown(rows: Rows) -> str:
    """Mean with its interval."""
    try:
        ci = mean_ci(rows.values())
    except NoResults:
        return DASH
    return (
        str(ci)
        if abs(ci.value) < 1000
        else "{} [{}, {}]".format(*(thousands(x) for x in (ci.value, ci.low, ci.high)))
    )


def uniform_regret(task: str, alpha: float, horizon: int) -> float:
    """Pseudo-regret of uniform play, exactly."""
    env = make_env(task, alpha, horizon)
    lengths = np.diff(np.append(env.starts, horizon + 1))
    return float(lengths @ env.gaps.mean(axis=1))


def regret_table(rows: Rows, alpha: float, *, main: bool) -> Table:
    """Pseudo-regret at the horizon: methods and environments."""
    at = rows.of(metric="regret", alpha=alpha)
    horizon = max(at.unique("step"))
    there = tasks(at)
    columns = [Column(TASK_LABELS[t], {"task": t}, "min", shown) for t in there]
    names = [n for n in METHODS if not (main and METHODS[n].mistold)]
    title = (
        f"Pseudo-regret at T = {horizon:,.0f}, α = {alpha:g}, {len(at.unique('seed'))} seeds; "
        "† is given the true σ and α; E4 is against the best fixed arm"
    )
    table = grid(
        at.of(step=horizon),
        title,
        [(marked(n), {"method": n}) for n in names],
        columns,
        corner="method",
        unmarked=[marked(n) for n in METHODS.having("reference")],
    )
    exact = [thousands(uniform_regret(t, alpha, int(horizon))) for t in there]
    return Table(title, table.columns, [*table.rows, ["uniform play (exact)", *exact]], main)


def growth_table(rows: Rows) -> Table:
    """Proved rate and fitted exponents of all methods."""
    lines = []
    for task in (t for t in tasks(rows) if t != "e4"):  # whose regret is negative
        proved = "T^{1/α} polylog T" if task == "e2" else "log T"
        for name in TOLD_RIGHT:
            fits = [
                or_dash(lambda n=name, t=task, a=a: exponent(*curves(rows, n, t, a)))
                for a in alphas(rows)
            ]
            if set(fits) != {DASH}:
                lines.append([f"{TASK_LABELS[task]}: {marked(name)}", proved, *fits])
    columns = ["", "uniINF, proved", *(f"α={a:g}" for a in alphas(rows))]
    return Table("Growth exponent of the mean regret over the last decade", columns, lines)


def ratio_table(rows: Rows) -> Table:
    """uniINF's regret over that of the others."""
    others = [n for n in TOLD_RIGHT if n != "uniinf"]
    lines = [
        [name_of(task, alpha)]
        + [
            or_dash(
                lambda n=n, t=task, a=alpha: over(final(rows, "uniinf", t, a), final(rows, n, t, a))
            )
            for n in others
        ]
        for task in tasks(rows)
        if task != "e4"
        for alpha in alphas(rows)
    ]
    title = "uniINF's mean regret at T over that of the others (below 1: uniINF has less)"
    return Table(title, ["", *(marked(n) for n in others)], lines)


def counts_table(rows: Rows) -> Table:
    """What uniINF did: rounds skipped, final S, pulls of the best arm."""
    lines = [
        (name_of(task, alpha), {"method": "uniinf", "task": task, "alpha": alpha})
        for task in tasks(rows)
        for alpha in alphas(rows)
    ]
    columns = [
        Column("rounds skipped", {"metric": "skipped"}, show=mean(1)),
        Column("S at T (from 4)", {"metric": "final_S"}, show=mean(2)),
        Column("fraction of pulls of i*", {"metric": "best_fraction"}, show=mean(4)),
    ]
    return grid(rows, "What uniINF does, mean over seeds", lines, columns)


def spread_table(rows: Rows) -> Table:
    """Mean against median over seeds where few seeds carry the mean."""
    lines = []
    for alpha in alphas(rows):
        for name in TOLD_RIGHT:
            try:
                x = final(rows, name, "e3-s1", alpha)
            except NoResults:
                continue
            large = (x > 10 * np.median(x)).mean()
            lines.append(
                [f"α={alpha:g}: {marked(name)}", str(mean_ci(x)), f"{np.median(x):.4g}"]
                + [f"{x.max():.4g}", f"{large:.2f}"]
            )
    columns = ["", "mean", "median", "largest", "share of seeds above 10 medians"]
    return Table("E3: regret at T over seeds", columns, lines)


def tables(rows: Rows) -> list[Table]:
    """Regret for each alpha, ratios, growth, spread, counts."""
    regret = [
        regret_table(rows, alpha, main=alpha == MAIN_ALPHA and 3 < len(tasks(rows)) < 8)
        for alpha in alphas(rows)
    ]
    rest = [ratio_table(rows), growth_table(rows), spread_table(rows), counts_table(rows)]
    return [table for table in [*regret, *rest] if table.rows]


if __name__ == "__main__":
    report_cli(tables, figures)
