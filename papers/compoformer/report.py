"""Tables and figures of CompoFormer: success, forgetting, reuse, and the attention drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import report
from common.plotting import Figure
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.compoformer.claims import SWEPT, plain, streams
from papers.compoformer.methods import METHODS
from papers.compoformer.task import STREAMS

REFERENCES = [METHODS.label(name) for name in METHODS.having("reference")]
BY_PLACE = ("expert", "mean")  # what has its success in the tables by place alone
MAPS = 6  # of attention, at most


def short(task: str) -> str:
    """A task's name for a head."""
    return task.removesuffix("-v3").replace("handle-press-side", "handle")


def lines_of(rows: Rows) -> list[tuple[str, dict[str, Any]]]:
    """Every method, and every setting that a sweep gave to it."""
    lines = []
    for label, of in by_method(METHODS):
        lines.append((label, {**of, **dict.fromkeys(SWEPT)}))
        for name in SWEPT:
            values = rows.of(**of, metric="performance").unique(name)
            said = {"give_back": "q", "strength": "λ", "eta": "η"}.get(name, name)
            lines += [(f"{label}, {said} {v:g}", {**of, name: v}) for v in values]
    return lines


def main_table(rows: Rows, stream: str, main: bool) -> Table:
    """What a stream came to."""
    columns = [
        Column("success P", {"metric": "performance"}, "max"),
        Column("forgetting F", {"metric": "forgetting"}, "min"),
        Column("forward transfer", {"metric": "forward_transfer"}, "max"),
        Column("action error", {"metric": "action_error"}, "min"),
        Column("actions moved", {"metric": "drift"}, show=report.mean(3)),
        Column("tasks that grew", {"metric": "grown"}, show=report.mean(1)),
        Column("parameters", {"metric": "parameters"}, show=report.mean(0)),
    ]
    title = (
        f"{stream}: success after the last of {len(STREAMS[stream].tasks)} tasks on goals that no "
        "data hold; what was forgotten of it; success on the next task before it is learned, less "
        "that of an untrained network; squared error to the behaviour's mean action on held-out "
        "episodes; root mean square by which actions of finished tasks have moved; parameters "
        "that act"
    )
    lines = [line for line in lines_of(rows) if line[1]["method"] not in BY_PLACE]
    of = rows.of(task=stream)
    return grid(of, title, lines, columns, corner="method", main=main, unmarked=REFERENCES)


def place_table(rows: Rows, stream: str, metric: str, said: str, best: Any = None) -> Table:
    """A number per place and method."""
    there = plain(rows).of(task=stream, metric=f"place_{metric}")
    columns = [
        Column(
            f"{place:.0f} {short(STREAMS[stream].tasks[int(place) - 1])}",
            {"place": place},
            best,
            show=report.mean(3 if "error" in metric else 2),
        )
        for place in there.unique("place")
    ]
    title, lines = f"{stream}: {said}", by_method(METHODS)
    return grid(there, title, lines, columns, corner="method", unmarked=REFERENCES)


PLACES = [
    ("success", "success after the last task, by place", "max"),
    ("own_success", "success when the task was learned", "max"),
    ("action_error", "held-out action error after the last task, by place", "min"),
    ("composed_error", "held-out action error of the composed policy, after the warm-up", None),
    ("test", "success of the composed policy in the sufficiency test", None),
    ("reused", "share of seeds in which nothing was added", None),
    ("recognised", "share of seeds in which a task that came again was recognised", None),
    ("weight_of_same", "weight of the earlier self of a task that came again", None),
    ("behaviour", "successes of the data", None),
]


def tables(rows: Rows) -> list[Table]:
    """A main table, others by place; or a tuning's grid."""
    errors = rows.of(metric="action_error")
    if errors.unique("lr") and not plain(errors):
        title = "Held-out action error by setting (median over seeds), goals of the tuning"
        made = []
        for along in (["lr"], ["lr", "strength"], ["lr", "give_back"]):
            missing = dict.fromkeys(s for s in SWEPT if s not in along)
            own = rows.of(**missing)
            own = own if len(along) == 1 else Rows(own.frame.dropna(subset=along))
            if own:
                of = {"metric": "action_error"}
                made.append(report.tuning(own, METHODS, of, along, title=title))
        return made
    there = streams(rows) or rows.unique("task")
    made = [main_table(rows, stream, not i) for i, stream in enumerate(there)]
    made += [place_table(rows, stream, *of) for stream in there for of in PLACES]
    return [table for table in made if table.rows]


def attention(maps: list[dict[str, Any]]) -> Figure | None:
    """Weights of the sources, a task per row; a star where the task was reused."""
    if not maps:
        return None
    names = [f"{i} {short(t)}" for i, t in enumerate(STREAMS[maps[0]["task"]].tasks, 1)]
    size = 0.34 * len(names) + 1.1
    figure, axes = report.axes_for(len(maps), 3, size + 0.4, size)
    for ax, of in zip(axes, maps, strict=True):
        weights = np.array(of["data"])
        rows, columns = np.indices(weights.shape)
        image = ax.imshow(np.where(columns < rows, weights, np.nan), vmin=0, vmax=1, cmap="viridis")
        stars = ["" if grown else " ∗" for grown in of["grown"]]
        ax.set_yticks(range(len(names)), [n + s for n, s in zip(names, stars, strict=True)])
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.tick_params(labelsize=6)
        ax.grid(False)
        ax.set_title(METHODS.label(of["method"]), fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="weight of the source")
    return figure


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """What a stream came to (main), attention."""
    drawn: dict[str, Drawing] = {}
    own = plain(rows)
    for i, stream in enumerate(streams(own) or own.unique("task")):
        panels = [
            Panel("success after the last task", {"task": stream, "metric": "performance"}),
            Panel("forgetting", {"task": stream, "metric": "forgetting"}),
            Panel("held-out action error", {"task": stream, "metric": "action_error"}),
            Panel("actions moved", {"task": stream, "metric": "drift"}),
        ]
        if figure := report.intervals(own, METHODS, panels, columns=2):
            text = (
                f"{stream}: mean over seeds with its 95 % interval, a dot per seed; each is the "
                "mean over places of ten goals that no data hold, or of held-out episodes."
            )
            drawn[f"success_{stream}"] = Drawing(figure, text, main=not i)
        order = list(METHODS)
        mine = [e for e in extras if e["name"] == "attention" and e["task"] == stream]
        mine.sort(key=lambda e: (order.index(e["method"]), e["seed"]))
        first = list({e["method"]: e for e in reversed(mine)}.values())[::-1][:MAPS]
        if figure := attention(first):
            text = "weights of the sources (columns) after a task's (row's) warm-up, one seed; ∗ "
            text = f"{stream}: {text}reused, and no source"
            drawn[f"attention_{stream}"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
