"""Tables and figures of MEow: goals and returns, soft values, determinants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Circle

from common import report
from common.plotting import OTHERS, Figure, curve, panels
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.meow.claims import CHEETAH, GOALS, LINEAR, LONG, NON_LINEAR, SETTLED, START
from papers.meow.methods import METHODS
from papers.meow.multigoal import GOALS as PLACES
from papers.meow.multigoal import RADIUS


def label(method: str, task: str) -> str:
    """A method's label, with what is different in the long run."""
    return METHODS.label(method) + (", 12,000 steps, τ = .01" if task == LONG else "")


def named(heads: Mapping[str, str], task: str | None = None) -> list[Column]:
    """Columns of means with intervals, the largest marked: head -> metric."""
    where = {} if task is None else {"task": task}
    return [Column(head, {"metric": metric, **where}, "max") for head, metric in heads.items()]


def largest(part: Rows) -> str:
    """Cell: the largest absolute value."""
    return f"{np.abs(part.values(least=1)).max():.1e}" if part else report.DASH


def shares(part: Rows) -> str:
    """Cell: the goals' shares."""
    return " / ".join(f"{part.of(goal=g).value():.2f}" for g in part.unique("goal"))


def at(step: float) -> Callable[[Rows], str]:
    """Cell: mean of a curve at the first point from ``step`` on; 0: its start, inf: its end."""

    def value(part: Rows) -> str:
        steps, values = part.curve()
        place = min(int(np.searchsorted(steps, step)), len(steps) - 1)
        return f"{values[:, place].mean():.2f}"

    return report.shown(value)


def tables(rows: Rows) -> list[Table]:
    """Main table; goals, map of values and estimates on multi-goal; returns and determinants."""
    methods, own = by_method(METHODS), rows.of(task=GOALS, method="meow")
    runs = [(label(m, t), {"method": m, "task": t}) for t in (GOALS, LONG) for m in METHODS]
    goals = {"entropy of goals": "goal_entropy", "return": "return"}
    returns = {"final return": "final_return", "mean over evaluations": "auc"}
    columns = named({"multi-goal: rarest goal": "rarest_goal", **goals}, GOALS)
    columns += named({f"HalfCheetah: {head}": metric for head, metric in returns.items()}, CHEETAH)
    title = (
        "Multi-goal, 4,000 steps, 100 stochastic episodes (all goals alike: .25 and log 4 = 1.39 "
        "nats); HalfCheetah-v5, deterministic episodes"
    )
    made = [grid(rows, title, methods, columns, corner="method", main=True)]
    columns = [Column("share of right / left / up / down", {"metric": "goal_share"}, show=shares)]
    columns += named({"any goal": "reached", "rarest": "rarest_goal", **goals})
    title = "Multi-goal: 100 stochastic episodes of at most 200 steps"
    made.append(grid(rows, title, runs, columns))
    states, sizes = (own.of(metric="mc_error").unique(name) for name in ("state", "samples"))
    columns = [
        Column("V of the flow", {"metric": "exact_v"}),
        Column("quadrature − V, largest", {"metric": "quadrature_error"}, show=largest),
        *(Column(f"M = {m:,.0f}", {"metric": "mc_error", "samples": m}) for m in sizes),
        Column("fitted Gaussian − V", {"metric": "sac_error"}),
    ]
    title = "Soft values of MEow: median absolute error of uniform estimates with M samples"
    lines = [(f"({s.replace(' ', ', ')})", {"state": s}) for s in states]
    made.append(grid(own, title, lines, columns, corner="state"))
    columns = [Column("mean |V − V*|", {"metric": "map_error"}, "min")]
    columns += named({"correlation with V*": "map_correlation"})
    for s in (START, "2 0", "2 2"):
        columns.append(Column(f"V({s.replace(' ', ', ')})", {"metric": "exact_v", "state": s}))
    title = "Learned V and the exact soft optimal value (V*(0, 0) = −114.6, V*(2, 0) = −46.4)"
    made.append(grid(rows, title, runs, columns))
    columns = [*named(returns), Column("drift of Σ log σ", {"metric": "log_det_drift"})]
    for name, metric in (("linear", LINEAR), ("non-linear", NON_LINEAR)):
        for when, step in (("at first", 0), (f"at {SETTLED:,}", SETTLED), ("at the end", np.inf)):
            columns.append(Column(f"{name}, {when}", {"metric": metric}, show=at(step)))
    for task in rows.of(metric="final_return").unique("task"):
        title = f"{task}: deterministic episodes; means of the logs of the determinants' products"
        made.append(grid(rows.of(task=task), title, methods, columns, corner="method"))
    return [table for table in made if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Paths and value maps (main), goals by method, Monte-Carlo errors, learning curves."""
    drawn: dict[str, Drawing] = {}
    if any(e["name"] == "paths" for e in extras):
        text = (
            "Multi-goal, first seed of each run. Above: 20 stochastic episodes from the centre; "
            "grey: the four goals. Below, in the same column: the soft value V that this flow has "
            "learned; in the last column the exact soft optimum V*, of no method. One colour scale."
        )
        drawn["multigoal"] = Drawing(multigoal_figure(extras), text, main=True)
    shown = [
        Panel("entropy of the goals", {"task": GOALS, "metric": "goal_entropy"}, "nats"),
        Panel("rarest goal", {"task": GOALS, "metric": "rarest_goal"}, "share of episodes"),
        Panel("return", {"task": GOALS, "metric": "return"}, "stochastic"),
    ]
    if figure := report.intervals(rows, METHODS, shown, width=3.0):
        text = (
            "Multi-goal after 4,000 steps: mean over seeds with its 95 % interval, a dot per seed. "
            "MEow's own rate of the slow copy is τ = .0005."
        )
        drawn["goals"] = Drawing(figure, text)
    if rows.of(task=GOALS, method="meow", metric="mc_error"):
        text = (
            "Median absolute error of the uniform importance-sampling estimate of V against its "
            "number of samples M, by state (colours, nearly on each other); mean over seeds and "
            "95 % band. The paper shows about 20 for M from 2,000 to 10,000."
        )
        drawn["soft_values"] = Drawing(soft_value_figure(rows), text)
    for task in rows.of(metric="final_return").unique("task"):
        shown = [
            Panel(f"{task}: return", {"task": task, "metric": "returns"}, "deterministic"),
            Panel("linear product", {"task": task, "metric": LINEAR}, "log"),
            Panel("non-linear product", {"task": task, "metric": NON_LINEAR}, "log"),
        ]
        text = (
            "Return of deterministic episodes, and logs of the determinants' products (linear: "
            "layers that do not depend on the action; non-linear: the others) at the first states "
            "seen; mean over seeds and 95 % band. MEow and LRS alone nearly lie on each other in "
            "the products; SAC has none."
        )
        shown = [panel for panel in shown if len(rows.of(**panel.of).unique("step")) > 1]
        if figure := report.curves(rows, METHODS, shown, width=3.0):
            drawn[f"returns_{task.split('-')[0].lower()}"] = Drawing(figure, text)
    return drawn


def multigoal_figure(extras: list[dict[str, Any]]) -> Figure:
    """Stochastic paths of one seed per run; the V that it has learned below, and V* at the end."""
    first = {(e["name"], e["method"], e["task"]): e["data"] for e in reversed(extras)}
    keys = [(m, t) for t in (GOALS, LONG) for m in METHODS if ("paths", m, t) in first]
    flows = [key for key in keys if METHODS[key[0]].has_value]
    others = [key for key in keys if key not in flows]
    if any(task == LONG for _, task in flows):
        others = others[-1:]  # six panels
    below = {i: (f"V of {label(*key)}", np.array(first["V", *key])) for i, key in enumerate(flows)}
    if flows:
        last = len(flows) + max(len(others), 1) - 1
        below[last] = ("exact soft V*", np.array(first["V*", *flows[0]]))
    columns = max([len(others), *(i + 1 for i in below)])
    figure, axes = panels(2 if below else 1, columns, width=2.7, height=2.6)
    for ax in axes.flat:
        ax.set_visible(False)
    for ax, key in zip(axes[0], [*flows, *others], strict=False):
        plane(ax, label(*key))
        for path in first["paths", *key]:
            x, y = np.array(path).T
            ax.plot(x, y, color=METHODS.colours()[key[0]], linewidth=0.7, alpha=0.6)
    scale = {"vmin": min((v.min() for _, v in below.values()), default=0)}
    scale["vmax"] = max((v.max() for _, v in below.values()), default=0)
    for i, (title, values) in below.items():
        plane(axes[1, i], title)
        box = (-6.75, 6.75, -6.75, 6.75)
        image = axes[1, i].imshow(values.T, extent=box, origin="lower", cmap="viridis", **scale)
        if i == max(below):
            figure.colorbar(image, ax=list(axes[1]), shrink=0.8, label="soft value")
    return figure


def plane(ax: Any, title: str) -> None:
    """The box and the four goals."""
    ax.set_visible(True)
    for place in PLACES:
        ax.add_patch(Circle(tuple(place), RADIUS, color="#BBBBBB", zorder=0))
    ax.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal")
    ax.set_title(title, fontsize=8)
    ax.grid(False)


def soft_value_figure(rows: Rows) -> Figure:
    """Error of the uniform estimate against its number of samples, by state."""
    errors = rows.of(task=GOALS, method="meow", metric="mc_error")
    figure, axes = panels(1, 1, width=4.2)
    ax, sizes = axes[0, 0], errors.unique("samples")
    for state, colour in zip(errors.unique("state"), OTHERS, strict=False):
        values = [errors.of(state=state, samples=m).values(least=1) for m in sizes]
        name = f"({state.replace(' ', ', ')})"
        curve(ax, sizes, np.array(values).T, label=name, color=colour, marker="o", markersize=3)
    ax.set(xscale="log", yscale="log", xlabel="samples M", ylabel="|estimate − V|, median")
    ax.legend(title="state")
    return figure


if __name__ == "__main__":
    report.report_cli(tables, figures)
