"""Tables and figures of VQ-CD: scores after the last task, R[i, j], latents, steps of DDIM."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import report
from common.plotting import Figure
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.vq_cd.claims import SAME, SPACES, NoResults, plain, sequences
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import SEQUENCES

REFERENCES = [METHODS.label(name) for name in METHODS.having("reference")]
PANELS = 6  # matrices of the main figure


def first_of(rows: Rows, pattern: str) -> str:
    """The shortest sequence of a kind that was run; "" if none was."""
    try:
        return sequences(rows, pattern)[0]
    except NoResults:
        return ""


def main_table(rows: Rows) -> Table:
    """P, what each task had when it was learned, and what was forgotten."""
    columns = []
    for pattern in (SPACES, SAME):
        if task := first_of(rows, pattern):
            columns += [
                Column(f"P, {task}", {"task": task, "metric": "score"}, "max"),
                Column("when learned", {"task": task, "metric": "own"}, show=report.mean(1)),
                Column("forgetting", {"task": task, "metric": "forgetting"}, show=report.mean(1)),
            ]
    task = first_of(rows, SPACES) or first_of(rows, SAME)
    if task:
        columns.append(
            Column("noise loss", {"task": task, "metric": "noise_loss"}, show=report.mean(3))
        )
    title = (
        "Scores (0 doing nothing, 100 the data's search's best; one space: successes in %): "
        "P after the last task, mean when each was learned, forgetting; held-out noise loss at the "
        "end"
    )
    lines = by_method(METHODS)
    return grid(rows, title, lines, columns, corner="method", main=True, unmarked=REFERENCES)


def by_task(rows: Rows, sequence: str) -> Table:
    """The score of each task once it was learned and at the end."""
    names = [domain.name for domain in SEQUENCES[sequence]]
    columns = [
        Column(f"{name.removesuffix('-v3')}, {said}", {"metric": metric, "subtask": name})
        for name in names
        for metric, said in (("task_own", "learned"), ("task_end", "end"))
        if rows.of(task=sequence, metric=metric, subtask=name)
    ]
    title = f"{sequence}: scores by task, when it was learned and after the last one"
    own = rows.of(task=sequence)
    return grid(own, title, by_method(METHODS), columns, corner="method", unmarked=REFERENCES)


def explained(rows: Rows, sequence: str) -> Table:
    """Latents, losses, outputs and sizes."""
    columns = [
        Column("state error", {"metric": "state_error"}, show=report.mean(3)),
        Column("action error", {"metric": "action_error"}, show=report.mean(3)),
        Column("perplexity", {"metric": "perplexity"}, show=report.mean(1)),
        Column("largest latent", {"metric": "largest_latent"}, show=report.mean(1)),
        Column("outputs moved", {"metric": "output_change"}, show=report.mean(3)),
        Column("by the last checkpoint", {"metric": "unassembled_change"}, show=report.mean(3)),
        Column("parameters", {"metric": "parameters"}, show=report.mean(0)),
    ]
    title = (
        f"{sequence}: reconstruction over the variance, codes in use, range of what is diffused; "
        "how far the outputs on earlier tasks have moved, and would have by the last checkpoint's "
        "weights; numbers of the denoiser that acting on all tasks needs"
    )
    return grid(rows.of(task=sequence), title, by_method(METHODS), columns, corner="method")


def other_settings(rows: Rows, sequence: str) -> list[Table]:
    """Scores under other returns, and what other numbers of steps cost."""
    made = []
    own = rows.of(task=sequence)
    if targets := own.of(metric="score_at").unique("target"):
        columns = [
            Column(f"R = {t:g}", {"metric": "score_at", "target": t}, show=report.cell)
            for t in targets
        ]
        title = f"{sequence}: P when acting is conditioned on other returns"
        made.append(grid(own, title, by_method(METHODS), columns, corner="method"))
    if steps := own.of(metric="calls").unique("steps"):
        columns = [
            Column(f"{said}, {s:g} steps", {"metric": metric, "steps": s}, show=report.mean(digits))
            for s in steps
            for metric, said, digits in (("calls", "calls", 0), ("seconds_action", "s", 3))
        ]
        title = f"{sequence}: calls of the denoiser and seconds of an action (all seeds at once)"
        made.append(grid(own, title, by_method(METHODS), columns, corner="method"))
    return made


def tables(rows: Rows) -> list[Table]:
    """A main table, others by sequence; or the grids of a tuning."""
    own, losses, made = plain(rows), rows.of(metric="noise_loss"), []
    if not plain(losses):
        for label, said in (("lr", "Adam's rate"), ("elastic", "EWC's lambda")):
            for task in losses.unique("task"):
                part = losses.of(task=task)
                if len(part.unique(label)) > 1:
                    title = f"{task}: held-out noise loss after the last task by {said} (median)"
                    of = {"metric": "noise_loss"}
                    made.append(report.tuning(part, METHODS, of, [label], title=title))
        return made
    if first_of(own, SPACES) or first_of(own, SAME):
        made.append(main_table(own))
    for sequence in own.of(metric="score").unique("task"):
        made += [by_task(own, sequence), explained(own, sequence)]
        made += other_settings(own, sequence)
    return [table for table in made if table.rows]


def matrices(drawn: list[dict[str, Any]]) -> Figure:
    """R[i, j] of some methods side by side: after task i (rows, from above), on task j."""
    data = [np.array(e["data"], float) for e in drawn]
    low = min(0.0, min(float(np.nanmin(d)) for d in data))
    high = max(float(np.nanmax(d)) for d in data)
    figure, axes = report.axes_for(len(drawn), 3, 2.6, 2.4)
    for ax, entry, values in zip(axes, drawn, data, strict=True):
        ax.imshow(values, vmin=low, vmax=max(high, low + 1), cmap="viridis")
        middle = (low + high) / 2
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > middle else "white"
                ax.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
        names = [name.removesuffix("-v3") for name in entry["tasks"]]
        ax.set_xticks(range(len(names)), names, fontsize=6, rotation=20)
        ax.set_yticks(range(len(names)), [f"after {name}" for name in names], fontsize=6)
        ax.set_title(METHODS.label(entry["method"]), fontsize=9)
        ax.grid(False)
    return figure


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """R[i, j] of the first sequence (main) and of others; scores; training losses."""
    drawn: dict[str, Drawing] = {}
    own, order = plain(rows), list(METHODS)
    there = [t for p in (SPACES, SAME) if first_of(own, p) for t in sequences(own, p)]
    for number, sequence in enumerate(there):
        maps = {
            e["method"]: e
            for e in sorted(extras, key=lambda e: order.index(e["method"]))
            if e["name"] == "matrix" and e["task"] == sequence
        }
        if shown := list(maps.values())[:PANELS]:
            text = (
                f"{sequence}: the score on each task (columns) after each task was learned (rows), "
                "mean over seeds; what stays as it is down a column is not forgotten."
            )
            drawn[f"matrix_{sequence}"] = Drawing(matrices(shown), text, main=not number)
        both = (("P after the last task", "score", "score"), ("forgetting", "forgetting", "points"))
        panels = [Panel(title, {"task": sequence, "metric": m}, y) for title, m, y in both]
        if figure := report.intervals(own, METHODS, panels, columns=2):
            text = f"{sequence}: means over seeds with 95 % intervals, a dot per seed."
            drawn[f"scores_{sequence}"] = Drawing(figure, text)
        panels = [Panel("noise loss", {"task": sequence, "metric": "loss"})]
        if figure := report.curves(own, METHODS, panels, xlabel="update of all tasks"):
            text = f"{sequence}: training losses, task after task; Multitask's is of all at once."
            drawn[f"losses_{sequence}"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
