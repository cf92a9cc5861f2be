"""Tables and figures of the enumerated tasks, the tabular solution, the tuning and the study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.report import (
    DASH,
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    heatmaps,
    mean,
    report_cli,
    shown,
)
from common.rows import Rows
from papers.bn.methods import METHODS, TRAINED

TASKS = {
    "g1": "G1 grid 16²",
    "g2": "G2 grid 8³",
    "g3": "G3 grid 8⁴",
    "g4": "G4 sets",
    "rna": "R RNA",
    "qed": "M QED",
    "g4-small": "G4, R/e⁶",
    "rna-long": "RNA, long",
    "seh": "sEH",
}
MAIN = ("g1", "g2", "g3", "g4", "rna", "qed")
COLLAPSED = 1.97  # L1 of a policy that stops at once: 2 (1 - R(s0)/Z), 1.975 on G1


def is_tuning(rows: Rows) -> bool:
    """Whether a method was run at several rates on one task."""
    area = rows.of(metric="area", method=["bn"])
    return any(len(area.of(task=t).unique("lr")) > 1 for t in area.unique("task"))


def tables(rows: Rows) -> list[Table]:
    """Main table; final L1; each task in full; tabular; streams; collapses; tuning."""
    if is_tuning(rows):
        return [tuning_table(rows)]
    area = [Column(TASKS[t], {"task": t, "metric": "area"}, "min") for t in MAIN]
    modes = Column("RNA modes", {"task": "rna", "metric": "modes_area"}, "max", mean(0))
    lines = by_method(METHODS)
    main = grid(
        rows,
        "Area under the exact L1 curve (mean over training, 0 to 2) on six tasks, and RNA modes "
        "found, mean count over training",
        lines,
        [*area, modes],
        corner="method",
        main=True,
    )
    if main.rows:
        n_modes = mean(0)(rows.of(task="rna", metric="n_modes", method="bn"))
        exact = ["target (exact)", *["0"] * len(MAIN), n_modes]
        main = Table(main.title, main.columns, [*main.rows, exact], main=True)
    final = grid(
        rows,
        "L1 at the end (mean of the last five evaluations)",
        lines,
        [Column(TASKS[t], {"task": t, "metric": "l1_final"}, "min") for t in MAIN],
        corner="method",
    )
    solved = grid(
        rows.of(task="tabular"),
        "Eq. 2 solved in tables (float64): exact L1 and error of log Z, the worst start",
        by_method(METHODS),
        [
            Column("L1", {"metric": "l1_end"}, show=worst),
            Column("log Z error", {"metric": "log_Z_error_end"}, show=worst),
        ],
    )
    gap = {"metric": "saliency_gap"}
    streams = grid(
        rows,
        "Do log F and A look at different places of the input? Total variation of their saliency "
        "shares, 0 to 1",
        by_method(METHODS),
        [Column(TASKS[t], {"task": t, **gap}) for t in ("g1", "rna", "qed")],
        corner="method",
    )
    sampled = grid(
        rows.of(task=["rna-long", "seh"]),
        "Tasks that are not enumerated, at the end",
        every(),
        [
            Column("mean score", {"metric": "mean_score"}, show=at(np.inf)),
            Column("best 100", {"metric": "top_score"}, show=at(np.inf)),
            Column("modes", {"metric": "modes_found"}),
            Column("similarity", {"metric": "similarity"}),
        ],
        corner="task: method",
    )
    early = grid(
        rows.of(task="rna", metric="modes"),
        "RNA modes found by a step, mean over the seeds",
        by_method(METHODS),
        [Column(str(s), show=at(s)) for s in (80, 240, 480, 1120, 2000)],
        corner="method",
    )
    rest = [final, early, details_table(rows), solved, streams, sampled, collapse_table(rows)]
    return kept([main, *rest])


def every() -> list[tuple[str, dict[str, Any]]]:
    """Lines: every method on every task."""
    return [
        (f"{title}: {label}", {"task": task, **of})
        for task, title in TASKS.items()
        for label, of in by_method(METHODS)
    ]


def details_table(rows: Rows) -> Table:
    """Every task in full."""
    return grid(
        rows,
        "Every task: area, error of log Z, modes and diversity (objects sampled = reward calls of "
        "a run; Adam's rate; parameters per seed)",
        every(),
        [
            Column("area", {"metric": "area"}),
            Column("log Z error", {"metric": "log_Z_error"}, show=mean(3)),
            Column("rate", show=rate),
            Column("parameters", {"metric": "parameters"}, show=mean(0)),
            Column("modes", {"metric": "modes_found"}, show=mean(1)),
            Column("of", {"metric": "n_modes"}, show=mean(0)),
            Column("sampled", {"metric": "reward_calls", "step": None}, show=mean(0)),
            Column("distinct", {"metric": "distinct_objects"}, show=mean(0)),
            Column("best 100: reward", {"metric": "top_reward"}, show=mean(3)),
            Column("best 100: Tanimoto distance", {"metric": "top_distance"}),
        ],
        corner="task: method",
    )


def kept(tables_: list[Table]) -> list[Table]:
    """The tables that have a line and a cell with something in it."""
    return [t for t in tables_ if any(c != DASH for line in t.rows for c in line[1:])]


def rate(rows: Rows) -> str:
    """Cell: Adam's rate of the trained methods."""
    found = rows.of(metric="log_Z_error").unique("lr")
    return f"{found[0]:g}" if found else DASH


def worst(rows: Rows) -> str:
    """Cell: the largest value."""
    return f"{rows.values(least=1).max():.1e}" if rows else DASH


def at(step: float) -> Callable[[Rows], str]:
    """Cell: mean of a curve at a step; inf: at its end."""

    def value(rows: Rows) -> str:
        steps, values = rows.curve()
        there = steps == min(step, steps.max())
        return f"{values[:, there].mean():.4g}" if there.any() else DASH

    return shown(value)


def collapse_table(rows: Rows) -> Table:
    """How many runs stop at once, early in training."""

    def collapsed(step: int) -> Callable[[Rows], str]:
        def count(cell: Rows) -> str:
            steps, l1 = cell.curve()
            there = l1[:, steps == step]
            return f"{int((there > COLLAPSED).sum())} of {len(there)}" if there.size else DASH

        return shown(count)

    title = f"Collapsed runs: L1 above {COLLAPSED} at a step, as of a policy that stops at once"
    columns = [
        Column(f"{TASKS[t]}, {s}", {"task": t}, show=collapsed(s))
        for t in ("g1", "g2", "g3")
        for s in (50, 200)
    ]
    lines = by_method(METHODS, list(TRAINED))
    return grid(rows.of(metric="l1_sum_exact"), title, lines, columns, corner="method")


def tuning_table(rows: Rows) -> Table:
    """Area by learning rate, on the seeds of the tuning."""
    rates = rows.of(metric="area").unique("lr")
    columns = [Column(f"{r:g}", {"metric": "area", "lr": r}) for r in rates]
    return grid(rows, "Area under L1 by learning rate", every(), columns, corner="task: method")


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """L1 (main) and modes against steps, learned maps."""
    drawn: dict[str, Drawing] = {}
    if is_tuning(rows):
        return drawn
    seeds = "mean and 95 % band over the seeds"
    tasks = [*MAIN, *(t for t in TASKS if t not in MAIN and not rows.of(task="g1"))]
    for name, metric, ylabel, text in (
        ("curves", "l1_sum_exact", "exact L1", "Exact L1 distance of the sampler to its target"),
        ("modes", "modes", "modes found", "Modes met so far in training"),
    ):
        panels = [
            Panel(TASKS[t], {"task": t, "metric": metric}, "" if i % 3 else ylabel)
            for i, t in enumerate(tasks)
        ]
        if figure := curves(rows, METHODS, panels, width=2.7, ylim=(0, None)):
            text += (
                f" against training steps; {seeds}; uniform is the untrained policy. On R the "
                "trained methods (but for DB's L1) lie close together, on M all of them."
            )
            drawn[name] = Drawing(figure, text, main=name == "curves")
    maps = {e["method"]: e["data"] for e in extras if e["name"] == "p_terminal"}
    target = [e["data"] for e in extras if e["name"] == "target"]
    if maps and target:
        shares = [("target", target[0])]
        shares += [(METHODS.label(m), maps[m]) for m in METHODS if m in maps]
        text = (
            "G1: distribution of the sampled corner, mean over the seeds (a mean hides that "
            "single runs of TB hold one or two corners only); colour is the square root of the "
            "probability, the same scale in all panels."
        )
        if figure := heatmaps(shares, root=True, columns=4):
            drawn["distributions"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
