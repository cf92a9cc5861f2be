"""Tables and figures of HC-SMoE: what fewer experts cost, and what explains it."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.hc_smoe.claims import SCRATCH, cell
from papers.hc_smoe.methods import METHODS
from papers.hc_smoe.trees import dendrograms

TRAINED = ("mixtral", "qwen", SCRATCH)
TITLES = {"mixtral": "Mixtral kind, 8 experts", "qwen": "Qwen kind, 16 experts"}
TITLES |= {SCRATCH: "Mixtral kind from scratch", "dense": "dense"}
MAIN = (
    *("hc-avg", "hc-single", "hc-mean", "hc-weight", "hc-router", "kmeans", "oneshot"),
    *("random", "fprune", "sprune", "oprune", "original"),
)
UNMARKED = [METHODS.label("original")]
FORETOLD = {
    "output": "mean outputs (the paper's)",
    "tokens": "outputs token by token",
    "weight": "weights",
    "router": "router logits",
    "usage": "mean outputs, by usage (Ward)",
}


def increases(rows: Rows) -> Rows:
    """All rows, and beside every loss its increase over the original's on the same seed."""
    records = rows.frame.to_dict("records")
    loss = [row for row in records if row["metric"] == "nll"]
    whole = {(r["task"], r["seed"]): r["value"] for r in loss if r["method"] == "original"}
    for row in loss:
        if (row["task"], row["seed"]) in whole:
            less = row["value"] - whole[row["task"], row["seed"]]
            records.append({**row, "metric": "increase", "value": less})
    return Rows([{k: v for k, v in row.items() if v == v} for row in records])


def of_cell(task: str, kept: float | list[float], metric: str) -> dict[str, Any]:
    """Labels of a cell."""
    return {"task": task, "kept": kept, "metric": metric}


def main_table(rows: Rows) -> Table:
    """Loss increases of both families; accuracy; from scratch."""
    columns = [
        Column(cell(task, kept), of_cell(task, kept, "increase"), "min")
        for task in TRAINED[:2]
        for kept in (0.75, 0.5)
    ]
    columns += [
        Column("from scratch 50%", of_cell(SCRATCH, 0.5, "increase"), "min"),
        *(
            Column(f"{cell(task, 0.75)}: accuracy", of_cell(task, [0.75, 1.0], "accuracy"), "max")
            for task in TRAINED[:2]
        ),
    ]
    title = (
        "Increase of the loss over the original's with 75 % and 50 % of the experts, nats per "
        "token of validation text; accuracy on 400 four-way questions per seed, chance .25"
    )
    lines = by_method(METHODS, MAIN)
    return grid(rows, title, lines, columns, corner="method", main=True, unmarked=UNMARKED)


def details(rows: Rows, task: str, kept: float) -> Table:
    """All methods in a cell, with what explains them."""
    whole = {"task": task, "kept": [kept, 1.0]}
    columns = [
        Column("loss", {**whole, "metric": "nll"}, "min"),
        Column("increase", of_cell(task, kept, "increase"), "min"),
        Column("range over draws", {**whole, "metric": "nll_range"}),
        Column("bits per byte", {**whole, "metric": "bits_per_byte"}, "min"),
        Column("error of layers", {**whole, "metric": "error"}, "min"),
        Column("largest group", {**whole, "metric": "largest"}, show=report.mean()),
        Column("groups of one", {**whole, "metric": "singletons"}, show=report.mean()),
        Column("usage of the busiest group", {**whole, "metric": "busiest"}, show=report.mean()),
        Column("experts run per token", {**whole, "metric": "evaluations"}, show=report.mean()),
        Column("routed weights left", {**whole, "metric": "left"}, show=report.mean()),
    ]
    title = f"{TITLES.get(task, task)}, {kept:.0%} of the experts"
    return grid(rows, title, by_method(METHODS), columns, corner="method", unmarked=UNMARKED)


def foretelling(rows: Rows) -> Table:
    """Which distance between two experts ranks pairs as the damage of merging them does."""
    lines = [(label, {"metric": f"foretells_{name}"}) for name, label in FORETOLD.items()]
    columns = [
        Column(TITLES[task], {"task": task, "method": "original"}, "max") for task in TRAINED
    ]
    title = (
        "Rank correlation, over all pairs of experts, of their distance with the error that "
        "merging the two causes on held-out tokens; mean over layers"
    )
    return grid(rows, title, lines, columns, corner="distance by")


def assays(rows: Rows) -> Table:
    """What the mixtures are like before anything is merged."""
    names = {
        "nll": "loss",
        "accuracy": "accuracy",
        "least_used": "least used expert, of an even share",
        "most_used": "most used expert",
        "dispersion": "distance of two experts' outputs, of their size",
        "mean_share": "share of the mean in an output's square",
        "agrees_tokens": "rank correlation of distances by means and token by token",
    }
    lines = [(label, {"metric": name}) for name, label in names.items()]
    columns = [Column(TITLES[task], {"task": task, "method": "original"}) for task in TRAINED]
    return grid(rows, "The mixtures before anything is merged", lines, columns, corner="quantity")


def zero_shot(rows: Rows, task: str) -> Table:
    """The paper's tables: accuracy of every task."""
    at = rows.of(task=task)
    names = [m for m in at.unique("metric") if m.startswith("accuracy")]
    columns = [Column(m.removeprefix("accuracy_"), {"metric": m}, "max") for m in names]
    lines = [
        (f"{METHODS.label(method)}, {kept:.0%}", {"method": method, "kept": kept})
        for kept in sorted(at.unique("kept"), reverse=True)
        for method in METHODS
    ]
    return grid(at, f"{task}: zero-shot accuracy", lines, columns, corner="method, experts")


def tables(rows: Rows) -> list[Table]:
    """Main table, every cell with its explanations, what foretells damage, the training."""
    if len(rows.of(method="hc-avg").unique("calibration")) > 1:
        return tuned(rows)
    rows = increases(rows)
    there = rows.of(metric="nll")
    made = [main_table(rows)] if there else []
    for task in there.unique("task"):
        shares = [k for k in sorted(there.of(task=task).unique("kept"), reverse=True) if k < 1]
        made += [details(rows, task, kept) for kept in shares]
    made += [foretelling(rows), assays(rows)] if there.of(method="original") else []
    made += [
        zero_shot(rows, t) for t in rows.of(metric="accuracy").unique("task") if t not in TITLES
    ]
    ends = [Column(m, {"metric": f"{m}_end"}) for m in ("validation", "loss", "balance")]
    lines = [(TITLES[t], {"task": t}) for t in ("dense", *TRAINED)]
    title = "Training: validation loss and, of the last batch, loss and balance (1: even)"
    made.append(grid(rows, title, lines, ends, corner="network"))
    return [table for table in made if table.rows]


def tuned(rows: Rows) -> list[Table]:
    """Median loss by the number of calibration windows."""
    title = "{}, {:.0%} of the experts: median loss over seeds, by windows of calibration text"
    return [
        report.tuning(
            rows,
            METHODS,
            of_cell(task, kept, "nll"),
            ["calibration"],
            title=title.format(TITLES[task], kept),
        )
        for task in rows.of(metric="nll").unique("task")
        for kept in rows.of(metric="nll", task=task).unique("kept")
    ]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Increases of the loss (main); error of layers against them; dendrograms."""
    drawn: dict[str, Drawing] = {}
    if len(rows.of(method="hc-avg").unique("calibration")) > 1:
        return drawn  # the tables of a tuning say it
    rows = increases(rows)
    panels = [
        Panel(cell(task, kept), of_cell(task, kept, "increase"), "nats per token")
        for task in TRAINED
        for kept in sorted(rows.of(task=task, metric="increase").unique("kept"), reverse=True)
        if kept < 1
    ][:6]
    names = [name for name in METHODS if name != "original"]
    if figure := report.intervals(rows, METHODS, panels, names=names, width=3.0):
        text = (
            "Increase of the loss over the unmerged mixture: mean over seeds with its 95 % "
            "interval, a dot per seed."
        )
        drawn["increase"] = Drawing(figure, text, main=True)
    pairs = [(Panel(p.title, {**p.of, "metric": "error"}, "error of layers"), p) for p in panels]
    if figure := report.frontier(rows, METHODS, pairs, names=names, log="xy"):
        text = (
            "Mean error of the layers' outputs on the original's inputs, |y' − y|² / |y|², against "
            "the increase of the loss; means with 95 % intervals."
        )
        drawn["error"] = Drawing(figure, text)
    if figure := dendrograms(extras, TITLES):
        text = (
            "How HC-SMoE joins the experts of each layer (first seed): height is the mean distance "
            "of two groups' mean outputs."
        )
        drawn["dendrograms"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
