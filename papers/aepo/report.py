"""Tables and figures of AEPO: scores, distances to the target, errors of the gradient."""

from __future__ import annotations

import itertools
from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid, intervals
from common.rows import Rows
from papers.aepo.claims import BETA, KAPPA_HALF, SHAPES, chosen, plain
from papers.aepo.methods import METHODS
from papers.aepo.task import SETS

SHOWN = ("aepo", "no-variance", "mse", "cep", "naive", "iql", "bc")


def scored(rows: Rows) -> list[str]:
    """Tasks that have scores."""
    return rows.of(metric="score").unique("task")


def at(metric: str, task: str, **more: Any) -> dict[str, Any]:
    """Labels of a column."""
    return {"metric": metric, "task": task, **more}


def main_table(rows: Rows) -> Table:
    """Scores and distances side by side: at most seven columns beside the corner."""
    of = chosen(plain(rows))
    columns = [Column(task, at("score", task), "max") for task in scored(of)[:3]]
    names = {"concave": "W2, concave", "convex": "W2, convex"}
    columns += [Column(names[shape], at("w2", shape, beta=KAPPA_HALF), "min") for shape in SHAPES]
    there = of.of(metric="w2", beta=BETA, task=list(SETS)).unique("task")[:2]
    columns += [Column(f"W2, {name}", at("w2", name, beta=BETA), "min") for name in there]
    columns = [c for c in columns if of.of(**c.of)]
    title = "Normalised scores (own scale: 0 random, 100 the search's best) and W2 to the target"
    return grid(
        *(of, title, by_method(METHODS), columns),
        **{"corner": "method", "main": True, "unmarked": [METHODS.label("exact")]},
    )


def by_scale(rows: Rows, task: str) -> Table:
    """Scores at every temperature and guidance scale; what the data return is in the title."""
    of = rows.of(metric="score", task=task)
    columns = [Column(f"w = {w:g}", {"w": w}, "max") for w in of.unique("w")]
    lines = []
    for (label, line), beta in itertools.product(by_method(METHODS), of.unique("beta")):
        own = {**line, "beta": beta}
        lines.append((f"{label}, β = {beta:g}", {**own, "candidates": None}))
        for count in of.unique("candidates"):
            best = f"{label}, β = {beta:g}, best of {count:g} by Q"
            lines.append((best, {**own, "candidates": count}))
    data = rows.of(metric="data_score", task=task).frame["value"]
    known = f"; the data: {data.mean():.3g}" if len(data) else ""
    title = f"{task}: normalised score by guidance scale (IQL: temperature βw){known}"
    return grid(of, title, lines, columns, corner="method")


def energies(rows: Rows, task: str, beta: float) -> Table:
    """Distances, errors of the energy, how far its assumption holds, and costs."""
    of = rows.of(task=task, beta=beta, candidates=None)
    columns = [
        Column("W2", {"metric": "w2"}, "min"),
        Column("W2, known networks", {"metric": "w2_known"}, "min"),
        Column("error of grad E", {"metric": "gradient_error"}, "min"),
        Column("cosine", {"metric": "gradient_cosine"}, "max"),
        Column("fit", {"metric": "fit"}),
        Column("κ", {"metric": "kappa"}),
        Column("term", {"metric": "term"}),
        Column("CPU seconds", {"metric": "seconds_guidance"}, "min"),
        Column("network rows", {"metric": "network_rows"}, show=report.mean(0)),
    ]
    lines = [(label, {**line, "support": None}) for label, line in by_method(METHODS)]
    for count in of.unique("support"):
        lines.append((f"CEP, {count:g} support actions", {"method": "cep", "support": count}))
    title = f"{task}, β = {beta:g} (exact energy: its samples are the floor on sets)"
    return grid(
        *(of, title, lines, [c for c in columns if of.of(**c.of)]),
        **{"corner": "method", "unmarked": [METHODS.label("exact")]},
    )


def is_tuning(rows: Rows) -> bool:
    """Whether the rows are those of a tuning: control alone, every scale, no bandit."""
    return bool(rows.of(metric="score")) and not rows.of(metric="w2")


def tables(rows: Rows) -> list[Table]:
    """The main table; scores at all scales; energies of all tasks."""
    made = [main_table(rows)]
    if is_tuning(rows):
        title = "Normalised score, mean over data sets (median over seeds)"
        made.append(tuning(rows, title))
    made += [by_scale(rows, task) for task in scored(rows)]
    measured = rows.of(metric=["w2", "gradient_error"])
    for task in measured.unique("task"):
        made += [energies(rows, task, b) for b in measured.of(task=task).unique("beta")]
    return [table for table in made if table.rows and len(table.columns) > 1]


def tuning(rows: Rows, title: str) -> Table:
    """Each method's scores at every temperature and scale, a mean over data sets, its best."""
    frame = plain(rows).of(metric="score").frame
    along = ["beta", "w"]
    means = frame.groupby(["method", *along, "seed"], observed=True, as_index=False)["value"].mean()
    means = means.assign(metric="score", task="all")
    return report.tuning(Rows(means), METHODS, {"metric": "score"}, along, title=title, best="max")


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Scores and distances with intervals, every method at the scale that the tuning has chosen."""
    of = chosen(plain(rows))
    drawn: dict[str, Drawing] = {}
    names = [m for m in METHODS if m in SHOWN or METHODS[m].role == "added"]
    shown = scored(of)[:3]
    panels = [Panel(task, at("score", task), "normalised score") for task in shown]
    panels += [
        Panel(f"{shape}, κ = .5", at("w2", shape, beta=KAPPA_HALF), "W2") for shape in SHAPES
    ]
    panels += [Panel(name, at("w2", name, beta=BETA), "W2") for name in SETS]
    panels = [panel for panel in panels if of.of(**panel.of)][:6]
    figure = intervals(of, METHODS, panels, names=names)
    if figure is not None:
        caption = (
            "Normalised scores, each method at its tuned scale (higher is better), and W2 of "
            "samples to the target (lower is better); dots are seeds, bars 95 % intervals."
        )
        drawn["aepo"] = Drawing(figure, caption, main=True)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
