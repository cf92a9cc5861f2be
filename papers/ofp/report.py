"""Tables and figures of One-Step Flow Policy: success by calls, routes, first chunks, the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.report import (
    DASH,
    Column,
    Drawing,
    Extras,
    Table,
    cell,
    grid,
    mean,
    report_cli,
    shown,
    tuning,
)
from common.rows import Rows
from papers.ofp import figures as drawings
from papers.ofp.methods import METHODS
from papers.ofp.point_mass import JUDGED_RADIUS, RADII
from papers.ofp.reading import A, B, C, at, published

DIVERGED = 1e3  # a mean beyond it says nothing but that the network diverged
GRID = ("lr", "ema", "frequencies")  # of the tuning

Line = tuple[str, Mapping[str, Any]]


# -- tables -----------------------------------------------------------------------------------


@shown
def bounded(rows: Rows) -> str:
    """Cell: mean with its interval, or that the network diverged."""
    return "diverged" if rows.value() > DIVERGED else cell(rows)


def success(radius: float, best: Any = None) -> Column:
    """Success on A with a disc of that radius."""
    return Column(
        f"success, r = {radius:.2f}", {"task": A, "metric": "success", "radius": radius}, best
    )


def measure(title: str, metric: str, task: str = A, best: Any = None) -> Column:
    """A metric of a task."""
    return Column(title, {"task": task, "metric": metric}, best, bounded)


def lines(rows: Rows, task: str) -> list[Line]:
    """Every method, number of calls and start with closed-loop rows on a task."""
    found: list[Line] = []
    for name in METHODS:
        mine = rows.of(task=task, method=name, metric="gap")
        for n in mine.unique("nfe"):
            for t_w in mine.of(nfe=n).unique("t_w"):
                label = f"{METHODS.label(name)} @{n:.0f}" + (", warm start" if t_w else "")
                found.append((label, {"method": name, "nfe": n, "t_w": t_w}))
    return found


def at_calls(which: str) -> list[Line]:
    """The methods at their numbers of calls that are "shown" or "timed"."""
    return [
        (f"{METHODS.label(name)} @{n}", {"method": name, "nfe": n})
        for name in METHODS
        for n in getattr(METHODS[name], which)
    ]


def main_table(rows: Rows) -> Table:
    """What is judged, in each method's published form."""
    columns = [
        success(0.15, "max"),
        success(0.20, "max"),
        Column("on-mode share", {"task": A, "metric": "on_mode"}, "max", mean(3)),
        Column("W1", {"task": A, "metric": "w1"}, "min", mean(3)),
        Column("gap", {"task": A, "metric": "gap"}, show=mean(3)),
        measure("B: success", "success", B, "max"),
        Column("ms per chunk", {"task": A, "metric": "latency_ms"}, show=mean(3)),
    ]
    title = (
        "Method @calls (A: 5 seeds, B: 3; OFP's rollouts warm; W1 of two draws of the expert: 0.57)"
    )
    return grid(published(rows), title, at_calls("shown"), columns, corner="method", main=True)


def tuned(rows: Rows, which: str, index: int) -> Table:
    """The grid by one-call success, or by that with the most calls that a method has."""
    calls = rows.frame["method"].astype(str).map({m: METHODS[m].calls[index] for m in METHODS})
    of = {"task": A, "metric": "success", "radius": 0.2, "t_w": 0.0}
    title = f"Success with the {which} calls, no warm start, r = 0.20: median of 3 seeds"
    mine = Rows(rows.frame[rows.frame["nfe"] == calls])
    return tuning(mine, METHODS, of, GRID, title=title, best="max")


def tables(rows: Rows) -> list[Table]:
    """The main table, all of A, B and C, the paper's tasks, latency; the study; the tuning."""
    if rows.unique("lr"):
        return [tuned(rows, "fewest", 0), tuned(rows, "most", -1)]
    if rows.of(method=[name for name in METHODS if METHODS[name].study]):
        return [study_table(rows)]
    found = [main_table(rows)]
    columns = [success(r) for r in RADII]
    columns += [
        measure("on-mode share", "on_mode"),
        measure("W1 to expert", "w1"),
        measure("gap between chunks", "gap"),
    ]
    title = "A, two-route point mass: every number of calls (diffusion @10: DDIM, @100: DDPM)"
    found.append(grid(rows, title, lines(rows, A), columns, corner="method"))
    for task, title in ((B, "B: five Meta-World tasks, one policy"), (C, "C: point clouds")):
        subtasks = rows.of(task=task, metric="task_success").unique("subtask")
        each = [
            Column(sub, {"task": task, "metric": "task_success", "subtask": sub}, show=mean(2))
            for sub in (subtasks if len(subtasks) > 1 else ())
        ]
        columns = [measure("success", "success", task), *each, measure("gap", "gap", task)]
        found.append(grid(rows, title, lines(rows, task), columns, corner="method"))
    own = [name for name in rows.unique("task") if name.startswith("dp3-")]
    if own:
        chosen = {label: of for name in own for label, of in lines(rows, name)}
        columns = [measure(name, "success", name) for name in own]
        title = "The paper's tasks: success"
        found.append(grid(rows, title, list(chosen.items()), columns, corner="method"))
    columns = [
        Column(f"network of {name}", {"task": task, "metric": "latency_ms"}, show=mean(3))
        for name, task in (("A", A), ("B", B))
    ]
    title = "Milliseconds per chunk, batch 1, one thread, median of 200 calls"
    found.append(grid(rows, title, at_calls("timed"), columns, corner="method"))
    return [table for table in found if table.rows]


def study_table(rows: Rows) -> Table:
    """One change at a time from the defaults, with the difference of one-step success."""
    cold = rows.of(t_w=0.0)
    default = at(cold, A, "success", ("ofp", 1), t_w=0.0)

    @shown
    def minus(mine: Rows) -> str:
        return str(mine.minus(default)) if mine.unique("method") != ["ofp"] else DASH

    of = success(JUDGED_RADIUS).of
    columns = [
        Column("success @1", {**of, "nfe": 1}),
        Column("minus OFP's", {**of, "nfe": 1}, show=minus),
        Column("on-mode @1", {"task": A, "metric": "on_mode", "nfe": 1}),
        Column("W1 @1", {"task": A, "metric": "w1", "nfe": 1}),
        *(Column(f"success @{n}", {**of, "nfe": n}) for n in (2, 4, 100)),
    ]
    title = (
        "A, seeds that no claim uses, no warm start; OFP's row is not independent of the choice "
        "of its defaults"
    )
    every: list[Line] = [(METHODS.label(name), {"method": name}) for name in METHODS]
    return grid(cold, title, every, columns, corner="change")


# -- figures ----------------------------------------------------------------------------------


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """Quality against calls; routes over the map; first chunks; the study."""
    if rows.unique("lr"):
        return {}
    if rows.of(method=[name for name in METHODS if METHODS[name].study]):
        return {"study": Drawing(drawings.study_figure(rows), drawings.STUDY)}
    drawn = {}
    if figure := drawings.calls_figure(published(rows)):
        drawn["calls"] = Drawing(figure, drawings.CALLS, main=True)
    kinds = (
        ("paths", "routes", drawings.route, drawings.ROUTES),
        ("lateral", "first_chunks", drawings.chunks, drawings.CHUNKS),
    )
    for kind, name, draw, caption in kinds:
        chosen = [extra for extra in extras if extra["name"] == kind]
        chosen.sort(key=lambda extra: (list(METHODS).index(extra["method"]), extra["nfe"]))
        if chosen:
            drawn[name] = Drawing(drawings.small_panels(chosen, draw), caption)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
