"""Tables and figures of DiSF: spectra of selections, losses by domain, greedy, time."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid, mean
from common.rows import Rows
from papers.disf.claims import PLAIN
from papers.disf.methods import METHODS
from papers.disf.task import TASKS

BOUND = [METHODS.label("untrained")]
TEXTS = [name for name, task in TASKS.items() if task.data not in ("normals", "timing")]


def plain(rows: Rows) -> Rows:
    """Where nothing was varied."""
    return rows.of(**PLAIN)


def tuned(rows: Rows) -> bool:
    """Whether the rows are those of a tuning."""
    return len(rows.unique("lr")) > 1


def main_table(rows: Rows, task: str) -> Table:
    """How diverse selections are, and what a model learns from them."""
    at, kind = {"task": task}, TASKS[task]
    columns = [
        Column("mean dominance", {**at, "metric": "mean_dominance"}, "min"),
        Column("effective rank", {**at, "metric": "effective_rank"}, "max"),
        Column("loss, mean over domains", {**at, "metric": "macro"}, "min"),
        Column(f"loss on {kind.target}", {**at, "metric": "on_target"}, "min"),
        Column("loss elsewhere", {**at, "metric": "off_target"}, "min"),
        Column("epochs", {**at, "metric": "epochs"}, show=mean(1)),
    ]
    title = (
        f"{task}: {kind.picks} of every {kind.batch} files; dominance (share of the r largest "
        "eigenvalues, mean over r = 10, …, 100), exp of the entropy of eigenvalues, of 128 files; "
        f"validation loss in nats per token after {kind.tokens:,} tokens"
    )
    lines = by_method(METHODS)
    return grid(plain(rows), title, lines, columns, corner="selection", main=True, unmarked=BOUND)


def by_label(rows: Rows, task: str, metric: str, title: str, best: Any = None) -> Table:
    """A metric by domain."""
    part = plain(rows).of(task=task, metric=metric)
    columns = [Column(n, {"domain": n}, best) for n in part.unique("domain")]
    if not columns:
        return Table("", [], [])
    lines = by_method(METHODS)
    return grid(part, title, lines, columns, corner="selection", unmarked=BOUND)


def others(rows: Rows, task: str) -> Table:
    """What else was measured of selections and models."""
    heads = {
        **{"J of 128 files": "J", "near copies": "near_copies", "CPU seconds": "seconds"},
        **{"entropy of domains": "domain_entropy", "unique tokens": "unique_tokens"},
        **{"bits per byte": "bits_per_byte", "choices right": "choices", "harness": "harness"},
    }
    there = plain(rows).of(task=task)
    columns = [Column(h, {"metric": m}) for h, m in heads.items() if there.of(metric=m)]
    if not columns:
        return Table("", [], [])
    title = (
        f"{task}: J; share of 128 files with a cosine above .95 to another; entropy of the "
        "selection's domains (nats); time of a selection"
    )
    return grid(there, title, by_method(METHODS), columns, corner="selection")


def checks(rows: Rows) -> list[Table]:
    """Small pools and time."""
    heads = {
        **{"from all starts": "J_mean", "best start": "J_best", "all sets": "J_random"},
        **{"best set": "J_optimum", "smallest γ": "ratio"},
    }
    pools = [Column(h, {"task": "normals", "metric": m}) for h, m in heads.items()]
    title = "J of 5 of 12 standard normal vectors of 4 numbers; smallest submodularity ratio found"
    made = [grid(plain(rows), title, by_method(METHODS), pools, corner="selection")]
    forms = ("products", "tensor", "loop", "ratio")
    times = [Column(f, {"task": "timing", "metric": f"seconds_{f}"}) for f in forms]
    title = "CPU seconds of one batch: three products, a tensor, the public code's loop; ratio"
    return [*made, grid(plain(rows), title, by_method(METHODS), times, corner="selection")]


def changes(rows: Rows, task: str) -> list[Table]:
    """What changed settings do."""
    made = []
    for metric in ("mean_dominance", "effective_rank", "macro", "off_target"):
        part = rows.of(task=task, metric=metric)
        lines: list[tuple[str, dict[str, Any]]] = [("as in the default", dict(PLAIN))]
        for label in PLAIN:
            rest = {k: None for k in PLAIN if k != label}
            lines += [(f"{label} {v}", {**rest, label: v}) for v in part.unique(label)]
        if len(lines) == 1:
            continue
        there = part.unique("method")
        columns = [Column(METHODS.label(n), {"method": n}) for n in METHODS if n in there]
        title = f"{task}: {metric.replace('_', ' ')} with other settings"
        made.append(grid(part, title, lines, columns, corner="changed"))
    return made


def tables(rows: Rows) -> list[Table]:
    """Main table; losses and shares by domain; the rest; small pools; changed settings."""
    made: list[Table] = []
    if tuned(rows):  # the task's own rate has no label
        title = "mean loss over domains, median over seeds, by peak learning rate"
        frame = rows.frame.assign(lr=rows.frame["lr"].fillna(TASKS["library"].lr))
        of = {"task": "library", "metric": "macro"}
        return [report.tuning(Rows(frame), METHODS, of, ["lr"], title=title)]
    for task in [name for name in TEXTS if rows.of(task=name)]:
        made.append(main_table(rows, task))
        made.append(by_label(rows, task, "nll", f"{task}: validation loss by domain", "min"))
        made.append(by_label(rows, task, "share", f"{task}: share of the selected files by domain"))
        made.append(others(rows, task))
        made += changes(rows, task)
    return [table for table in [*made, *checks(rows)] if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Spectra and losses (main); dominance by rank; losses while training, and by dominance."""
    drawn: dict[str, Drawing] = {}
    if tuned(rows):
        return drawn
    part = plain(rows)
    for task in [name for name in TEXTS if rows.of(task=name)]:
        at, kind = {"task": task}, TASKS[task]
        panels = [
            Panel("dominance", {**at, "metric": "mean_dominance"}, "mean share of r eigenvalues"),
            Panel("mean over domains", {**at, "metric": "macro"}, "loss / nats"),
            Panel(f"on {kind.target}", {**at, "metric": "on_target"}, "loss / nats"),
            Panel("elsewhere", {**at, "metric": "off_target"}, "loss / nats"),
        ]
        compared = [n for n in METHODS if n != "untrained"]
        if figure := report.intervals(part, METHODS, panels, names=compared, width=3.0, columns=4):
            text = (
                f"{task}: how much few directions dominate the selected files' features (up to 20 "
                "selections), and losses of models trained on them; mean with 95 % interval, a "
                "dot per seed."
            )
            drawn[f"selections_{task}"] = Drawing(figure, text, main=task == "library")
        spectra = [Panel("dominance", {**at, "metric": "dominance"}, "share of their sum")]
        if figure := report.curves(part, METHODS, spectra, xlabel="r largest", width=4.5):
            text = f"{task}: share of the r largest eigenvalues, mean over selections, 95 % band."
            drawn[f"dominance_{task}"] = Drawing(figure, text)
        losses = [Panel("validation loss", {**at, "metric": "curve"}, "nats, mean over domains")]
        if figure := report.curves(
            part, METHODS, losses, names=compared, xlabel="tokens", log="x", width=4.5
        ):
            text = f"{task}: loss against tokens trained on, mean over seeds, 95 % band."
            drawn[f"training_{task}"] = Drawing(figure, text)
        pair = (
            Panel("", {**at, "metric": "mean_dominance"}, "mean share of r eigenvalues"),
            Panel("", {**at, "metric": "macro"}, "loss / nats"),
        )
        if figure := report.frontier(part, METHODS, [pair], names=compared, width=4.5):
            text = f"{task}: loss of models against dominance in their selection; 95 % intervals."
            drawn[f"collapse_{task}"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
