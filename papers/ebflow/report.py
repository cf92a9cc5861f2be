"""Tables and figures of EBFlow's rows: likelihoods, points, imputation, cost of a step."""

from __future__ import annotations

from functools import partial

import numpy as np

from common import plotting
from common.plotting import Figure
from common.report import (
    DASH,
    Column,
    Drawing,
    Extras,
    Panel,
    Table,
    by_method,
    cell,
    curves,
    grid,
    heatmaps,
    legend_below,
    power_law,
    report_cli,
)
from common.rows import NoResults, Rows
from papers.ebflow.claims import ALIASED, DIGITS, GROWTH_FROM, diverged, exponent, timed
from papers.ebflow.methods import METHODS, UPDATE
from papers.ebflow.methods import timed as timed_losses

MODELS = {"fc": "FC", "cnn": "CNN"}


def scores(rows: Rows) -> str:
    """Mean and interval of the finite values; how many seeds diverged, if some did."""
    lost = diverged(rows)
    if lost and lost == len(rows):
        return "diverged"
    return cell(rows) + (f" ({lost} diverged)" if lost else "")


def median(rows: Rows) -> str:
    """Median over the repeats, or the seeds."""
    return f"{rows.frame['value'].median():.2f}" if rows else DASH


def growth(rows: Rows, batch: int) -> str:
    """The exponent of a loss's time per step, FC model."""
    try:
        return power_law("D", exponent(rows, str(rows.frame["method"].iloc[0]), batch))
    except (NoResults, IndexError):
        return DASH


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
        Column("FC, growth", fc, show=partial(growth, batch=100)),
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
        columns.append(Column(f"from D = {GROWTH_FROM}", of, show=partial(growth, batch=batch)))
    lines = [*by_method(METHODS), ("optimiser and EMA", {"method": UPDATE})]
    title = f"{MODELS[model]} model, batch {batch}: median ms per step"
    return grid(rows, title, lines, columns, corner="loss")


COST = (
    "Median milliseconds of a training step against the dimension D, log-log, for both models and"
    " batch sizes. Colours are losses; dashed: those that compute determinants (ML) or invert"
    " (SML); dotted: slopes 3 (above) and 2 (below). DSM and FDSSM lie nearly on each other."
    " D = 1024, where powers of two collide in the cache, is in the tables only."
)
LIKELIHOOD = (
    "Validation bits per dimension of the averaged weights along training: mean over the seeds with"
    " its 95 % interval. Colours are losses; ML and SML lie on each other."
)
DENSITIES = (
    "Exact smoothed densities and what each loss learnt (first seed), one scale of brightness for"
    " all; at 3000 steps much of SSM's mass on the sine lies outside of the frame."
)


def figures(rows: Rows, extras: Extras) -> dict[str, Drawing]:
    """Cost against dimension; validation curves; densities."""
    rows, drawn = rows.of(lr=None), {}
    if rows.of(metric="ms"):
        drawn["cost"] = Drawing(cost_figure(rows), COST, main=True)
    curve = {"metric": "valid_bits_per_dim"}
    panels = [Panel(t, {**curve, "task": t}) for t in rows.of(**curve).unique("task")]
    if figure := curves(rows, METHODS, panels, log="y", width=5.0):
        drawn["likelihood"] = Drawing(figure, LIKELIHOOD)
    order = list(METHODS)
    maps = sorted(
        (e for e in extras if e["name"] in ("exact", "learnt") and "lr" not in e),
        key=lambda e: (e["task"], e["name"] != "exact", order.index(e["method"])),
    )
    titles = ["exact" if e["name"] == "exact" else METHODS.label(e["method"]) for e in maps]
    shown = [
        (f"{e['task']}: {title}", np.array(e["data"])[::-1])
        for e, title in zip(maps, titles, strict=True)
    ]
    if figure := heatmaps(shown, width=1.6):
        drawn["densities"] = Drawing(figure, DENSITIES)
    return drawn


def cost_figure(rows: Rows) -> Figure:
    """Milliseconds per step against D; dotted: slopes 2 and 3."""
    places = [(m, int(b)) for m in MODELS for b in rows.of(metric="ms", task=m).unique("batch")]
    figure, axes = plotting.panels(1, len(places), width=2.7, height=3.0)
    colour, drawn = METHODS.colours(), {}
    for axis, (model, batch) in zip(axes.flat, places, strict=True):
        ends, dims = [], []
        for name in timed_losses():
            if not (found := timed(rows, name, model, batch)):
                continue
            ms = found.frame.groupby("dim")["value"].median()
            ms = ms[ms.index % ALIASED > 0]
            style = "o-" if METHODS[name].matches else "o--"
            line = axis.loglog(ms.index, ms, style, color=colour[name], markersize=3)[0]
            drawn.setdefault(METHODS.label(name), line)
            ends.append(ms.iloc[-1])
            dims = list(ms.index)
        near = dims[-1] * np.array([0.4, 1.0])
        for power, end in ((3, 1.5 * max(ends)), (2, min(ends) / 1.6)):
            axis.loglog(near, end * (near / near[1]) ** power, ":", color="0.5", linewidth=1)
        shown = dims if len(dims) < 5 else dims[::2]
        axis.set_xticks(shown, [f"{d:.0f}" for d in shown], fontsize=7)
        axis.minorticks_off()
        axis.set(xlabel="dimension D", title=f"{MODELS[model]}, batch {batch}")
    axes[0, 0].set(ylabel="ms per step")
    legend_below(figure, drawn, columns=5)
    return figure


if __name__ == "__main__":
    report_cli(tables, figures)
