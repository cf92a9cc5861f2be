"""Tables and figures of Prompt Diffuser: scores, what pools cost, where prompts point."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import report
from common.plotting import Figure
from common.report import Column, Drawing, Panel, Table, axes_for, by_method, grid
from common.rows import Rows
from papers.prompt_diffuser.claims import PLAIN, SWEPT
from papers.prompt_diffuser.methods import METHODS
from papers.prompt_diffuser.task import TASKS

REFERENCES = [METHODS.label(name) for name in METHODS.having("reference")]
MAIN = (  # lines of the README's table; all others are in results/*.md
    *("prompt_diffuser", "sum", "dm_only", "dt_only", "regression", "gradient"),
    *("prompt_tuning_dt", "soft", "adapter", "fine_tuning", "prompt_dt", "right_prompt"),
)
DRAWN = ("prompt_diffuser", "sum", "dm_only", "dt_only", "regression", "prompt_dt")


def tasks_of(rows: Rows) -> list[str]:
    """The tasks that were run, in the order of their table."""
    there = set(rows.of(metric="score").unique("task"))
    return [name for name in TASKS if name in there]


def lines_of(rows: Rows, names: Any = None) -> list[tuple[str, dict[str, Any]]]:
    """Every method, and every setting that a sweep gave to it."""
    lines = []
    for label, of in by_method(METHODS, names):
        lines.append((label, {**of, **PLAIN}))
        for name in SWEPT:
            values = rows.of(**of, metric="score").unique(name)
            lines += [(f"{label}, {name} {v:g}", {**of, name: v}) for v in values]
    return lines


def main_table(rows: Rows) -> Table:
    """Scores of the smallest families by pool, tuned parameters, calls."""
    there = tasks_of(rows)
    small = [t for t in there if t.endswith(("-expert", "-random"))][:5]
    columns = [Column(t, {"task": t, "metric": "score"}, "max") for t in small]
    columns += [
        Column("tuned", {"task": there[0], "metric": "parameters"}, show=report.mean(0)),
        Column("calls", {"task": there[0], "metric": "calls"}, show=report.mean(0)),
    ]
    title = (
        "Score (0: random actions, 1: an expert), mean over test tasks, 95 % over seeds; tuned "
        f"parameters and calls of the policy per test task, {there[0]}"
    )
    lines = lines_of(rows.of(**PLAIN), [*MAIN, *METHODS.having("added")])
    return grid(rows, title, lines, columns, corner="method", main=True, unmarked=REFERENCES)


def explained(rows: Rows, task: str) -> Table:
    """What the losses came to, and how far prompts are from those of experts and of the pool."""
    columns = [
        Column("score", {"metric": "score"}, "max"),
        Column("return", {"metric": "return"}, show=report.mean(1)),
        Column("L_DT, last", {"metric": "guidance"}, show=report.last),
        Column("L_DM, last", {"metric": "denoising"}, show=report.last),
        Column("cosine, last", {"metric": "cosine"}, show=report.last),
        Column("to the expert's", {"metric": "expert_distance"}, show=report.mean()),
        Column("to the pool's", {"metric": "pool_distance"}, show=report.mean()),
    ]
    if rows.of(task=task, metric="alignment"):
        columns.append(Column("pointing", {"metric": "alignment"}, show=report.mean()))
    elif rows.of(task=task, metric="success"):
        columns.append(Column("success", {"metric": "success"}, "max"))
    title = (
        f"{task}: losses and the cosine of their gradients at the end; squared distance of prompts "
        "to the nearest of the few episodes, per number"
    )
    own = rows.of(task=task)
    return grid(own, title, lines_of(own), columns, corner="method", unmarked=REFERENCES)


def by_test_task(rows: Rows, task: str) -> Table:
    """Score of every test task."""
    own = rows.of(**PLAIN, task=task, metric="task_score")
    order = sorted(own.unique("subtask"), key=float)
    columns = [Column(s, {"subtask": s}, "max", show=report.mean()) for s in order]
    title = f"{task}: score by test task"
    return grid(own, title, by_method(METHODS), columns, corner="method", unmarked=REFERENCES)


def tables(rows: Rows) -> list[Table]:
    """A main table, others by task; or a tuning's grid."""
    scores = rows.of(metric="score")
    if len(scores.unique("lr")) > 1 and not scores.of(**PLAIN):
        title = "Score by Adam's rate (median over seeds), directions of the tuning, random pool"
        return [report.tuning(rows, METHODS, {"metric": "score"}, ["lr"], title=title, best="max")]
    made = [main_table(rows)]
    for task in tasks_of(rows):
        made += [explained(rows, task), by_test_task(rows, task)]
    return [table for table in made if table.rows]


def pointing(extras: list[dict[str, Any]], task: str) -> Figure | None:
    """Where prompts point: mean action of each, turned so that the task's direction is right."""
    own = [e for e in extras if e["name"] == "pointing" and e["task"] == task]
    first: dict[str, Any] = {}
    for e in sorted(own, key=lambda e: e["seed"]):
        first.setdefault(e["method"], e["data"])
    shown = [name for name in METHODS if name in first and name in DRAWN]
    if not shown:
        return None
    colour = METHODS.colours()
    figure, axes = axes_for(len(shown), 3, 2.2, 2.2)
    for ax, name in zip(axes, shown, strict=True):
        points = np.asarray(first[name])
        ax.plot(points[:, 0], points[:, 1], ".", color=colour[name], ms=4, alpha=0.5)
        ax.plot([1.0], [0.0], "k*", ms=9)
        ax.set(title=METHODS.label(name), xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    return figure


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Scores of up to six tasks (main), losses and cosines, where prompts point."""
    drawn: dict[str, Drawing] = {}
    own = rows.of(**PLAIN)
    there = tasks_of(own)
    panels = [Panel(task, {"task": task, "metric": "score"}, "score") for task in there]
    for part in range(0, len(panels), 6):
        if figure := report.intervals(own, METHODS, panels[part : part + 6]):
            text = (
                "Score (0: random actions, 1: an expert): mean over seeds with its 95 % interval, "
                "a dot per seed, each the mean over test tasks. A task's second half says who made "
                "the pool that prompts are drawn from."
            )
            name = "scores" if not part else f"scores_{part // 6 + 1}"
            drawn[name] = Drawing(figure, text, main=not part)
    for task in there:
        of = {"task": task}
        panels = [
            Panel("action error L_DT", {**of, "metric": "guidance"}, log="y"),
            Panel("denoising loss L_DM", {**of, "metric": "denoising"}, log="y"),
            Panel("cosine of their gradients", {**of, "metric": "cosine"}),
        ]
        if figure := report.curves(own, METHODS, panels, xlabel="update"):
            text = f"{task}: losses while tuning, mean over test tasks, 95 % band over seeds."
            drawn[f"losses_{task}"] = Drawing(figure, text)
        if figure := pointing(extras, task):
            text = (
                f"{task}: the mean action of each of twenty prompts of each test task, one seed, "
                "turned so that the task's direction is to the right (star)."
            )
            drawn[f"pointing_{task}"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
