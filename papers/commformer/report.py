"""Tables and figures of CommFormer: steps to the end, communication, graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.commformer.claims import CAPTURE, PURSUIT
from papers.commformer.methods import METHODS

TITLES = {
    PURSUIT: "5 predators",
    CAPTURE: "1 sees, 3 capture",
    "pp-3": "3 predators",
    "pcp-2-1": "2 see, 1 captures",
}
DRAWN = {task for task in TITLES if task.startswith("pcp")}  # judged by drawn actions
BOUNDS = [METHODS.label(name) for name in ("uniform", "oracle")]
SHOWN = 12  # matrices in the figure of graphs


def steps_in(task: str) -> str:
    """The metric by which a task is judged."""
    return "drawn_steps" if task in DRAWN else "steps"


def named(task: str) -> str:
    """What a task is called in tables and figures."""
    return TITLES.get(task, task)


def tuned(rows: Rows) -> bool:
    """Whether the rows are those of a tuning: several clips on one task."""
    steps = rows.of(metric="steps")
    return any(len(steps.of(task=task).unique("clip")) > 1 for task in steps.unique("task"))


def tables(rows: Rows) -> list[Table]:
    """Main table of steps and communication; then every task with what its graphs are like."""
    lines, tasks = by_method(METHODS), rows.of(metric="steps").unique("task")
    if tuned(rows):
        title = "{}: median over seeds of the mean steps, by PPO's clip"
        return [
            report.tuning(
                rows,
                METHODS,
                {"task": task, "metric": steps_in(task)},
                ["clip"],
                title=title.format(named(task)),
            )
            for task in tasks
        ]
    chosen = [task for task in TITLES if task in tasks] or tasks
    columns = [column for task in chosen for column in main_columns(task)]
    title = (
        "Mean steps until all have found (captured) the prey, 256 episodes of at most 20, last "
        "three evaluations, actions most probable (capture: drawn); edges in use, of N(N − 1); "
        "steps when all edges are cut after training"
    )
    made = [grid(rows, title, lines, columns[:7], corner="method", main=True, unmarked=BOUNDS)]
    columns = [
        Column("steps", {"metric": "steps"}, "min"),
        Column("steps, actions drawn", {"metric": "drawn_steps"}, "min"),
        Column("success", {"metric": "success"}, "max"),
        Column("return", {"metric": "return"}, "max"),
        Column("mean over training", {"metric": "steps_curve"}, "min", *over_training()),
        Column("edges cut afterwards", {"metric": "steps_cut"}),
        Column("edges cut, drawn", {"metric": "drawn_steps_cut"}),
        Column("edges used", {"metric": "used"}),
        Column("own edges chosen", {"metric": "self_edges"}),
        Column("rows to the one that sees", {"metric": "to_seeing"}, show=total),
        Column("rows that hear the most heard", {"metric": "most_heard"}, show=report.mean()),
        Column("last switch of an edge at step", {"metric": "settled"}, show=report.mean(0)),
        Column("spread of α at the end", {"metric": "spread"}, show=report.last),
    ]
    for task in tasks:
        title = f"{named(task)} ({task}): steps to the end and what the graph is like"
        own = rows.of(task=task)
        made.append(grid(own, title, lines, columns, corner="method", unmarked=BOUNDS))
    return [table for table in made if table.rows]


def main_columns(task: str) -> list[Column]:
    """Of the main table: steps, edges in use, steps with all of them cut, who hears whom."""
    head, metric = named(task), steps_in(task)
    columns = [
        Column(f"{head}: steps", {"task": task, "metric": metric}, "min"),
        Column("edges", {"task": task, "metric": "used"}, show=report.mean()),
        Column("edges cut", {"task": task, "metric": f"{metric}_cut"}),
    ]
    if task == CAPTURE:
        own = {"task": task, "metric": "to_seeing"}
        columns.append(Column("blind rows to the one that sees", own, show=total))
    return columns


def of_curve_value(part: Rows) -> float:
    """Mean of a curve over steps and seeds."""
    return float(part.curve()[1].mean())


@report.shown
def of_curve(part: Rows) -> str:
    """Cell: mean of a curve over steps and seeds."""
    return f"{of_curve_value(part):.3f}"


def over_training() -> tuple[Any, Any]:
    """How a cell of a mean over training is shown, and its number."""
    return of_curve, of_curve_value


@report.shown
def total(part: Rows) -> str:
    """Cell: the sum over seeds."""
    return f"{part.values(least=1).sum():.0f} in {len(part)} runs"


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Learning curves (main), communication against steps, the graphs that were learned."""
    drawn: dict[str, Drawing] = {}
    if tuned(rows):
        return drawn  # its tables say it
    tasks = rows.of(metric="steps_curve").unique("task")
    tasks = [task for task in TITLES if task in tasks] or tasks
    panels = [
        Panel(named(t), {"task": t, "metric": f"{steps_in(t)}_curve"}, "mean steps") for t in tasks
    ]
    panels += [
        Panel(f"{named(t)}: edges", {"task": t, "metric": "used_curve"}, "of N(N − 1)")
        for t in tasks[:2]
    ]
    wide = {"xlabel": "environment steps", "width": 3.0, "columns": 2 if len(panels) == 4 else 3}
    if figure := report.curves(rows, METHODS, panels[:6], **wide):
        text = (
            "Mean steps to the end of 256 episodes (an unfinished one counts 20; most probable "
            "actions, where agents are blind drawn ones), and the share of edges to others in use, "
            "against training; mean over seeds and 95 % band."
        )
        drawn["curves"] = Drawing(figure, text, main=True)
    shown = [Panel(named(t), {"task": t, "metric": steps_in(t)}, "mean steps") for t in tasks]
    if figure := report.intervals(rows, METHODS, shown, width=3.0):
        text = (
            "Mean steps at the end of training: mean over seeds with its 95 % interval, a dot per "
            "seed; perfect information is a bound that no team can pass."
        )
        drawn["steps"] = Drawing(figure, text)
    learned = [
        e for e in extras if e["name"] == "adjacency" and METHODS[e["method"]].graph == "learned"
    ]
    learned.sort(key=lambda e: (e["task"] != CAPTURE, e["task"], list(METHODS).index(e["method"])))
    maps = [
        (f"{METHODS.label(e['method'])}\n{e['task']}, seed {e['seed']}", np.array(e["data"]))
        for e in learned
    ]
    if figure := report.heatmaps(maps[:SHOWN], width=1.7):
        text = (
            "Graphs at execution. A row is a receiver (the first one at the "
            "bottom), a column a sender; bright: listens. On pcp-1-3 the last agent sees."
        )
        drawn["graphs"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
