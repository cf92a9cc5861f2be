"""Tables of QCSBM: likelihood, asymmetry, score error, samplers, examples; figures.py draws."""

from __future__ import annotations

from typing import Any

from common.report import Column, Table, cell, grid, mean, report_cli, shown, tuning
from common.rows import Rows
from papers.qcsgm.claims import SETS
from papers.qcsgm.figures import figures
from papers.qcsgm.methods import METHODS
from papers.qcsgm.rotation import EPSILONS

PUBLISHED_STEPS = {
    "radial": (1, 2, 3, 3, 4, 5, 16),
    "rotational": (1, 4, 5, 6, 57, 121, 238),
}
SCORE_TASKS = (*SETS, "digits", "cifar10", "cifar100", "imagenet32", "svhn")


def models(rows: Rows) -> list[tuple[str, dict[str, Any]]]:
    """Lines of tables: every method, once per weight of the regulariser that was trained."""
    lines = []
    for name, model in METHODS.items():
        lams = rows.of(method=name, metric="asym").unique("lam")
        several = model.regulariser is not None
        lines += [
            (model.label + (f", λ = {lam:g}" if several else ""), {"method": name, "lam": lam})
            for lam in lams
        ]
    return lines


def asymmetry(rows: Rows) -> str:
    """Mean with its interval; what is rounding alone is 0."""
    return "0" if rows and abs(rows.value()) < 1e-8 else cell(rows)


@shown
def quality(rows: Rows) -> str:
    """Score evaluations / 1000 MMD^2, means over seeds."""
    calls = f"{rows.of(metric='nfe').value():.0f}"
    return f"{calls} / {1e3 * rows.of(metric='mmd2').value():.1f}"


@shown
def steps(rows: Rows) -> str:
    """Range of the steps over seeds."""
    found = rows.values(least=1)
    same = found.min() == found.max()
    return f"{found[0]:.0f}" if same else f"{found.min():.0f}–{found.max():.0f}"


def tables(rows: Rows) -> list[Table]:
    """The main table, one per set, samplers, the autoencoder, Example 1."""
    tuned = [
        tuning(rows, METHODS, {"task": t, "metric": "nll"}, ["lr"], title=f"{name}: NLL (nats)")
        for t, name in (SETS.items() if rows.unique("lr") else ())
        if rows.of(task=t)
    ]
    rows = rows.of(lr=None)
    found = [*tuned, main_table(rows)]
    for task in SCORE_TASKS:
        of = {"task": task}
        columns = [
            Column("NLL (nats)", {**of, "metric": "nll"}, "min"),
            Column("NLL, matched prior", {**of, "metric": "nll_matched"}, "min"),
            Column("NLL, exact density", {**of, "metric": "nll_truth"}),
            Column("NLL (bits/dim)", {**of, "metric": "bits"}, "min"),
            Column("Asym", {**of, "metric": "asym"}, show=asymmetry),
            Column("NAsym", {**of, "metric": "nasym"}, show=asymmetry),
            Column("score error", {**of, "metric": "score_error"}, "min"),
            *(
                Column(f"{k}, RK45", {**of, "metric": k, "sampler": "RK45", "rtol": 1e-3})
                for k in ("precision", "recall")
            ),
        ]
        there = [column for column in columns if rows.of(**column.of)]
        found.append(grid(rows, SETS.get(task, task), models(rows), there, corner="model"))
        found.append(samplers_table(rows, task))
    ends = (
        ("loss", "L_QC"),
        ("gap", "‖WRᵀ − RWᵀ‖"),
        ("untied", "‖W − R‖"),
        ("nasym", "NAsym"),
        ("jacobian", "E‖J‖²"),
        ("angle", "max sin∠(r, w)"),
    )
    of = {"task": "autoencoder", "method": "qc"}
    columns = [Column(name, {**of, "metric": metric}, show=ends_of) for metric, name in ends]
    lines = [(f"seed {seed}", {"seed": seed}) for seed in rows.of(**of).unique("seed")]
    title = "Autoencoder, L_QC alone: start → end"
    found.append(grid(rows, title, lines, columns, corner=""))
    found.append(steps_table(rows))
    return [table for table in found if table.rows]


def main_table(rows: Rows) -> Table:
    """NLL and score error side by side."""
    columns = [
        Column(f"{name}: {what}", {"task": task, "metric": metric}, "min", mean(3))
        for task, name in SETS.items()
        for metric, what in (("nll", "NLL"), ("score_error", "error"))
    ]
    columns.append(Column("digits: bits/dim", {"task": "digits", "metric": "bits"}, "min", mean(3)))
    title = "NLL in nats under the prior N(0, 3²) and corrected score error; means of 3 seeds"
    return grid(rows, title, models(rows), columns, corner="model", main=True)


def samplers_table(rows: Rows, task: str) -> Table:
    """Score evaluations of each sampler, and the quality of its samples."""
    chosen = rows.of(task=task, metric=("nfe", "mmd2"))
    columns = []
    for sampler in chosen.unique("sampler"):
        mine = {"task": task, "sampler": sampler}
        if sampler == "likelihood":
            columns.append(Column("likelihood", {**mine, "metric": "nfe"}, show=mean(0)))
            continue
        for rtol in chosen.of(sampler=sampler).unique("rtol") or [None]:
            name = sampler if rtol is None else f"{sampler}, rtol {rtol:g}"
            columns.append(Column(name, {**mine, "rtol": rtol}, show=quality))
    title = f"{SETS.get(task, task)}: score evaluations / 1000 MMD² to held-out data (means)"
    return grid(rows, title, models(rows), columns, corner="model")


def ends_of(rows: Rows) -> str:
    """First and last value of one seed's curve."""
    _, found = rows.curve()
    return f"{found[0, 0]:.3g} → {found[0, -1]:.2g}"


def steps_table(rows: Rows) -> Table:
    """Example 1 beside the published counts."""
    body: list[list[Any]] = []
    for kind, published in PUBLISHED_STEPS.items():
        mine = rows.of(method=kind, task="gaussian")
        if not mine:
            continue
        body.append([kind, *(steps(mine.of(metric="steps", epsilon=e)) for e in EPSILONS)])
        body.append([f"{kind}, paper", *map(str, published)])
        for name, metric in (("E ½‖u‖²", "error"), ("Asym", "asym"), ("NAsym", "nasym")):
            exact = [mine.of(metric=metric, epsilon=e).value() for e in EPSILONS]
            body.append([f"{kind}: {name}", *(f"{v:.2e}" if v > 1e-20 else "0" for v in exact)])
    title = "Example 1: steps to the mode (range over seeds) for errors of equal size"
    return Table(title, ["ε", *(f"{e:g}" for e in EPSILONS)], body)


if __name__ == "__main__":
    report_cli(tables, figures)
