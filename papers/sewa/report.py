"""Tables and figures of SeWA: scores, training losses, what was chosen, what it cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.sewa.methods import METHODS

TITLES = {
    "bc-hopper": "Hopper",
    "digits": "digits",
    "digits-clean": "digits, right labels",
    "digits-spoiled": "digits, a quarter spoiled",
    "digits-negated": "digits, a quarter negated",
    "digits-aliased": "digits, references only",
    "text": "snippets",
    "bc-d4rl-hopper": "D4RL Hopper",
    "bc-d4rl-walker2d": "D4RL Walker2d",
    "cifar100-1": "CIFAR-100, 1 block",
    "cifar100-3": "CIFAR-100, 3 blocks",
    "cifar100-5": "CIFAR-100, 5 blocks",
    "ag-news": "AG News",
}
SHORT = {"bc-hopper": "return", "digits": "accuracy", "text": "accuracy"}
SHORT |= {"digits-clean": "accuracy"}
MAIN = ("bc-hopper", "digits", "text")
REFERENCE = [METHODS.label("oracle")]
TABLE = ("sewa", "last", "lawa", "swa", "all", "ema", "ema-steps", "random", "greedy", "search",
         "twa", "oracle")  # fmt: skip


def tasks_of(rows: Rows) -> list[str]:
    """The tasks that have scores, in order."""
    there = rows.of(metric="score").unique("task")
    return [task for task in TITLES if task in there]


def tuned(rows: Rows) -> bool:
    """Whether several rates or windows were tried with one method on one task."""
    part = rows.of(metric="score", method="sewa")
    return any(
        len(part.of(task=t).unique(label)) > 1
        for t in part.unique("task")
        for label in ("lr", "window")
    )


@report.shown
def percent(part: Rows) -> str:
    """Cell: a share as a percentage."""
    return f"{100 * part.value():.3g} %"


@report.shown
def plain(part: Rows) -> str:
    """Cell: a mean to three digits."""
    return f"{part.value():.3g}"


def tables(rows: Rows) -> list[Table]:
    """Main table; per task and K everything; distances of neighbouring trainings."""
    tasks = tasks_of(rows)
    if tasks and tuned(rows):
        title = "{}: median over seeds of the score, by learning rate of the mask and window"
        return [
            report.tuning(rows, METHODS, {"metric": "score", "task": t}, ["lr", "window"],
                          title=title.format(TITLES[t]), best="max")
            for t in tasks
        ]  # fmt: skip
    made = []
    if main := main_table(rows, tasks):
        made.append(main)
    for task in tasks:
        for K in rows.of(task=task, metric="score").unique("K"):
            made.append(whole_table(rows, task, K))
    if rows.of(metric="apart"):
        columns = [
            Column(f"{head}, {window}", {"metric": metric, "of": of}, "min")
            for of, window in (("last", "k = 50"), ("half", "k = T/2"))
            for head, metric in (("own choice", "apart"), ("same choice", "same"))
        ]
        title = "Two data sets that differ in one example: distance of the models"
        made.append(grid(rows, title, by_method(METHODS), columns, corner="method"))
    return [table for table in made if table.rows]


def main_table(rows: Rows, tasks: list[str]) -> Table | None:
    """Scores and training losses of up to three tasks, K = 10, and the digits' variants."""
    chosen = [t for t in MAIN if t in tasks] or tasks[:3]
    if not chosen:
        return None
    columns = []
    for t in chosen:
        K = rows.of(task=t, metric="score").unique("K")
        size = 10 if 10 in K else K[0]
        of = {"task": t, "K": size}
        columns.append(Column(TITLES[t], {**of, "metric": "score"}, "max"))
        if t in MAIN[:2] or len(chosen) < 3:
            columns.append(
                Column("its training loss", {**of, "metric": "train_loss"}, "min", plain)
            )
    for t, head in (("digits-clean", "digits, right labels"), ("digits-spoiled", "spoiled")):
        if t in tasks:
            columns.append(Column(head, {"task": t, "metric": "score"}, "max", plain))
    names = [n for n in METHODS if n in TABLE or METHODS[n].role == "added"]
    if not rows.of(method=names, metric="score"):
        names = list(METHODS)
    title = "Score (return, or accuracy in percent) and loss on all training data, K = 10"
    return grid(
        rows, title, by_method(METHODS, names), columns, corner="method", main=True,
        unmarked=REFERENCE,
    )  # fmt: skip


def whole_table(rows: Rows, task: str, K: int) -> Table:
    """All that is known of a task and a size."""
    of = rows.of(task=task, K=K)
    columns = [
        Column(SHORT.get(task, "score"), {"metric": "score"}, "max"),
        Column("test loss", {"metric": "test_loss"}, "min"),
        Column("training loss", {"metric": "train_loss"}, "min"),
        Column("expected count", {"metric": "count"}, show=plain),
        Column("spoiled among them", {"metric": "picked"}, show=percent),
        Column("passes of a batch", {"metric": "calls"}, show=report.mean(0)),
        Column("CPU seconds", {"metric": "seconds"}, show=report.mean(2)),
    ]
    one = of.of(method=of.unique("method")[0])  # the snapshots are the same for all
    spread, size = (one.of(metric=m) for m in ("spread", "megabytes"))
    about = f"spread of the snapshots {plain(spread)}, {plain(size)} MB"
    title = f"{TITLES[task]}, K = {K:g}: {about}"
    return grid(of, title, by_method(METHODS), columns, corner="method", unmarked=REFERENCE)


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Scores and training losses (main); which snapshots are chosen; how the mask gets there."""
    tasks = tasks_of(rows)
    if not tasks or tuned(rows):
        return {}
    drawn: dict[str, Drawing] = {}
    panels = []
    for metric, name in (("score", ""), ("log_train_loss", "log training loss")):
        for t in [t for t in MAIN if t in tasks] or tasks[:3]:
            K = rows.of(task=t, metric="score").unique("K")
            of = {"task": t, "metric": metric, "K": 10 if 10 in K else K[0]}
            panels.append(Panel(f"{TITLES[t]}", of, name or SHORT.get(t, "score")))
    names = [n for n in METHODS if n != "oracle"]
    if figure := report.intervals(rows, METHODS, panels, names=names, width=2.9):
        text = (
            "Score (above) and logarithm of the loss on all training data (below) of the averaged "
            "model, K = 10: mean with 95 % interval, seeds as dots."
        )
        drawn["scores"] = Drawing(figure, text, main=True)
    if figure := report.heatmaps(chosen_maps(extras, tasks), width=2.6, columns=3, bar="share"):
        text = (
            "Share of the seeds in which a snapshot is chosen (bottom to top: SeWA, then others "
            "that look at the loss), from the earliest to the latest."
        )
        drawn["chosen"] = Drawing(figure, text)
    shown = [
        Panel(f"{TITLES[t]}: {what}", {"task": t, "metric": metric}, what)
        for t in tasks[:2]
        for metric, what in (("expected", "expected count"), ("gap", "gap"))
    ]
    few = rows.of(K=rows.of(task=tasks[0]).unique("K")[:1])
    if figure := report.curves(few, METHODS, shown, xlabel="iteration"):
        text = (
            "Expected number of snapshots of a mask, and smallest probability chosen less "
            "largest not chosen, while the mask is learnt."
        )
        drawn["learning"] = Drawing(figure, text)
    return drawn


def chosen_maps(extras: list[dict[str, Any]], tasks: list[str]) -> list[tuple[str, np.ndarray]]:
    """By task: share of the runs that chose each snapshot, a line per method that looks."""
    maps = []
    for task in tasks[:3]:
        mine = [e for e in extras if e["name"] == "chosen" and e["task"] == task]
        k = max((max(e["data"][1], default=0) for e in mine), default=0) + 1
        lines = []
        for method in ("sewa", "search", "greedy"):
            sets = [e["data"][1] for e in mine if e["method"] == method]
            if sets:
                lines.append(np.mean([np.isin(np.arange(k), s) for s in sets], 0))
        if lines:
            maps.append((TITLES[task], np.repeat(np.array(lines), max(1, k // 6), 0)))
    return maps


if __name__ == "__main__":
    report.report_cli(tables, figures)
