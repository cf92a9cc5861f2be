"""Tables of uniINF: regret, its growth, ratios to others, what uniINF did; figures.py draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.claims import marked
from common.report import Column, Table, grid, mean, report_cli, shown
from common.rows import Rows
from common.stats import mean_ci
from papers.uniinf.figures import MAIN_ALPHA, figures
from papers.uniinf.methods import METHODS
from papers.uniinf.regret import TASK_LABELS, alphas, exponent, name_of, over
from papers.uniinf.task import make_env

TOLD_RIGHT = [name for name, method in METHODS.items() if not method.mistold]


def tasks(rows: Rows) -> list[str]:
    """The environments that were run, in order."""
    there = set(rows.unique("task"))
    return [task for task in TASK_LABELS if task in there]


def thousands(x: float) -> str:
    """A number of regret; thousands without decimals."""
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


@shown
def whole(rows: Rows) -> str:
    """Mean with its interval."""
    ci = mean_ci(rows.values())
    if abs(ci.value) < 1000:
        return str(ci)
    return "{} [{}, {}]".format(*(thousands(x) for x in (ci.value, ci.low, ci.high)))


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
    columns = [Column(TASK_LABELS[t], {"task": t}, "min", whole) for t in there]
    names = [n for n in METHODS if not (main and METHODS[n].mistold)]
    title = (
        f"Pseudo-regret at T = {horizon:,.0f}, α = {alpha:g}, {len(at.unique('seed'))} seeds; "
        "† is given the true σ and α; E4 is against the best fixed arm"
    )
    table = grid(
        at.of(step=horizon),
        title,
        [(marked(METHODS, n), {"method": n}) for n in names],
        columns,
        corner="method",
        unmarked=[marked(METHODS, n) for n in METHODS.having("reference")],
    )
    exact = [thousands(uniform_regret(t, alpha, int(horizon))) for t in there]
    return Table(title, table.columns, [*table.rows, ["uniform play (exact)", *exact]], main)


def growth_table(rows: Rows) -> Table:
    """Fitted exponents of all methods, beside the rate that is proved of uniINF."""

    fitted = shown(lambda cell: exponent(*cell.curve(least=2)))
    lines = [
        (f"{TASK_LABELS[task]}: {marked(METHODS, name)}", {"task": task, "method": name})
        for task in tasks(rows)
        if task != "e4"  # whose regret is negative
        for name in TOLD_RIGHT
    ]
    columns = [
        Column("uniINF, proved", show=proved),
        *(Column(f"α={a:g}", {"metric": "regret", "alpha": a}, show=fitted) for a in alphas(rows)),
    ]
    title = "Growth exponent of the mean regret over the last decade"
    return grid(rows.of(metric="regret"), title, lines, columns)


def proved(cell: Rows) -> str:
    """uniINF's rate in an environment."""
    return "T^{1/α} polylog T" if cell.unique("task") == ["e2"] else "log T"


def ratio_table(rows: Rows) -> Table:
    """uniINF's regret over that of the others."""

    def against(name: str) -> Callable[[Rows], str]:
        return shown(lambda cell: over(*(last(cell.of(method=m)) for m in ("uniinf", name))))

    lines = [
        (name_of(task, alpha), {"task": task, "alpha": alpha})
        for task in tasks(rows)
        if task != "e4"
        for alpha in alphas(rows)
    ]
    others = [n for n in TOLD_RIGHT if n != "uniinf"]
    columns = [Column(marked(METHODS, n), {"metric": "regret"}, show=against(n)) for n in others]
    title = "uniINF's mean regret at T over that of the others (below 1: uniINF has less)"
    return grid(rows, title, lines, columns)


def last(cell: Rows) -> np.ndarray:
    """Regret at the horizon, a value per seed."""
    return cell.curve(least=2)[1][:, -1]


def spread_table(rows: Rows) -> Table:
    """Mean against median over seeds where few seeds carry the mean."""
    shares: dict[str, Callable[[np.ndarray], str]] = {
        "mean": lambda x: str(mean_ci(x)),
        "median": lambda x: f"{np.median(x):.4g}",
        "largest": lambda x: f"{x.max():.4g}",
        "share of seeds above 10 medians": lambda x: f"{(x > 10 * np.median(x)).mean():.2f}",
    }
    of = {"task": "e3-s1", "metric": "regret"}
    lines = [
        (f"α={alpha:g}: {marked(METHODS, name)}", {"method": name, "alpha": alpha})
        for alpha in alphas(rows)
        for name in TOLD_RIGHT
    ]
    columns = [
        Column(head, of, show=shown(lambda cell, f=f: f(last(cell)))) for head, f in shares.items()
    ]
    return grid(rows, "E3: regret at T over seeds", lines, columns)


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
