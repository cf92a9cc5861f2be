"""Tables and figures of EGFN: regions against steps and calls, exact L1, AB10, molecules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from common.report import (
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    heatmaps,
    last,
    mean,
    report_cli,
)
from common.rows import NoResults, Rows
from common.stats import mean_ci
from papers.egfn.claims import EARLY, LATE
from papers.egfn.methods import METHODS
from papers.egfn.reading import regions, regions_at_calls
from papers.egfn.task import GRIDS

TITLES = {
    "grid-s": "S: D=3, H=20, R0=1e-5",
    "grid-m": "M: D=4, H=20, R0=1e-5",
    "grid-l": "L: D=5, H=20, R0=1e-5",
    "grid-l4": "L with R0=1e-4",
    "grid-l3": "L with R0=1e-3",
    "objective": "D=5, H=16, R0=1e-4",
    "ablation": "D=3, H=16, R0=1e-5",
    "map": "D=2, H=20, R0=1e-5",
}
PERFECT = "perfect sampler"


def found_by(step: int) -> Any:
    """Cell: regions that the star has found by a step."""
    return per_seed(lambda rows, method: regions(rows, "grid-l", method, step))


def per_seed(how: Any) -> Any:
    """Cell: what ``how(rows, method)`` gives per seed, with its interval."""

    def show(rows: Rows) -> str:
        try:
            values = how(rows, rows.unique("method")[0]).to_numpy(dtype=float)
        except (NoResults, IndexError):
            return "–"
        return str(mean_ci(values)) if len(values) > 1 else f"{values[0]:.3g}"

    return show


def main_table(rows: Rows) -> Table:
    """L by steps and by calls, and exact L1 on S."""
    calls = rows.of(task="grid-l", method="db", metric="reward_calls")
    budget = calls.value() if calls else 40_000.0
    on_l = {"task": "grid-l"}
    by_calls = per_seed(lambda rows, method: regions_at_calls(rows, "grid-l", method, budget))
    columns = [
        Column("calls, L", {**on_l, "metric": "reward_calls"}, show=mean(0)),
        Column(f"L, {EARLY} steps", on_l, show=found_by(EARLY)),
        Column(f"L, {LATE} steps", on_l, show=found_by(LATE)),
        Column(f"L, {budget:,.0f} calls", on_l, show=by_calls),
        Column("area, L", {**on_l, "metric": "area_star"}, "max"),
        Column("exact L1, S", {"task": "grid-s", "metric": "l1_final"}, "min"),
    ]
    title = (
        "Regions of 32 that the star's own samples find on L, by steps and by reward calls; area: "
        "mean share found over all steps; exact L1 on S"
    )
    lines = [
        (label, of)
        for label, of in by_method(METHODS)
        if any(rows.of(task=task, **of) for task in ("grid-l", "grid-s"))
    ]
    table = grid(rows, title, lines, columns, corner="method", main=True)
    floor = [PERFECT, "–", "32", "32", "32", "1", "0"]
    return Table(table.title, table.columns, [*table.rows, floor], main=True)


def reached(rows: Rows) -> str:
    """Cell: seeds that found all regions, and the median step."""
    steps = rows.of(metric="steps_to_all_star").values(least=0)
    n = len(rows.of(metric="found_star").values(least=0))
    return f"{len(steps)}/{n}" + (f", {np.median(steps):.0f}" if len(steps) else "")


def tables(rows: Rows) -> list[Table]:
    """Main table, all grids, strings and molecules."""
    lines = [
        (f"{TITLES.get(task, task)}: {label}", {"task": task, **of})
        for task in GRIDS
        for label, of in by_method(METHODS)
    ]
    columns = [
        Column("reward calls", {"metric": "reward_calls"}, show=mean(0)),
        Column("regions, star's samples", {"metric": "found_star"}),
        Column("regions, all samples", {"metric": "found_all"}),
        Column("runs with all (star), median step", show=reached),
        Column("area (star)", {"metric": "area_star"}),
        Column("exact L1 at the end", {"metric": "l1_final"}),
        Column("mean empirical L1", {"metric": "l1_mean_empirical"}, show=mean(8)),
        Column("buffer: objects", {"metric": "buffer_distinct_last"}, show=mean(0)),
        Column("buffer: regions", {"metric": "buffer_regions_last"}, show=mean(1)),
    ]
    title = "Hypergrids with forced stop; the paper shows curves only"
    designs = [
        Column("mean R", {"metric": "mean_reward_last"}),
        Column("mean R of the 100 best", {"metric": "top100_last"}),
        Column("distinct designs with index < 35", {"metric": "stable_last"}),
    ]
    strings = [
        Column("modes", {"metric": "modes_last"}),
        Column("mean R of the 100 best", {"metric": "top100_last"}),
        Column("relative error of the mean", {"metric": "relative_mean_error_last"}),
    ]
    scores = [
        Column(m.replace("_", " "), {"metric": m}, show=last) for m in ("mean_score", "top_score")
    ]
    found = [
        main_table(rows),
        grid(rows, title, lines, columns, corner="grid: method"),
        grid(
            rows.of(task="ab10"),
            "AB10: ten residues of an antibody chain, reward 2^((50 − instability index)/10)",
            by_method(METHODS),
            designs,
        ),
        grid(
            rows.of(task="qm9str"),
            "QM9 strings (paper: 343 to 406 modes, relative error .025 to .029)",
            by_method(METHODS),
            strings,
        ),
        grid(rows.of(task="seh"), "sEH fragments, at the end", by_method(METHODS), scores),
    ]
    return [table for table in found if table.rows]


def panel(task: str, metric: str, ylabel: str) -> Panel:
    """A metric of a task."""
    return Panel(TITLES.get(task, task), {"task": task, "metric": metric}, ylabel)


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Regions against steps and calls (main), exact L1 and AB10, learned distribution."""
    drawn: dict[str, Drawing] = {}
    grids = ("grid-s", "grid-m", "grid-l")
    by_step = [panel(task, "regions_star", "regions") for task in grids]
    by_call = [replace(p, title="", against="reward_calls", log="x") for p in by_step]
    if figure := curves(rows, METHODS, [*by_step, *by_call], width=3.0):
        text = (
            "Regions found by the star's own samples, above against training steps, below against "
            "reward calls (logarithmic): mean and 95 % band over 5 seeds. Per step EGFN-DB is "
            "early and DB catches up; per call DB is ahead of it on L, and noise without "
            "selection is level with DB. On L the curves of the random population and of EGFN "
            "without mutation lie on those of DB and DB + PRB."
        )
        drawn["regions"] = Drawing(figure, text, main=True)
    others = [
        t for t in GRIDS if t not in ("grid-s", "grid-m", "grid-l", "map") and rows.of(task=t)
    ]
    found = [
        Panel(TITLES.get(t, t), {"task": t, "metric": "regions_star"}, "regions") for t in others
    ]
    exact = [
        Panel(TITLES.get(t, t), {"task": t, "metric": "l1_sum_exact"}, "exact L1") for t in GRIDS
    ]
    designs = [
        panel("ab10", "top100", "mean R of the 100 best"),
        panel("ab10", "stable", "distinct, index < 35"),
        panel("qm9str", "modes", "modes"),
        panel("seh", "top_score", "score of the best"),
    ]
    if figure := curves(rows, METHODS, [*found, *exact, *designs]):
        text = (
            "Regions on the other grids, exact L1 where states can be enumerated, and the other "
            "tasks, against training steps: mean and 95 % band over the seeds."
        )
        drawn["curves"] = Drawing(figure, text)
    data = {e["method"]: e["data"] for e in extras if e["name"] == "p_terminal"}
    maps = [("target", e["data"]) for e in extras if e["name"] == "target"][:1]
    maps += [(METHODS.label(m), data[m]) for m in METHODS if maps and m in data]
    if figure := heatmaps(maps, root=True):
        text = (
            "Distribution of the sampled corner of the two-dimensional grid, mean over the seeds; "
            "colour is the square root of the probability, the same scale in all panels."
        )
        drawn["distributions"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
