"""Tables of EBFlow: likelihoods, points, imputation, cost of a step; figures.py draws."""

from __future__ import annotations

from collections.abc import Callable

from common.report import DASH, Column, Table, by_method, cell, grid, power_law, report_cli, shown
from common.rows import NoResults, Rows
from papers.ebflow.claims import DIGITS, GROWTH_FROM, diverged, exponent
from papers.ebflow.figures import MODELS, figures
from papers.ebflow.methods import METHODS, UPDATE


def scores(rows: Rows) -> str:
    """Mean and interval of the finite values; how many seeds diverged, if some did."""
    lost = diverged(rows)
    if lost and lost == len(rows):
        return "diverged"
    return cell(rows) + (f" ({lost} diverged)" if lost else "")


def median(rows: Rows) -> str:
    """Median over the repeats, or the seeds."""
    return f"{rows.frame['value'].median():.2f}" if rows else DASH


def growth(batch: int) -> Callable[[Rows], str]:
    """Cell: the exponent of a loss's time per step, FC model."""

    def law(cell: Rows) -> str:
        if not cell:
            raise NoResults("not timed")
        (loss,) = cell.unique("method")
        return power_law("D", exponent(cell, loss, batch))

    return shown(law)


def tables(rows: Rows) -> list[Table]:
    """The main table; likelihoods, densities in the plane, imputation, cost against dimension."""
    tuned = [
        tuning_table(rows, task, metric)
        for metric in ("bits_per_dim", "kl")
        for task in (rows.of(metric=metric).unique("task") if rows.unique("lr") else ())
    ]
    rows = rows.of(lr=None)
    found = [*tuned, main_table(rows)]
    found += [likelihood_table(rows, task) for task in rows.of(metric="nll").unique("task")]
    points = [
        Column(f"{name}, {task}", {"metric": k, "task": task, "weights": "ema"}, "min", scores)
        for task in rows.of(metric="kl").unique("task")
        for k, name in (("kl", "KL (nats)"), ("fisher", "FD"))
    ]
    imputed = [
        Column(name, {"metric": k, "task": DIGITS})
        for k, name in (
            ("rmse_mean", "RMSE, mean of chain"),
            ("rmse_sample", "RMSE, one sample"),
            ("log_Z_error", "importance estimate - log Z (nats)"),
            ("effective_samples", "effective samples of 10,000"),
        )
    ]
    for title, columns in (
        ("Points: divergence from the exact density", points),
        ("Digits: right half imputed by Langevin (grey levels), log Z by sampling", imputed),
    ):
        found.append(grid(rows, title, by_method(METHODS), columns, corner="loss"))
    for model in MODELS:
        batches = rows.of(metric="ms", task=model).unique("batch")
        found += [cost_table(rows, model, int(batch)) for batch in batches[::-1]]
    return [table for table in found if table.rows]


def tuning_table(rows: Rows, task: str, metric: str) -> Table:
    """Median over the seeds at each learning rate of the grid."""
    of = {"task": task, "metric": metric, "weights": "ema"}
    columns = [Column(f"{lr:g}", {**of, "lr": lr}, None, median) for lr in rows.unique("lr")]
    title = f"{task}: {metric} by learning rate, median over the seeds"
    return grid(rows, title, by_method(METHODS), columns, corner="loss")


def main_table(rows: Rows) -> Table:
    """What a loss gives and what it costs."""
    bits = {"metric": "bits_per_dim", "weights": "ema", "task": DIGITS}
    fc = {"metric": "ms", "task": "fc", "batch": 100}
    columns = [
        Column("digits, bits/dim", bits, "min", scores),
        *(
            Column(f"KL, {task}", {"metric": "kl", "weights": "ema", "task": task}, "min", scores)
            for task in ("sine", "swirl")
        ),
        Column("FC, ms", {**fc, "dim": 1000}, show=median),
        Column("FC, growth", fc, show=growth(100)),
        Column("CNN, ms", {**fc, "task": "cnn", "dim": 784}, show=median),
    ]
    title = (
        "Digits: test likelihood; points: KL in nats after 3000 of the authors' 50 000 steps;"
        " median ms per step at batch 100 (FC: D = 1000, CNN: 28 x 28); 5 seeds"
    )
    return grid(rows, title, by_method(METHODS), columns, corner="loss", main=True)


def likelihood_table(rows: Rows, task: str) -> Table:
    """Test likelihoods with and without the moving average."""
    bits = {"metric": "bits_per_dim", "task": task}
    columns = [
        Column("test bits/dim", {**bits, "weights": "ema"}, "min", scores),
        Column("without EMA", {**bits, "weights": "raw"}, show=scores),
        Column("best validation", {**bits, "weights": "best"}, show=scores),
        Column("NLL (nats)", {"metric": "nll", "task": task, "weights": "ema"}, "min", scores),
        Column("gradient norm, first 1000 steps", {"metric": "gradient_norm", "task": task}),
    ]
    return grid(rows, f"{task}: test likelihood", by_method(METHODS), columns, corner="loss")


def cost_table(rows: Rows, model: str, batch: int) -> Table:
    """Median milliseconds by loss and dimension, the exponent."""
    of = {"metric": "ms", "task": model, "batch": batch}
    columns = [
        Column(f"D = {d:.0f}", {**of, "dim": d}, show=median) for d in rows.of(**of).unique("dim")
    ]
    if model == "fc":
        columns.append(Column(f"from D = {GROWTH_FROM}", of, show=growth(batch)))
    lines = [*by_method(METHODS), ("optimiser and EMA", {"method": UPDATE})]
    title = f"{MODELS[model]} model, batch {batch}: median ms per step"
    return grid(rows, title, lines, columns, corner="loss")


if __name__ == "__main__":
    report_cli(tables, figures)
