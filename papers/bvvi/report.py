"""Tables and figures of BVVI: exact values, regret, last policies, growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common import bands
from common.bands import Band, Line
from common.plotting import Figure
from common.report import Column, Drawing, Table, cell, grid, report_cli, shown
from common.rows import NoResults, Rows
from common.stats import mean_ci
from papers.bvvi.methods import METHODS
from papers.bvvi.reading import exact, final_J, growth, lengths, optimum, square_root_fit
from papers.bvvi.task import TASKS

# Optimal values of E-off that the authors' figures subtract from: of their report's figures, and of
# their last plotting script (H = 4 bounds every value).
ASSUMED_IN_REPORT = {-3.0: 3.84, 1.0: 3.92}
ASSUMED_IN_SCRIPT = {-5.0: 3.22, -3.0: 3.97, -1.0: 3.45, 1.0: 3.895, 3.0: 3.95, 5.0: 4.02}
EXACT = {"V*, exact": "v_star", "state seen": "v_full", "blind": "v_blind", "myopic": "j_myopic"}
EXACT |= {"risk-neutral": "j_risk_neutral", "random": "j_random"}
LINE = {1.0: "--", 0.1: ":", 0.0: "-."}  # by bonus scale; any other: solid

Cell = tuple[str, float, int]  # task, gamma, K


def label_of(method: str, c: float) -> str:
    """A learner's name in tables and legends."""
    return METHODS[method].label + (f", c={c:g}" if METHODS[method].explores else "")


def learners(rows: Rows) -> list[tuple[str, dict[str, Any]]]:
    """Lines of a table: each learner with each bonus scale, from the paper's."""
    frame = rows.of(metric="regret").frame
    there = set(zip(frame["method"], frame["c"], strict=True))
    ordered = sorted(there, key=lambda pair: (list(METHODS).index(pair[0]), -pair[1]))
    return [(label_of(method, c), {"method": method, "c": c}) for method, c in ordered]


def cells_of(rows: Rows, task: str, K: int) -> list[Cell]:
    """What was learnt on an environment."""
    return [(task, g, K) for g in rows.of(task=task, metric="regret", episodes=K).unique("gamma")]


# -- tables -------------------------------------------------------------------------------------


def optima_table(rows: Rows) -> Table:
    """Exact values of E-off and E-gamble, and what the authors' figures assume."""
    body = []
    for task in ("off", "gamble"):
        for gamma in rows.of(method="planner", task=task).unique("gamma"):
            values = [f"{exact(rows, task, gamma, metric):.6f}" for metric in EXACT.values()]
            assumed = [
                table.get(gamma) if task == "off" else None
                for table in (ASSUMED_IN_REPORT, ASSUMED_IN_SCRIPT)
            ]
            body.append([f"{TASKS[task]} γ={gamma:g}", *values, *assumed])
    columns = ["", *EXACT, "authors' V* (report)", "authors' V* (script)"]
    return Table("Exact values: optimum, and J of planners told the model", columns, body)


def regret_table(
    rows: Rows, title: str, cells: Sequence[Cell], scales: Sequence[float], *, main: bool = False
) -> Table:
    """Regret at K, learners × cells, with random actions as the last line."""
    several = len({task for task, _, _ in cells}) > 1
    columns = [
        Column(
            (f"{TASKS[task]} " if several else "") + f"γ={gamma:g}, K={K:,}",
            {"metric": "regret", "task": task, "gamma": gamma, "episodes": K, "step": float(K)},
            "min",
            shown(cell),
        )
        for task, gamma, K in cells
    ]
    lines = [line for line in learners(rows) if line[1]["c"] in scales]
    table = grid(rows, title, lines, columns, corner="learner", main=main)

    def lost(at: Cell) -> str:  # to random actions the state's being seen is of no use
        return f"{at[2] * (optimum(rows, *at[:2]) - exact(rows, *at[:2], 'j_random')):.0f}"

    last = ["random (exact)", *map(shown(lost), cells)]
    return Table(title, table.columns, [*table.rows, last], main)


def final_table(rows: Rows, task: str, K: int) -> Table:
    """J of the last policies, learners × gamma."""
    columns = [
        Column(
            f"γ={gamma:g}",
            {"metric": "regret", "task": task, "gamma": gamma, "episodes": K},
            show=shown(lambda part, g=gamma: mean_ci(final_J(part, optimum(rows, task, g)))),
        )
        for _, gamma, _ in cells_of(rows, task, K)
    ]
    title = f"J of the last 5 % of the policies on {TASKS[task]}, K = {K:,}"
    return grid(rows, title, learners(rows), columns, corner="learner")


def growth_table(rows: Rows, K: int) -> Table:
    """Growth of regret, learners and cells; no exponent where some seed has no regret at K/10."""
    lines = [
        (
            f"{TASKS[task]} γ={gamma:g}: {label}",
            {"task": task, "gamma": gamma, "episodes": K, **of},
        )
        for task in ("off", "gamble", "rand")
        for _, gamma, _ in cells_of(rows, task, K)
        for label, of in learners(rows)
        if of["c"] != 0.1
    ]

    def share(part: Rows) -> str:  # a mean per job
        return f"{part.frame['value'].mean():.3f}" if part else "–"

    columns = [
        Column("exponent (√K: 0.5)", {"metric": "regret"}, show=shown(lambda r: growth(r)[0])),
        Column("ratio K : K/4 (√K: 0.5)", {"metric": "regret"}, show=shown(lambda r: growth(r)[1])),
        Column("fit of a√k, R²", {"metric": "regret"}, show=shown(square_root_fit)),
        Column("V̂₁ ≥ V*, of the episodes", {"metric": "optimistic"}, show=shown(share)),
    ]
    return grid(rows, f"Growth over the last decade, K = {K:,}", lines, columns)


def tables(rows: Rows) -> list[Table]:
    """Main table; exact values; regret and last policies by environment; growth."""
    try:
        K = lengths(rows)
    except NoResults:
        return [optima_table(rows)]
    main = [
        ("off", -1.0, K[0]),
        ("off", 1.0, K[0]),
        *(("gamble", g, K[0]) for g in (-3.0, -1.0, 1.0)),
    ]
    main += [("gamble", g, K[-1]) for g in (-1.0, 1.0) if len(K) > 1]
    title = f"Regret (20 seeds; 10 beyond K = {K[0]:,}); the optimum has 0"
    every = rows.unique("c")
    made = [regret_table(rows, title, main, (1.0, 0.02, 0.0), main=True), optima_table(rows)]
    for task, label in TASKS.items():
        if cells := cells_of(rows, task, K[0]):
            made.append(regret_table(rows, f"Regret on {label}", cells, every))
    made += [final_table(rows, task, K[0]) for task in ("off", "gamble")]
    made += [growth_table(rows, k) for k in K]
    return [table for table in made if table.rows]


# -- figures ------------------------------------------------------------------------------------


def curves_of(extras: Sequence[Mapping[str, Any]]) -> dict[Cell, dict[tuple[str, float], Band]]:
    """Bands per cell and learner; seeds divided among jobs are pooled."""
    parts: dict[Cell, dict[tuple[str, float], list[Any]]] = {}
    k: dict[Cell, Any] = {}
    for extra in extras:
        for one in extra["data"]["curves"]:
            at = (extra["task"], one["gamma"], one["episodes"])
            k[at] = extra["data"]["k"]
            parts.setdefault(at, {}).setdefault((extra["method"], one["c"]), []).append(one)
    return {
        at: {who: Band.pooled(k[at], jobs) for who, jobs in lines.items()}
        for at, lines in parts.items()
    }


def draw(curves: Mapping[Cell, Any], cells: Sequence[Cell], *, every: bool = True) -> Figure:
    """Regret on logarithmic axes, a panel per cell; ``every`` bonus scale of every learner."""
    colours, panels = METHODS.colours(), []
    for task, gamma, K in cells:
        lines = [
            Line(label_of(method, c), band, colours[method], LINE.get(c, "-"))
            for (method, c), band in curves[task, gamma, K].items()
            if every or c < 0.1 or (c == 1 and METHODS[method].role == "method")
        ]
        lines.append(Line("slope of √k", Band.exact([K / 10, K], np.sqrt([K / 10, K])), "0.6"))
        panels.append((f"{TASKS[task]}, γ = {gamma:g}, K = {K:,}", lines))
    labels = {"xlabel": "episode k", "ylabel": "regret"}
    return bands.draw(panels, width=3.3, height=2.6, yscale="symlog", **labels)


CAPTION = (
    "Cumulative regret (exact) against episodes, mean and 95 % band over seeds; axes logarithmic "
    "(regret linear below 1). Colour: learner; dashed: c = 1, the paper's bonus; solid: c = 0.02; "
    "dash-dotted: no bonus; grey: slope of √k. "
)
COINCIDE = (
    "On E-off greedy, myopic, risk-neutral and BVVI (next) lie on each other; on E-gamble at γ = "
    "−1 greedy, myopic and c = 1 do, and at γ = −3 these have no regret."
)


def figures(rows: Rows, extras: Sequence[Mapping[str, Any]]) -> dict[str, Drawing]:
    """Regret where the claims look, and on each environment."""
    curves = curves_of([extra for extra in extras if extra["name"] == "curves"])
    if not curves:
        return {}
    K = sorted({at[2] for at in curves})
    wanted = [("off", -1.0, K[0]), *(("gamble", g, K[0]) for g in (-3.0, -1.0, 1.0))]
    wanted += [("gamble", g, K[-1]) for g in (-1.0, 1.0) if len(K) > 1]
    drawn = {}
    if main := [at for at in wanted if at in curves]:
        drawn["regret"] = Drawing(draw(curves, main, every=False), CAPTION + COINCIDE, True)
    for task, label in TASKS.items():
        if cells := [at for at in sorted(curves) if at[0] == task]:
            caption = f"{label}, every learner (dotted: c = 0.1). {CAPTION}"
            drawn[f"regret_{task.replace('-', '_')}"] = Drawing(draw(curves, cells), caption)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
