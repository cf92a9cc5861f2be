"""How rows are read: which start and radius a number is of, and the mean over the paper's tasks.

Closed-loop numbers are of a method's published form (OFP: with its warm start); first chunks know
no warm start. Success on A is that of the judged radius.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from common.rows import NoResults, Rows
from papers.ofp.methods import METHODS, T_W
from papers.ofp.point_mass import JUDGED_RADIUS, RADII

A, B, C, PAPER = "point-mass", "metaworld", "pointcloud", "dp3-*"
CLOSED_LOOP = ("success", "task_success", "collision", "gap")

Cell = tuple[str, int]  # method and network calls


def published(rows: Rows) -> Rows:
    """Rows with each method's own start: OFP's closed loop warm, everything else cold."""
    frame = rows.frame
    if "t_w" not in frame:
        return rows
    warm = frame["method"].astype(str).map({name: METHODS[name].warm for name in METHODS})
    start = np.where(frame["metric"].isin(CLOSED_LOOP) & warm, T_W, 0.0)
    return Rows(frame[frame["t_w"].isna() | np.isclose(frame["t_w"], start)])


def at(rows: Rows, task: str, metric: str, cell: Cell, **labels: Any) -> Rows:
    """Rows of a metric at a number of calls.

    On A at the judged radius unless one is given; from the method's own start unless ``t_w`` is:
    OFP's closed loop warm, everything else cold.
    """
    method, calls = cell
    if task == A and metric in ("success", "collision"):
        labels.setdefault("radius", JUDGED_RADIUS)
    labels.setdefault("t_w", T_W if METHODS[method].warm and metric in CLOSED_LOOP else 0.0)
    return rows.of(task=task, method=method, nfe=calls, metric=metric, **labels)


def cells(rows: Rows, task: str, metric: str, *wanted: Cell) -> list[Rows]:
    """The rows of several cells, one value per seed each.

    The paper's tasks (``dp3-*``) are averaged, sub-task by sub-task, over those that all cells
    have.

    Raises:
        NoResults: if none of the paper's tasks is there for all.
    """
    if task != PAPER:
        return [at(rows, task, metric, cell) for cell in wanted]
    there = [
        name
        for name in rows.unique("task")
        if name.startswith("dp3-") and all(at(rows, name, metric, cell) for cell in wanted)
    ]
    if not there:
        raise NoResults(f"no task of the paper with {metric} of {wanted}")
    weights = [max(1, len(rows.of(task=name).unique("subtask"))) for name in there]
    found = []
    for cell in wanted:
        by_task = pd.concat(
            [at(rows, name, metric, cell).frame.set_index("seed")["value"] for name in there],
            axis=1,
            join="inner",
        )
        mean = np.average(by_task.to_numpy(float).reshape(-1, len(there)), axis=1, weights=weights)
        found.append(Rows(pd.DataFrame({"seed": by_task.index, "value": mean})))
    return found


def other_radii(rows: Rows, ours: Cell, theirs: Cell) -> str:
    """The difference of success on A for the discs that are not judged."""
    text = ""
    for r in RADII:
        if r != JUDGED_RADIUS:
            mine, other = (at(rows, A, "success", cell, radius=r) for cell in (ours, theirs))
            text += f"; r = {r:.2f}: {mine.minus(other)}"
    return text
