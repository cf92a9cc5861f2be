"""Tables and figures of the errors of the fits."""

from __future__ import annotations

from typing import Any

from common.report import Column, Drawing, Panel, Table, by_method, curves, grid, report_cli
from common.rows import Rows
from papers.ne.methods import METHODS
from papers.ne.task import TASKS


def tables(rows: Rows) -> list[Table]:
    """Errors by distribution."""
    columns = [Column(task, {"task": task, "metric": "error"}, "min") for task in TASKS]
    title = "Mean squared error of the fit to the true curve, all seeds"
    return [grid(rows, title, by_method(METHODS), columns, corner="loss", main=True)]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Errors against steps."""
    panels = [Panel(task, {"task": task, "metric": "error_curve"}, "error") for task in TASKS]
    figure = curves(rows, METHODS, panels, xlabel="steps", log="y")
    if figure is None:
        return {}
    caption = "Error against the number of steps, mean and 95 % band over the seeds."
    return {"errors": Drawing(figure, caption, main=True)}


if __name__ == "__main__":
    report_cli(tables, figures)
