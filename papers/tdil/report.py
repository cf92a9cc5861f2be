"""Tables and figures of TDIL: learning, what pays and where, paths, blind selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common import report
from common.report import DASH, Column, Drawing, Panel, Table, by_method, curves, grid, mean, tuning
from common.rows import Rows
from common.stats import mean_ci
from papers.tdil.claims import GRIDS, B, C, grid_of
from papers.tdil.figures import draw_blind, draw_maps, draw_paths
from papers.tdil.methods import METHODS

TITLES = {"grid": "A: grid maze", B: "B: continuous maze", C: "C: Hopper, 200 steps"}
SWEPT = ("kappa", "lr", "log_alpha")
EARLY = 4_500  # steps: before TDIL's last rise on the grid


def score_of(task: str) -> str:
    """What methods are compared by."""
    return "success" if task in (*GRIDS, B) else "return"


def of_curve(how: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Rows], str]:
    """Cell: a number per seed, ``how(steps [T], values [n_seeds, T])``, with its interval."""

    def each(rows: Rows) -> str:
        values = how(*rows.curve())
        return str(mean_ci(values)) if len(values) > 1 else f"{values[0]:.3g}"

    return report.shown(each)


def early(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at the step EARLY, or at the end of a shorter run."""
    return values[:, min(np.searchsorted(steps, EARLY), len(steps) - 1)]


def area(_: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means over the checkpoints."""
    return values.mean(axis=1)


def filled(rows: Rows, columns: Sequence[Column]) -> list[Column]:
    """The columns that have rows."""
    return [column for column in columns if rows.of(**column.of)]


# -- tables -------------------------------------------------------------------------------------


def main_table(rows: Rows) -> Table:
    """A, B and C side by side, with the untrained policy and the demonstration."""
    a = grid_of(rows)
    curve = {"task": a, "metric": "success_curve"}
    area_of = {"show": of_curve(area), "value": lambda r: float(area(*r.curve()).mean())}
    columns = [
        Column(f"A: success, {EARLY:,} steps", curve, show=of_curve(early)),
        Column("A: success, end", {"task": a, "metric": "success"}, "max"),
        Column("A: area under success", curve, "max", **area_of),
        Column("B: success, end", {"task": B, "metric": "success"}, "max"),
        Column("B: reaches the path", {"task": B, "metric": "reach"}, "max"),
        Column("C: share of the expert's return", {"task": C, "metric": "relative_return"}, "max"),
    ]
    columns = filled(rows, columns)
    title = "Success from 100 starts (A: 5 seeds, B: 3), return relative to the expert's (C: 3)"
    table = grid(rows, title, by_method(METHODS), columns, corner="method", main=True)
    before = [untrained(rows, column.of) for column in columns]
    expert = ["1" if column.of["task"] == C else DASH for column in columns]
    last = [["untrained policy", *before], ["the demonstration", *expert]]
    return Table(table.title, table.columns, [*table.rows, *last], main=True)


def untrained(rows: Rows, of: Mapping[str, str]) -> str:
    """Cell: score of the first test, in the warm-up."""
    own = rows.of(task=of["task"], method="tdil")
    first = own.of(metric=f"{score_of(of['task'])}_curve")
    if of["metric"] == "reach" or not first:
        return DASH
    whole = own.of(metric="expert_return")
    return f"{first.curve()[1][:, 0].mean() / (whole.value() if whole else 1.0):.2f}"


def task_table(rows: Rows, task: str) -> Table:
    """All scores of a task."""
    score = score_of(task)
    metrics = {
        score: score,
        "relative_return": "share of the expert's",
        "reach": "reaches the path",
        "follow": "then follows it",
        f"{score}_blind": f"{score}, blind selection",
        f"{score}_oracle": f"{score}, best checkpoint",
        "spearman": "rank correlation of ρ_rel",
        "time_gap": "D(s, s') − D(s', s)",
    }
    here = rows.of(task=task)
    columns = filled(here, [Column(head, {"metric": m}) for m, head in metrics.items()])
    if here.of(metric="rho_rel_curve"):
        picked = of_curve(lambda steps, values: steps[values.argmax(axis=1)])
        columns.append(
            Column("step with the highest ρ_rel", {"metric": "rho_rel_curve"}, show=picked)
        )
    return grid(here, TITLES.get(task, task), by_method(METHODS), columns, corner="method")


LOOKS = {
    "d_open": "D, adjacent",
    "d_walled": "D, a wall between",
    "auc": "AUC",
    "d_error": "error of D, all pairs*",
    "d_error_true": "true pairs*",
    "d_own_error": "error of D, all pairs",
    "d_own_error_true": "true pairs",
    "paid_share_tdil": "pairs paid by R_TDIL",
    "paid_share_irl": "pairs paid by D_g",
}


def pay_table(rows: Rows) -> Table:
    """What D and the rewards are like on the grid."""
    here = rows.of(task=grid_of(rows))
    columns = filled(here, [Column(head, {"metric": m}) for m, head in LOOKS.items()])
    title = "A: what pays, and where"
    if here.of(metric="d_error"):
        title += " (*: against the optimum of κ = 0.1 without hard negatives, whatever the method)"
    return grid(here, title, by_method(METHODS), columns, corner="method")


def kappa_table(rows: Rows) -> Table:
    """Study: what the weight of the positives does to D and to success."""
    columns = [
        Column("success, end", {"metric": "success"}),
        Column("area under success", {"metric": "success_curve"}, show=of_curve(area)),
        Column("reaches the path", {"metric": "reach"}),
        Column("D, adjacent", {"metric": "d_open"}),
        Column("its optimum", {"metric": "d_open_optimum"}, show=mean(3)),
        Column("error of D, all pairs", {"metric": "d_own_error"}),
        Column("true pairs", {"metric": "d_own_error_true"}),
    ]
    lines = [
        (f"{label}, κ = {kappa:g}", {**of, "kappa": kappa})
        for label, of in by_method(METHODS)
        for kappa in rows.unique("kappa")
    ]
    title = (
        "A: weight of the positives κ (3 seeds); optimum and error of D for a uniform random policy"
    )
    return grid(rows.of(task=grid_of(rows)), title, lines, columns, corner="method")


def tuning_tables(rows: Rows) -> list[Table]:
    """The grids of a tuning, by task."""
    found = []
    for task in rows.unique("task"):
        of = {"task": task, "metric": score_of(task)}
        along = [label for label in SWEPT if rows.of(**of).unique(label)]
        title = f"{TITLES.get(task, task)}: {score_of(task)}, median over seeds"
        found.append(tuning(rows, METHODS, of, along, title=title, best="max"))
    return found


def tables(rows: Rows) -> list[Table]:
    """Main table, every task, rewards on the grid; or what was swept."""
    plain = rows.of(**dict.fromkeys(SWEPT))  # of the tasks' own values
    found = [main_table(plain)] if plain.of(task=[*GRIDS, B, C]) else []
    found += [task_table(plain, task) for task in tasks_of(plain)]
    found.append(pay_table(plain))
    found += [kappa_table(rows)] if rows.unique("kappa") else []
    found += tuning_tables(rows) if rows.unique("lr") else []
    return [table for table in found if table.rows]


def tasks_of(rows: Rows) -> list[str]:
    """The tasks with rows: A, B, C, then the others."""
    there = rows.unique("task")
    return [*(t for t in TITLES if t in there), *(t for t in there if t not in TITLES)]


# -- figures ------------------------------------------------------------------------------------


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Learning curves (main), the agent's parts, reward maps, paths, blind selection."""
    rows = rows.of(**dict.fromkeys(SWEPT))  # of the tasks' own values
    drawn: dict[str, Drawing] = {}
    tasks = tasks_of(rows)
    shown = [
        Panel(TITLES.get(t, t), {"task": t, "metric": f"{score_of(t)}_curve"}, score_of(t))
        for t in tasks
    ]
    rivals = METHODS.having("method", "ablation", "baseline", "added")
    if figure := curves(rows, METHODS, shown, names=rivals, xlabel="environment steps"):
        for axis, task in zip(figure.axes, tasks, strict=True):
            if expert := rows.of(task=task, metric="expert_return", method="tdil"):
                axis.axhline(expert.value(), color="black", linewidth=0.8)
        text = (
            "Success from 100 starts (A, B) and return (C; black line: the expert's) against "
            "environment steps, the warm-up of 2,000 included: mean and 95 % band, 5 seeds on A, 3 "
            "on B and C. On B GAIL-style and TDIL without hard negatives end on each other."
        )
        drawn["curves"] = Drawing(figure, text, main=True)
    variants = METHODS.having("method", "variant", "added")
    mazes = [panel for panel in shown if panel.ylabel == "success"]
    if figure := curves(
        rows, METHODS, mazes, names=variants, xlabel="environment steps", width=4.4
    ):
        text = (
            "TDIL and its variants: success against environment steps, mean and 95 % band. On A "
            "TDIL without threshold and without the expert's critic step end on TDIL."
        )
        drawn["parts"] = Drawing(figure, text)
    maps = [e for e in extras if e["name"].endswith("_reward") and e["method"] in ("tdil", "gail")]
    if maps and rows:
        text = (
            "Reward by cell of the grid: R_TDIL of the exact D for a random policy, as TDIL has "
            "learned it (first seed), and D_g for its best-paid action. Orange: the demonstration."
        )
        drawn["rewards"] = Drawing(draw_maps(maps), text)
    paths = [e for e in extras if e["name"] == "paths" and e["task"] == B]
    if paths and rows:
        text = "Paths of the last policy on B from twelve starts (dots), first seed of each method."
        drawn["paths"] = Drawing(draw_paths(paths), text)
    if rows.of(metric="rho_rel_curve", method="tdil"):
        text = (
            "ρ_rel (by the D of that moment) and score of TDIL's checkpoints after the warm-up, a "
            "colour per seed."
        )
        named = {task: (TITLES.get(task, task), score_of(task)) for task in tasks}
        drawn["blind_selection"] = Drawing(draw_blind(rows.of(method="tdil"), named), text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
