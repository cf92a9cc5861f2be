"""Tables and figures of MAST: win rates, what the networks cost, how far values are off."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.mast.claims import FINAL, MAP
from papers.mast.methods import METHODS

CURVES = ("mast", "rigl", "ss", "rlx2", "tiny", "dense", "dense-lambda")  # more would not be read


def tables(rows: Rows) -> list[Table]:
    """Main table: the map of the claims. Then one of every other task, and of the masks."""
    rates = rows.of(metric="tuned")
    if rates and len(rates.unique("lr")) > 1:
        title = "Final win rate by learning rate (median over seeds)"
        of = {"metric": "tuned"}
        return [report.tuning(rates, METHODS, of, ["lr"], title=title, best="max")]
    made = []
    for task in rows.of(metric=FINAL).unique("task"):
        columns = [
            Column("final win rate", {"metric": FINAL}, "max"),
            Column("mean over training", {"metric": "mean_win_rate"}, "max"),
            Column("final return", {"metric": "final_return"}, "max"),
            Column("V − return", {"metric": "bias"}),
            Column("size ×", {"metric": "size_ratio"}, show=report.mean(3)),
            Column("training ×", {"metric": "train_ratio"}, show=report.mean(3)),
            Column("acting ×", {"metric": "act_ratio"}, show=report.mean(3)),
        ]
        title = (
            f"{task}: 64 greedy episodes, mean of the last three of 20 evaluations; operations "
            "and size relative to the dense networks"
        )
        methods = by_method(METHODS)
        made.append(
            grid(rows.of(task=task), title, methods, columns, corner="method", main=task == MAP)
        )
    fits = rows.of(metric="fit_error")
    if fits:
        of = [(f"density {d:g}", {"density": d}) for d in sorted(fits.unique("density"))[::-1]]
        columns = [
            Column(f"{target}: {head}", {"metric": metric, "target": target}, best)
            for target in ("one-step", "lambda", "returns")
            for head, metric, best in (("error", "fit_error", "min"), ("bias", "fit_bias", ""))
        ]
        title = (
            "V(s) of a fixed policy fitted on 512 episodes by its targets, and V − return on 512 "
            "others (root mean square, mean)"
        )
        made.append(grid(rows, title, of, columns, corner="network"))
    columns = [
        Column("connections shared with another agent", {"metric": "overlap"}),
        Column("by chance", {"metric": "overlap_of_chance"}),
        Column("most of an agent, of the mean", {"metric": "most_connections"}),
        Column("empty layers", {"metric": "empty_layers"}),
        Column("updates", {"metric": "updates"}, show=report.mean(0)),
        Column("environment steps", {"metric": "env_steps"}, show=report.mean(0)),
    ]
    title = "Masks of agents, and what was spent"
    for task in rows.of(metric=FINAL).unique("task"):
        made.append(
            grid(
                rows.of(task=task),
                f"{title} ({task})",
                by_method(METHODS),
                columns,
                corner="method",
            )
        )
    return [table for table in made if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Learning curves and final win rates (main), per task."""
    drawn: dict[str, Drawing] = {}
    for task in rows.of(metric=FINAL).unique("task"):
        of = {"task": task}
        shown = [
            Panel("win rate", {**of, "metric": "win_rate"}, "greedy episodes"),
            Panel("return", {**of, "metric": "return"}, "greedy episodes"),
        ]
        there = rows.of(**of, metric="win_rate").unique("method")
        names = [m for m in METHODS if m in there and (len(there) <= len(CURVES) or m in CURVES)]
        name = "".join(c if c.isalnum() else "_" for c in task)
        if figure := report.curves(
            rows, METHODS, shown, names=names, xlabel="environment steps", width=3.6
        ):
            text = f"{task}: greedy episodes while training; mean over seeds and 95 % band."
            drawn[f"curves_{name}"] = Drawing(figure, text)
        shown = [
            Panel("final win rate", {**of, "metric": FINAL}, "mean of the last three"),
            Panel("mean win rate of training", {**of, "metric": "mean_win_rate"}, ""),
            Panel("V − return", {**of, "metric": "bias"}, "reward"),
        ]
        if figure := report.intervals(rows, METHODS, shown, width=3.0):
            text = (
                f"{task}: mean over seeds with its 95 % interval, a dot per seed. V is the value "
                "that a target takes of the next moment, by the method's own operator; the return "
                "is that of the greedy episode from there on."
            )
            drawn[f"final_{name}"] = Drawing(figure, text, main=task == MAP)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
