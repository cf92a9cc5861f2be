"""Tables and figures of RBS: success by task and method, updates to a half, P_B, success maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.report import (
    DASH,
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    heatmaps,
    mean,
    report_cli,
    shown,
)
from common.rows import NoResults, Rows
from papers.rbs.methods import METHODS

TASKS = {
    "g6": "G6",
    "g16": "G16",
    "g32": "G32",
    "g16-unseen": "G16, 20 % held out",
    "b12": "words of 12 bits",
    "b20": "words of 20 bits",
}
EXACT = "exact flow"
RACES = (  # title, task, metric along the run
    ("G16", "g16", "success"),
    ("G32", "g32", "success"),
    ("G16, held-out goals", "g16-unseen", "unseen"),
    ("words of 20 bits", "b20", "success"),
)


def to_half(rows: Rows) -> str:
    """Cell: mean updates to 50 % success, where every seed reached it; else how many did."""
    reached = rows.of(metric="reached_half")
    if not reached:
        return DASH
    done = reached.values(least=1)
    if done.all():
        return mean(0)(rows.of(metric="updates_to_half"))
    return f"{int(done.sum())} of {len(done)} seeds"


def soonest(rows: Rows) -> float:
    """What decides the best of the column: no candidate where a seed did not reach it."""
    if not rows.of(metric="reached_half").values(least=1).all():
        raise NoResults("not reached")
    return rows.of(metric="updates_to_half").value()


def main_table(rows: Rows) -> Table:
    """Success by task; updates to a half, entropy of P_B and flows on G16."""
    columns = [
        Column(title, {"task": task, "metric": f"final_{metric}"}, "max")
        for title, task, metric in RACES
    ]
    on_g16 = {"task": "g16"}
    columns += [
        Column("updates to 50 %, G16", on_g16, "min", show=to_half, value=soonest),
        Column("H(P_B), nats, G16", {**on_g16, "metric": "final_entropy"}),
        Column("flow error, G16", {**on_g16, "metric": "source_gap"}, "min"),
    ]
    title = (
        "Exact success rate after 1,000 (G16), 1,200 (G32, words) updates; flow error: mean "
        "of abs(log F(s0) − log C)"
    )
    table = grid(rows, title, by_method(METHODS), columns, corner="method", main=True)
    exact = [EXACT, "1", "1", "1", "1", DASH, DASH, "0"]
    return Table(table.title, table.columns, [*table.rows, exact], main=True)


def everything(rows: Rows) -> Table:
    """Every task and method."""
    names = [*TASKS, *(t for t in rows.unique("task") if t not in TASKS)]
    lines = [
        (f"{TASKS.get(task, task)}: {METHODS.label(m)}", {"task": task, "method": m})
        for task in names
        for m in METHODS
    ]
    columns = [
        Column("success", {"metric": "final_success"}),
        Column("success of rollouts", {"metric": "final_rollout_success"}),
        Column("held-out goals", {"metric": "final_unseen"}),
        Column("updates to 50 %", show=to_half),
        Column("H(P_B), nats", {"metric": "final_entropy"}),
        Column("distinct walks of 64", {"metric": "distinct_paths"}),
        Column("distinct orders of 512", {"metric": "distinct_orders"}),
        Column("flow error", {"metric": "source_gap"}),
    ]
    title = (
        "Success (exact), of the last goal's 64 backward walks how many differ, and in how many "
        "orders of removal the backward walks from 512 words go, one walk each"
    )
    return grid(rows, title, lines, columns, corner="task: method")


def lead(rows: Rows) -> Table:
    """RBS-DB's success minus HER-DB's along the run, paired by seed."""
    updates = range(200, 1201, 200)

    def ahead(there: Rows, step: int) -> str:
        ours, theirs = (there.of(method=m, step=step) for m in ("rbs-db", "her-db"))
        return shown(ours.minus)(theirs)

    body = []
    for label, task, metric in RACES:
        there = rows.of(task=task, metric=metric)
        cells = [ahead(there, step) for step in updates]
        if set(cells) != {DASH}:
            body.append([label, *cells])
    title = "Success of RBS-DB minus that of HER-DB after so many updates"
    return Table(title, ["task", *map(str, updates)], body)


def tables(rows: Rows) -> list[Table]:
    """The main table, every task and method, and RBS against HER along the run."""
    return [t for t in (main_table(rows), everything(rows), lead(rows)) if t.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Success (and entropy of P_B) against updates; success by goal."""
    drawn: dict[str, Drawing] = {}
    panels = [
        *(Panel(title, {"task": t, "metric": metric}, "success") for title, t, metric in RACES),
        Panel("G16: P_B", {"task": "g16", "metric": "entropy"}, "mean H(P_B), nats"),
        Panel("words: P_B", {"task": "b20", "metric": "entropy"}, "mean H(P_B), nats"),
    ]
    if figure := curves(rows, METHODS, panels, xlabel="update", width=3.0):
        for ax in figure.axes:
            ax.set_ylim(bottom=-0.02)
        text = (
            "Exact success on the task's goals, and entropy of the backward policy at states with "
            "two predecessors, against updates: mean and 95 % band over 5 seeds."
        )
        if rows.of(task="b20", method=("her-db", "gc-db")):
            text += " Forward only and, on words, HER-DB lie on the axis in the panels of success."
        drawn["success"] = Drawing(figure, text, main=True)
    others = [
        Panel(TASKS.get(t, t), {"task": t, "metric": "success"}, "success")
        for t in rows.unique("task")
        if not any(p.of["task"] == t for p in panels)
    ]
    if figure := curves(rows, METHODS, others, xlabel="update", width=3.0):
        text = "Exact success against updates: mean and 95 % band over the seeds."
        drawn["others"] = Drawing(figure, text)
    for task in ("g16", "g32"):
        found = {
            e["method"]: np.array(e["data"]).T
            for e in extras
            if e["name"] == "success_map" and e["task"] == task
        }
        maps = [(METHODS.label(m), found[m]) for m in METHODS if m in found]
        if len(maps) < 2:
            continue
        figure = heatmaps([(t, np.clip(x, 0, 1)) for t, x in maps], columns=4, bar="success")
        if figure is not None:
            for image in (image for ax in figure.axes for image in ax.images):
                image.set_clim(0, 1)
            text = (
                f"Success by goal on {TASKS[task]} at the end, mean over the seeds; the source is "
                "the lower left corner."
            )
            drawn[f"map_{task}"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
