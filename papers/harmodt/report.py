"""Tables and figures of HarmoDT: success, errors of actions, masks, conflict, gates."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.harmodt.claims import SWEPT, plain
from papers.harmodt.methods import METHODS
from papers.harmodt.task import SUITES

CURVES = ("harmo_f", "harmo_r", "harmo_f_code", "harmo_m", "prompt_dt")
REFERENCES = [METHODS.label(name) for name in METHODS.having("reference")]


def short(task: str) -> str:
    """A task's name for a head."""
    return task.removesuffix("-v3")


def lines_of(rows: Rows) -> list[tuple[str, dict[str, Any]]]:
    """Every method, and every setting that a sweep gave to it."""
    lines = []
    for label, of in by_method(METHODS):
        lines.append((label, {**of, **dict.fromkeys(SWEPT)}))
        for name in SWEPT:
            values = rows.of(**of, metric="success").unique(name)
            said = name.replace("_", " ")
            lines += [(f"{label}, {said} {v:g}", {**of, name: v}) for v in values]
    return lines


def families(rows: Rows) -> list[str]:
    """The suites without their data's quality, the smallest first."""
    there = rows.of(metric="success").unique("task")
    order = sorted(there, key=lambda task: (bool(SUITES[task].unseen), len(SUITES[task].tasks)))
    return list(dict.fromkeys(task.split("-")[0] for task in order))


def main_table(rows: Rows, family: str, main: bool) -> Table:
    """Success on both kinds of data, and what explains it on the sub-optimal ones."""
    sub, near = f"{family}-sub", f"{family}-near"
    columns = [
        Column("success, sub", {"task": sub, "metric": "success"}, "max"),
        Column("success, near", {"task": near, "metric": "success"}, "max"),
        Column("action error, sub", {"task": sub, "metric": "action_error"}, "min"),
        Column("action error, near", {"task": near, "metric": "action_error"}, "min"),
        Column("pairs in conflict", {"task": sub, "metric": "conflict_masked"}, show=report.last),
        Column("masks kept", {"task": sub, "metric": "kept_masks"}, show=report.mean()),
        Column("gate right", {"task": sub, "metric": "gate_late"}, show=report.mean()),
    ]
    if SUITES[sub].unseen:
        columns.insert(2, Column("unseen, sub", {"task": sub, "metric": "unseen_success"}, "max"))
        columns.pop(1)
    title = (
        f"{family.upper()}: share of successes on goals that no data hold; squared error to the "
        "behaviour's mean action on held-out episodes; share of task pairs in conflict at the end; "
        "Jaccard index of masks with the first ones; gate after twenty steps"
    )
    marks = REFERENCES
    return grid(rows, title, lines_of(rows), columns, corner="method", main=main, unmarked=marks)


def task_table(rows: Rows, suite: str, metric: str, said: str, best: Any) -> Table:
    """A number per task and method."""
    there = rows.of(task=suite, metric=metric)
    columns = [
        Column(short(task), {"subtask": task}, best, show=report.mean())
        for task in there.unique("subtask")
    ]
    lines = by_method(METHODS)
    return grid(
        *(plain(there), f"{suite}: {said}", lines, columns), corner="method", unmarked=REFERENCES
    )


def explained(rows: Rows, suite: str) -> Table:
    """Masks, conflict and gates of one suite."""
    columns = [
        Column("ones", {"metric": "density"}, show=report.mean(3)),
        Column("shared by two masks", {"metric": "shared_masks"}, show=report.mean(3)),
        Column("conflict, dense", {"metric": "conflict_dense"}, show=report.last),
        Column("mean cosine, dense", {"metric": "conflict_dense_cosine"}, show=report.last),
        Column("mean cosine, masked", {"metric": "conflict_masked_cosine"}, show=report.last),
        Column("same drops", {"metric": "repeat_drop"}, show=report.last),
        Column("same recoveries", {"metric": "repeat_recover"}, show=report.last),
        Column("imitation error", {"metric": "imitation_error"}, "min"),
        Column("action error, another's prompt", {"metric": "misled_error"}),
        Column("gate, first step", {"metric": "gate_first"}, show=report.mean()),
    ]
    title = (
        f"{suite}: masks (Jaccard index of pairs); gradients at the end; share of flips that "
        "another batch's scores repeat (at the end; noise: eta_max by the mask's ones "
        "or zeros); error to what was done; with the next task's prompt"
    )
    return grid(plain(rows).of(task=suite), title, by_method(METHODS), columns, corner="method")


def tables(rows: Rows) -> list[Table]:
    """A main table, others by task, of masks and gradients; or a tuning's grid."""
    errors = rows.of(metric="action_error")
    if len(errors.unique("lr")) > 1 and not plain(errors):
        title = "Held-out action error by AdamW's rate (median over seeds), goals of the tuning"
        of = {"metric": "action_error"}
        return [report.tuning(rows, METHODS, of, ["lr"], title=title)]
    made = [main_table(rows, family, not i) for i, family in enumerate(families(rows))]
    for suite in rows.of(metric="success").unique("task"):
        made.append(task_table(rows, suite, "task_success", "success by task", "max"))
        made.append(task_table(rows, suite, "task_action_error", "action error by task", "min"))
        made.append(task_table(rows, suite, "task_behaviour", "successes of the data", None))
        made.append(explained(rows, suite))
        if SUITES[suite].unseen:
            said = "success by task that was not trained on"
            made.append(task_table(rows, suite, "task_unseen_success", said, "max"))
    return [table for table in made if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Success, errors and conflict of the smallest suite (main); curves; overlaps of masks."""
    drawn: dict[str, Drawing] = {}
    own = plain(rows)
    for i, family in enumerate(families(own)):
        sub, near = f"{family}-sub", f"{family}-near"
        panels = [
            Panel("success, sub-optimal data", {"task": sub, "metric": "success"}, "share"),
            Panel("success, near-optimal data", {"task": near, "metric": "success"}, "share"),
            Panel("held-out action error, sub", {"task": sub, "metric": "action_error"}),
            Panel("held-out action error, near", {"task": near, "metric": "action_error"}),
        ]
        if figure := report.intervals(own, METHODS, panels, columns=2):
            text = (
                f"{family.upper()}: mean over seeds with its 95 % interval, a dot per seed; each "
                "is the mean over tasks of twenty goals that no data hold."
            )
            drawn[f"success_{family}"] = Drawing(figure, text, main=not i)
        panels = [
            Panel("pairs in conflict, masked", {"task": sub, "metric": "conflict_masked"}, "share"),
            Panel("mean cosine, masked", {"task": sub, "metric": "conflict_masked_cosine"}),
            Panel("training loss", {"task": sub, "metric": "loss"}),
        ]
        names = [m for m in METHODS if m in CURVES or METHODS[m].role == "added"]
        if figure := report.curves(own, METHODS, panels, names=names, xlabel="iteration"):
            text = f"{sub}: pairs of tasks with a negative gradient cosine, and losses; 95 % bands."
            drawn[f"conflict_{family}"] = Drawing(figure, text)
    maps = [
        (METHODS.label(e["method"]), e["data"])
        for e in sorted(extras, key=lambda e: (list(METHODS).index(e["method"]), e["seed"]))
        if e["name"] == "overlap" and e["task"].endswith("-sub")
    ]
    first = list(dict(reversed(maps)).items())[:6]  # the first seed of each method
    if figure := report.heatmaps(first, bar="Jaccard index"):
        text = "How much the final masks share, tasks (or groups) in their order, one seed."
        drawn["overlap"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
