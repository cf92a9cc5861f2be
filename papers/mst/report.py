"""Tables and figures of MST: loss against operations, phases, what became of the connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import NoResults, Rows
from papers.mst.method import PHASES
from papers.mst.methods import METHODS

TITLES = {
    "gpt2-tiny": "GPT-2, 2 layers of 64",
    "bert-tiny": "BERT, 2 layers of 64",
    "gpt2-mid": "GPT-2, 4 layers of 128",
    "gpt2-small": "GPT-2 small",
}
PART = {"warm-up": "warm-up", "ultra": "ultra-sparse", "restoration": "restoration"}
PART |= {"gradients": "dense gradients"}
REFERENCE = METHODS.label("dense")


def settings(rows: Rows) -> list[tuple[str, Mapping[str, Any]]]:
    """What was trained for how long: (its name, labels of its rows)."""
    losses = rows.of(metric="nll")
    found = []
    for task in (t for t in TITLES if t in losses.unique("task")):
        for T in losses.of(task=task).unique("T"):
            found.append((f"{TITLES[task]}, {T:,.0f} iterations", {"task": task, "T": float(T)}))
    return found


def tuned(rows: Rows) -> bool:
    """Whether several learning rates were tried with one method on one task."""
    parts = [rows.of(metric="nll", method=name) for name in METHODS]
    return any(len(p.of(task=t).unique("lr")) > 1 for p in parts for t in p.unique("task"))


@report.shown
def percent(part: Rows) -> str:
    """Cell: a share as a percentage."""
    return f"{100 * part.value():.3g} %"


def tables(rows: Rows) -> list[Table]:
    """Main table; operations by phase; connections; losses against static by length."""
    every = settings(rows)
    if not every:
        return []
    if tuned(rows):
        title = "{}: median over seeds of the validation loss, by peak learning rate"
        return [
            report.tuning(
                rows.of(**of), METHODS, {"metric": "nll"}, ["lr"], title=title.format(name)
            )
            for name, of in every
        ]
    made = []
    for name, of in every:
        own, lines = rows.of(**of), by_method(METHODS)
        columns = [
            Column("loss", {"metric": "nll"}, "min"),
            Column("bits per byte", {"metric": "bits_per_byte"}, "min"),
            Column("operations, of dense", {"metric": "flops_ratio"}, show=percent),
            Column("without the head", {"metric": "body_ratio"}, show=percent),
            Column("density at the end", {"metric": "density"}, show=percent),
            Column("changed per update", {"metric": "churn"}, show=percent),
        ]
        title = (
            f"{name}: validation loss (nats per token, full attention) and operations counted "
            "from the masks"
        )
        options = {"corner": "method", "unmarked": [REFERENCE]}
        made.append(grid(own, title, lines, columns, main=not made, **options))
        columns = [
            Column(PART[phase], {"metric": "flops_phase", "phase": phase}, show=percent)
            for phase in (*PHASES, "gradients")
        ]
        columns.append(Column("at GPT-2 small's shape", {"metric": "small_ratio"}, show=percent))
        title = f"{name}: operations by phase, of the dense training's"
        made.append(grid(own, title, lines, columns, **options))
        columns = [
            Column("loss", {"metric": "nll"}, "min"),
            Column("with sparse attention", {"metric": "nll_sparse_attention"}),
            Column("restored connections cut", {"metric": "nll_unrestored"}),
            Column("their size, of the others'", {"metric": "restored_norm"}),
            Column("connected and exactly 0", {"metric": "dead"}, show=percent),
            Column("ever active", {"metric": "explored"}, show=percent),
            Column("tokens per weight", {"metric": "tokens_per_weight"}, show=report.mean(1)),
            Column("seconds", {"metric": "seconds"}, show=report.mean(0)),
        ]
        title = f"{name}: what attention and the restored connections are to the loss"
        made.append(grid(own, title, lines, columns, **options))
    if (table := by_length(rows)) is not None:
        made.append(table)
    if (table := other_texts(rows)) is not None:
        made.append(table)
    return [table for table in made if table.rows]


def by_length(rows: Rows) -> Table | None:
    """MST's loss less static's, by the length of the training."""
    body = []
    for name, of in settings(rows):
        losses, tokens = rows.of(**of, metric="nll"), rows.of(**of, metric="tokens_per_weight")
        pair = [losses.of(method=m) for m in ("mst", "static")]
        try:
            weight = f"{tokens.of(method='mst').value():.1f}"
            body.append([name, weight, *map(report.cell, pair), str(pair[0].minus(pair[1]))])
        except NoResults:
            continue
    if len(body) < 2:
        return None
    head = ["training", "tokens per weight", "MST", "static sparse", "MST − static"]
    return Table("Loss against static sparse training of equal operations, by length", head, body)


def other_texts(rows: Rows) -> Table | None:
    """Zero-shot losses and accuracies of the paper's size."""
    there = rows.of(metric=["zero_shot_nll", "accuracy"])
    if not there:
        return None
    columns = [Column(text, {"text": text}) for text in there.unique("text")]
    title = "Zero-shot loss (nats per token) of other texts, accuracy of tasks"
    return grid(there, title, by_method(METHODS), columns, corner="method", unmarked=[REFERENCE])


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Loss against operations and iterations (main), losses at the end."""
    every = settings(rows)
    if not every or tuned(rows):
        return {}
    drawn: dict[str, Drawing] = {}
    panels = []
    for name, of in every[:3]:
        panels.append(Panel(name, {"metric": "nll_curve", **of}, "validation loss"))
    for name, of in every[:3]:
        title = f"{name.split(',')[0]}: by iteration" if len(every) > 1 else "by iteration"
        panels.append(Panel(title, {"metric": "nll_by_iteration", **of}))
    wide = {"width": 3.6, "columns": min(3, len(every)) if len(every) > 1 else 2}
    if figure := report.curves(rows, METHODS, panels, xlabel="% of dense operations", **wide):
        n = len(figure.axes) // 2
        for ax in figure.axes[n : 2 * n]:
            ax.set_xlabel("iterations")
        for ax in figure.axes:  # what comes first says nothing of the end
            ax.set_ylim(top=min(4.0, ax.get_ylim()[1]))
        text = (
            "Validation loss (nats per token; in the ultra-sparse phase with sparse attention, as "
            "trained) against operations counted from the masks, in % of the dense training's, "
            "and against iterations; mean over seeds and 95 % band."
        )
        read = sorted({e["data"][0] for e in extras if e["name"] == "text"})
        text += f" Text: {', '.join(read)}." if read else ""
        drawn["curves"] = Drawing(figure, text, main=True)
    shown = [
        Panel(name.replace(", ", "\n"), {"metric": "nll", **of}, "validation loss")
        for name, of in every
    ]
    if figure := report.intervals(rows, METHODS, shown, width=3.2):
        text = "Validation loss at the end, full attention: mean with 95 % interval, seeds as dots."
        drawn["losses"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
