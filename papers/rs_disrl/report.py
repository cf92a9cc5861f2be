"""Tables and figures of RS-DisRL: regret, growth, sets, known values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from common import bands
from common.bands import Band, Line
from common.plotting import Axes, Figure
from common.report import Column, Drawing, Table, by_method, grid, report_cli, shown
from common.rows import Rows
from papers.rs_disrl import reading
from papers.rs_disrl.eval import LIVE_AT
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.reading import Curve, Curves, mean_of, name_of
from papers.rs_disrl.risk import LABELS
from papers.rs_disrl.task import TASKS

LEARNERS = [name for name in METHODS if not METHODS[name].known]
MAIN = [("i1", "cvar25"), ("i1", "entropic_m1"), ("i1-n32", "cvar25")]  # task, risk
MAIN += [(task, risk) for task in ("i2", "i2-rare") for risk in ("cvar25", "entropic_m1")]


# -- tables -------------------------------------------------------------------------------------


def regret_table(
    rows: Rows, title: str, cells: Sequence[tuple[str, str]], *, main: bool = False
) -> Table:
    """Regret at K: methods × cells; † after those that are told the model."""

    def interval(part: Rows) -> Any:
        ci = part.ci()
        return ci if max(abs(ci.low), abs(ci.high)) > 1e-9 else 0

    columns = []
    for task, risk in cells:
        of = {"metric": "regret", "task": task, "risk": risk}
        if steps := rows.of(**of).unique("step"):
            head = f"{name_of(task, risk) if main else LABELS[risk]}, K={steps[-1]:,.0f}"
            columns.append(Column(head, {**of, "step": float(steps[-1])}, "min", shown(interval)))
    lines = []
    for name, method in METHODS.items():
        hidden = method.known == "optimal" or (main and method.tuned)
        if not hidden and any(rows.of(method=name, **c.of) for c in columns):
            mark = "†" if method.role == "reference" else ""
            lines.append((method.label + mark, {"method": name}))
    marked = [label for label, _ in lines if label.endswith("†")]
    return grid(rows, title, lines, columns, corner="method", main=main, unmarked=marked)


def live_table(rows: Rows) -> Table:
    """Size of the live set, mean over seeds, CVaR 0.25."""
    lines = [
        (f"{label}, {TASKS[task].label}", {"task": task, "metric": "live", "risk": "cvar25", **of})
        for task in ("i1", "i1-n32")
        for label, of in by_method(METHODS, LEARNERS)
    ]
    last = [int(s) for s in rows.of(task=("i1", "i1-n32"), metric="live").unique("step")[-1:]]
    columns = [
        Column(f"k = {k:,}", {"step": float(k)}, show=shown(lambda r: f"{mean_of(r):.1f}"))
        for k in dict.fromkeys((*LIVE_AT, *last))
    ]
    title = "Live models (of N) or candidates (of N², V) before episode k, CVaR 0.25"
    return grid(rows, title, lines, columns)


def values_table(rows: Rows) -> Table:
    """Known values of the drawn models, with L_inf and the number of rejected draws."""
    lines = [
        (name_of(task, risk), {"task": task, "risk": risk, "method": "oracle"})
        for task in TASKS
        for risk in LABELS
    ]
    heads = {"V*": "value_optimal", "risk-neutral optimum": "value_neutral"}
    heads |= {"best Markov in s": "value_markov", "L∞": "lipschitz", "draws rejected": "rejected"}
    columns = [
        Column(head, {"metric": metric}, show=shown(lambda r: f"{mean_of(r):.5g}"))
        for head, metric in heads.items()
    ]
    return grid(rows, "What is lost without risk and without y (means over draws)", lines, columns)


def growth_table(rows: Rows) -> Table:
    """Exponents early and late, and regret over √k, which √K would keep constant."""
    lines = [
        (f"{label}, {name_of(task, risk)}", {"task": task, "risk": risk, "metric": "regret", **of})
        for task in TASKS
        for risk in ("cvar25", "entropic_m1")
        for label, of in by_method(METHODS, LEARNERS)
        if TASKS[task].kind != "finite" or METHODS[of["method"]].objective == "mean"
    ]
    columns = [
        Column("exponent, K/20 to K/10", show=shown(reading.early_exponent)),
        Column("exponent, K/10 to K", show=shown(reading.exponent)),
    ]
    for head, fraction in (("R/√k at K/10", 0.1), ("at K/2", 0.5), ("at K", 1.0)):
        root = partial(reading.over_root, fraction=fraction)
        columns.append(Column(head, show=shown(lambda r, root=root: f"{root(r):.2f}")))
    return grid(rows, "Growth of the regret (proved for the four estimators: 1/2)", lines, columns)


def coverage_table(rows: Rows) -> Table:
    """Coverage and optimism, tuned and approximate ones as well."""
    lines = [
        (f"{label}, {TASKS[task].label}", {"task": task, **of})
        for task in TASKS
        for label, of in by_method(METHODS, LEARNERS)
    ]
    heads = {"runs with the truth always in the set": "runs_in_set", "of": "runs"}
    columns = [
        Column(head, {"metric": name}, show=lambda r: f"{r.frame['value'].sum():.0f}")
        for head, name in heads.items()
    ]
    columns += [
        Column(head, {"metric": name}, show=shown(lambda r: f"{mean_of(r):.4f}"))
        for head, name in (("share of episodes", "in_set"), ("optimistic", "optimistic"))
    ]
    title = "Coverage and optimism, all risk measures (LSR's set on I2 is one-sided)"
    return grid(rows, title, lines, columns)


def tables(rows: Rows) -> list[Table]:
    """Main table; regret for each task; live sets, known values, growth, coverage."""
    learnt = rows.of(metric="regret", method=LEARNERS)
    title = "Risk-regret († told the model; the optimum has 0)"
    made = [regret_table(rows, title, MAIN, main=True)]
    for task in TASKS:
        if there := learnt.of(task=task).unique("risk"):
            cells = [(task, risk) for risk in LABELS if risk in there]
            made.append(regret_table(rows, f"Risk-regret, {TASKS[task].label}", cells))
    made += [live_table(rows), values_table(rows), growth_table(rows), coverage_table(rows)]
    return [table for table in made if table.rows and len(table.columns) > 1]


def draw(curves: Curves, risk: str, *, sizes: bool) -> Figure:
    """Regret in up to four cells; ``sizes``: also the live share of the finite classes."""
    there = [task for task in TASKS if (task, risk) in curves and len(curves[task, risk]) > 2]
    cells = [task for task in there if (task, risk) in MAIN or task == "i1-n32"] or there[:4]
    shares = [task for task in cells if sizes and TASKS[task].kind == "finite"]
    colour, dash = METHODS.colours(), METHODS.dashes()

    def lines(task: str, band: Callable[[Curve], Band], *, of_sets: bool = False) -> list[Line]:
        found = curves[task, risk]
        names = [n for n in LEARNERS if n in found and not (of_sets and METHODS[n].greedy)]
        return [Line(METHODS.label(n), band(found[n]), colour[n], dash[n]) for n in names]

    def live(one: Curve) -> Band:
        return Band.exact(one.regret.x, one.live / max(one.live.max(), 1))

    def decorate(i: int, ax: Axes) -> None:
        share = i >= len(cells)  # greedy has none: its set is one model
        ax.set(ylabel="live share of the class" if share else "risk-regret")
        if share:
            ax.set(yscale="log")
            ax.autoscale(axis="y")

    panels = [(name_of(task, risk), lines(task, lambda one: one.regret)) for task in cells]
    panels += [(name_of(task, risk), lines(task, live, of_sets=True)) for task in shares]
    sizes_of = {"width": 3.3, "height": 2.6}
    return bands.draw(panels, decorate=decorate, yscale="symlog", xlabel="episode k", **sizes_of)


CAPTION = "Risk-regret (exact) against episodes, mean and 95 % band over seeds; axes logarithmic "
CAPTION += "(regret linear below 1). Colours and dashes: methods. "
LIVE = "Last panels: live share of the finite class; the sets of M-MLE, risk-neutral and Markov "
LIVE += "optimism lie on each other."


def figures(rows: Rows, extras: Sequence[Mapping[str, Any]]) -> dict[str, Drawing]:
    """Regret and live sets; regret under the entropic measure."""
    curves, drawn = reading.curves_of(extras), {}
    for risk, name in (("cvar25", "regret"), ("entropic_m1", "regret_entropic")):
        if any(at[1] == risk and len(curves[at]) > 2 for at in curves):
            main = name == "regret"
            text = CAPTION + (LIVE if main else "")
            drawn[name] = Drawing(draw(curves, risk, sizes=main), text, main)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
