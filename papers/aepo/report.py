"""Tables and figures of AEPO: scores, distances to the target, errors of the gradient."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, grid, intervals
from common.rows import Rows
from papers.aepo.claims import BETA, KAPPA_HALF, SHAPES, plain
from papers.aepo.methods import METHODS
from papers.aepo.task import SETS

SHOWN = ("aepo", "no-variance", "mse", "cep", "naive", "iql", "bc")


def scored(rows: Rows) -> list[str]:
    """Tasks that have scores."""
    return rows.of(metric="score").unique("task")


def chosen(rows: Rows) -> list[tuple[str, dict[str, Any]]]:
    """Lines of a table: every method at the scale that the tuning has chosen."""
    return [(METHODS.label(m), {"method": m}) for m in METHODS]


def at(metric: str, task: str, w: float | None = None, **more: Any) -> dict[str, Any]:
    """Labels of a column."""
    found = {"metric": metric, "task": task, **more}
    return found if w is None else {**found, "w": w}


def main_table(rows: Rows) -> Table:
    """Scores and distances side by side: at most seven columns beside the corner."""
    of = plain(rows)
    tasks = scored(of)[:3]
    columns = [Column(task, at("score", task, beta=BETA), "max", show=tuned) for task in tasks]
    names = {"concave": "W2, concave", "convex": "W2, convex"}
    columns += [Column(names[shape], at("w2", shape, beta=KAPPA_HALF), "min") for shape in SHAPES]
    there = of.of(metric="w2", beta=BETA, task=list(SETS)).unique("task")[:2]
    columns += [Column(f"W2, {name}", at("w2", name, beta=BETA), "min") for name in there]
    columns = [c for c in columns if of.of(**c.of)]
    title = "Normalised scores (own scale: 0 random, 100 the search's best) and W2 to the target"
    return grid(
        *(of, title, chosen(of), columns),
        **{"corner": "method", "main": True, "unmarked": [METHODS.label("exact")]},
    )


def tuned(rows: Rows) -> str:
    """A cell at the guidance scale of its method."""
    methods = rows.unique("method")
    return report.cell(rows.of(w=METHODS[methods[0]].w)) if methods else report.DASH


def by_scale(rows: Rows, task: str, beta: float) -> Table:
    """Scores at every guidance scale."""
    of = rows.of(metric="score", task=task, beta=beta)
    columns = [Column(f"w = {w:g}", {"w": w}, "max") for w in of.unique("w")]
    lines = chosen(of)
    for count in of.unique("candidates"):
        lines += [
            (f"{METHODS.label(m)}, best of {count:g} by Q", {"method": m, "candidates": count})
            for m in METHODS
        ]
    lines = [(label, {"candidates": None, "support": None, **line}) for label, line in lines]
    title = f"{task}, β = {beta:g}: normalised score by guidance scale (IQL: temperature βw)"
    return grid(of, title, lines, columns, corner="method")


def bandit(rows: Rows, task: str, beta: float) -> Table:
    """Distances, errors of the gradient and costs of one bandit."""
    of = rows.of(task=task, beta=beta)
    columns = [
        Column("W2", {"metric": "w2"}, "min"),
        Column("W2, known networks", {"metric": "w2_known"}, "min"),
        Column("error of grad E", {"metric": "gradient_error"}, "min"),
        Column("cosine", {"metric": "gradient_cosine"}, "max"),
        Column("CPU seconds", {"metric": "seconds_guidance"}, "min"),
        Column("network rows", {"metric": "network_rows"}, show=report.mean(0)),
    ]
    lines = [(label, {**line, "support": None}) for label, line in chosen(of)]
    for count in of.unique("support"):
        lines.append((f"CEP, {count:g} support actions", {"method": "cep", "support": count}))
    title = f"{task}, β = {beta:g} (exact energy: its samples are the floor on sets)"
    return grid(
        *(of, title, lines, columns),
        **{"corner": "method", "unmarked": [METHODS.label("exact")]},
    )


def costs(rows: Rows) -> Table:
    """What training the guidance takes in control."""
    tasks = scored(rows)[:4]
    columns = [
        Column(f"CPU seconds, {task}", at("seconds_guidance", task, beta=BETA), "min")
        for task in tasks
    ]
    if tasks:
        columns.append(
            Column("network rows", at("network_rows", tasks[0], beta=BETA), show=report.mean(0))
        )
    title = "Training the guidance of a seed, support actions included"
    return grid(plain(rows), title, chosen(rows), columns, corner="method")


def is_tuning(rows: Rows) -> bool:
    """Whether the rows are those of a tuning: control alone, every scale, no bandit."""
    return bool(rows.of(metric="score")) and not rows.of(metric="w2")


def tables(rows: Rows) -> list[Table]:
    """The main table, all scales, all bandits, costs."""
    made = [main_table(rows)]
    if is_tuning(rows):
        title = "Normalised score by guidance scale, mean over data sets (median over seeds)"
        made.append(tuning(rows, title))
    for show, metric in ((by_scale, "score"), (bandit, "w2")):
        own = rows.of(metric=metric)
        for task in own.unique("task"):
            made += [show(rows, task, beta) for beta in own.of(task=task).unique("beta")]
    made.append(costs(rows))
    return [table for table in made if table.rows and len(table.columns) > 1]


def tuning(rows: Rows, title: str) -> Table:
    """Each method's scores at every scale, a mean over data sets, its best marked."""
    frame = plain(rows).of(metric="score", beta=BETA).frame
    means = frame.groupby(["method", "w", "seed"], observed=True, as_index=False)["value"].mean()
    means = means.assign(metric="score", task="all")
    return report.tuning(Rows(means), METHODS, {"metric": "score"}, ["w"], title=title, best="max")


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Scores and distances with intervals; scores by guidance scale."""
    of = plain(rows)
    drawn: dict[str, Drawing] = {}
    names = [m for m in METHODS if m in SHOWN or METHODS[m].role == "added"]
    panels = [
        Panel(f"{task}, w = 1", at("score", task, 1.0, beta=BETA), "normalised score")
        for task in scored(of)
    ][:3]
    panels += [
        Panel(f"{shape}, κ = .5", at("w2", shape, beta=KAPPA_HALF), "W2") for shape in SHAPES
    ]
    panels += [Panel(name, at("w2", name, beta=BETA), "W2") for name in SETS]
    panels = [panel for panel in panels if of.of(**panel.of)][:6]
    figure = intervals(of, METHODS, panels, names=names)
    if figure is not None:
        caption = (
            "Normalised scores at guidance scale 1 (higher is better) and W2 of samples to the "
            "target (lower is better); dots are seeds, bars 95 % intervals."
        )
        drawn["aepo"] = Drawing(figure, caption, main=True)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
