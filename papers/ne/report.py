"""Tables and figures of NE: returns, neurons, topologies, the probe."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.ne.claims import CYCLE, PLAIN, PROBE
from papers.ne.config import SWEPT
from papers.ne.methods import METHODS

MEASURED = ("final_return", "last_inactive")  # a run has one of them
CURVES = ("ne", "ne-no-review", "ne-random", "dense", "static", "redo", "reset")


def control_tasks(rows: Rows) -> list[str]:
    """Tasks of reinforcement learning, the flipping one first."""
    there = rows.of(metric="final_return").unique("task")
    return sorted(there, key=lambda task: (not task.startswith(CYCLE[:-1]), task))


def plain(rows: Rows) -> Rows:
    """Rows of runs with the task's own settings."""
    return rows.of(**PLAIN)


def settings(rows: Rows) -> list[tuple[str, dict[str, Any]]]:
    """Lines of a table: every method, and every setting that was given to it."""
    lines = []
    for label, of in by_method(METHODS):
        lines.append((label, {**of, **PLAIN}))
        for name in SWEPT:
            lines += [
                (f"{label}, {name.replace('_', ' ')} {value:g}", {**of, name: value})
                for value in rows.of(**of).of(metric=MEASURED).unique(name)
            ]
    return lines


def returns(rows: Rows, task: str) -> Table:
    """Returns and neurons of one task."""
    columns = [
        Column("return", {"metric": "final_return"}, "max"),
        Column("other direction", {"metric": "final_other"}, "max"),
        Column("mean over training", {"metric": "mean_return"}, "max"),
        Column("critics' active share", {"metric": "critic_active"}, "max"),
        Column("actor's active share", {"metric": "actor_active"}, "max"),
        Column("critics' density", {"metric": "critic_density"}, show=report.last),
        Column("reviewed", {"metric": "reviewed_share"}, show=report.mean()),
    ]
    if not rows.of(task=task, metric="final_other"):
        columns.pop(1)
    title = (
        f"{task}: means over the last quarter of training (return where a direction flips: over "
        "the ends of the last two phases; density: at its end)"
    )
    of = rows.of(task=task)
    lines = settings(of)
    return grid(of, title, lines, columns, corner="method", main=task.startswith(CYCLE[:-1]))


def topologies(rows: Rows, task: str) -> Table:
    """What topologies and review did on one task."""
    columns = [
        Column("updates skipped", {"metric": "critic_skipped"}, show=report.mean(0)),
        Column("pruned, critic", {"metric": "critic_pruned"}, show=report.mean(0)),
        Column("pruned, actor", {"metric": "actor_pruned"}, show=report.mean(0)),
        Column("least net growth", {"metric": "least_growth"}, show=report.mean(0)),
        Column("most pruned of grown", {"metric": "most_pruned"}, show=report.mean(3)),
        Column("review: other direction", {"metric": "review_other"}, show=report.mean()),
        Column("inactive, rise (critic)", {"metric": "critic_inactive_rise"}),
        Column("dormant, critic", {"metric": "critic_final_dormant"}, show=report.mean(3)),
        Column("gain since last learned", {"metric": "relearned"}),
        Column("return, untrained", {"metric": "untrained_return"}, show=report.mean(0)),
        Column("return, random", {"metric": "random_return"}, show=report.mean(0)),
    ]
    title = (
        f"{task}: topologies, review and floors (gain: trained return of the last phase less that "
        "of the last one in the same direction; dormant: f = 0 alone, the paper's measure)"
    )
    return grid(plain(rows).of(task=task), title, by_method(METHODS), columns, corner="method")


def probe(rows: Rows) -> Table:
    """The probe."""
    columns = [
        Column("inactive", {"metric": "last_inactive"}, "min"),
        Column("inactive, rise", {"metric": "inactive_rise"}, "min"),
        Column("FAU", {"metric": "last_fau"}, "max"),
        Column("early accuracy, first", {"metric": "first_early_accuracy"}, "max"),
        Column("early accuracy", {"metric": "last_early_accuracy"}, "max"),
        Column("accuracy, first", {"metric": "first_accuracy"}, "max"),
        Column("accuracy", {"metric": "last_accuracy"}, "max"),
    ]
    title = (
        "Digits with permuted labels: last five tasks (first: first five); early accuracy after a "
        "quarter of a task's steps"
    )
    of = rows.of(task=PROBE)
    return grid(of, title, settings(of), columns, corner="method")


def tables(rows: Rows) -> list[Table]:
    """A main table of the flipping task; others, topologies, the probe; or a tuning's grid."""
    tuned = rows.of(metric="final_return")
    if any(len(tuned.of(task=t).unique("lr")) > 1 for t in control_tasks(rows)):  # labels
        made = []
        for task in control_tasks(rows):
            title = f"{task}: final return by learning rate (median over seeds)"
            of = {"metric": "final_return", "task": task}
            made.append(report.tuning(rows, METHODS, of, ["lr"], title=title, best="max"))
        return made
    made = [returns(rows, task) for task in control_tasks(rows)]
    made += [probe(rows)] if rows.of(task=PROBE) else []
    made += [topologies(rows, task) for task in control_tasks(rows)]
    return [table for table in made if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Curves of every task; the flipping one's with the probe's beside it is the main figure."""
    drawn: dict[str, Drawing] = {}
    own = plain(rows)
    names = [m for m in METHODS if m in CURVES or METHODS[m].role == "added"]
    for task in control_tasks(own):
        main = task.startswith(CYCLE[:-1])
        panels = [
            Panel("return, trained", {"task": task, "metric": "return"}, "per episode"),
            Panel("return, other", {"task": task, "metric": "other_return"}, "per episode"),
            Panel("critics' inactive", {"task": task, "metric": "critic_inactive"}, "share"),
            Panel("critics' FAU", {"task": task, "metric": "critic_fau"}, "share"),
            Panel("critics' density", {"task": task, "metric": "critic_density"}, "share"),
        ]
        if main:
            panels.append(Panel("probe, inactive", {"task": PROBE, "metric": "inactive"}, "share"))
        steps = "episodes" if task.startswith("pixels") else "environment steps (probe: tasks)"
        if figure := report.curves(own, METHODS, panels, names=names, xlabel=steps):
            text = (
                f"{task}: mean over seeds and 95 % band. Trained: the direction that is paid at "
                "that time. Inactive: dormant or constant neurons."
            )
            drawn[f"curves_{task.replace('-', '_')}"] = Drawing(figure, text, main=main)
    shown = [
        Panel("inactive, last five tasks", {"task": PROBE, "metric": "last_inactive"}, "share"),
        Panel("early accuracy", {"task": PROBE, "metric": "last_early_accuracy"}, "last five"),
    ]
    if figure := report.intervals(own, METHODS, shown):
        text = "Probe: mean over seeds with its 95 % interval, a dot per seed."
        drawn["probe"] = Drawing(figure, text, main=not drawn)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
