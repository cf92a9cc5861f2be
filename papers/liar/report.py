"""Tables and figures of LIAR: what is left of a pruned model, where errors arise, what it costs."""

from __future__ import annotations

from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid, mean
from common.rows import Rows
from papers.liar.claims import DECODER, ENCODER, HALF, RETAINED, VARIED
from papers.liar.methods import METHODS
from papers.liar.task import TASKS, setting_of

LEVELS = [METHODS.label(name) for name in ("dense", "untrained", "retrain")]
PARTS = {"all": "heads and neurons", "heads": "heads", "ffn": "neurons", "weights": "weights"}


def named(setting: str, between: str = ", ") -> str:
    """A setting in words."""
    found = setting_of(setting)
    parts = PARTS.get(found.parts, "2:4")
    share = "" if found.parts == "2to4" else f"{found.percent} % "
    return f"{found.criterion}{between}{share}{parts}" + ", ranked over layers" * found.everywhere


def plain(rows: Rows) -> Rows:
    """Where nothing was varied."""
    return rows.of(**VARIED)


def settings_in(rows: Rows, task: str) -> list[str]:
    """The settings of a task that were run, the manifest's first."""
    there = rows.of(task=task).unique("setting")
    first = [name for name in TASKS[task].settings if name in there]
    return first + [name for name in there if name not in first]


def methods_in(rows: Rows, **of: Any) -> list[Column]:
    """A column per method that has rows."""
    there = rows.unique("method")
    return [Column(METHODS.label(n), {"method": n, **of}) for n in METHODS if n in there]


def main_table(rows: Rows) -> Table:
    """Half of the encoder is gone: by criterion and by part; then the decoder."""
    part = plain(rows)
    at = {"task": ENCODER, "setting": HALF}
    columns = [
        Column("accuracy", {**at, "metric": "accuracy"}, "max", show=mean(3)),
        Column("over unpruned", {**at, "metric": "kept_accuracy"}, "max"),
        Column("MRR", {**at, "metric": "mrr"}, "max"),
        Column("MRR, random units", {"task": ENCODER, "setting": "random-all-50", "metric": "mrr"}),
        Column("MRR, only neurons", {"task": ENCODER, "setting": "flap-ffn-50", "metric": "mrr"}),
        Column("parameters", {**at, "metric": "parameters_share"}, show=mean(2)),
        Column(
            "decoder: log-perplexity",
            {"task": DECODER, "setting": "flap-ffn-50", "metric": "nll"},
            "min",
        ),
    ]
    title = (
        "MiniLM with half of its heads and neurons removed (FLAP's criterion): accuracy of the "
        "frozen probe, code search among 250 functions; parameters of the layers; a Llama trained "
        "here, half of its neurons removed"
    )
    lines = by_method(METHODS)
    return grid(part, title, lines, columns, corner="method", main=True, unmarked=LEVELS)


def by_setting(rows: Rows, task: str, metric: str, what: str) -> Table:
    """A metric of every setting, a line each, a column per method."""
    part = plain(rows).of(task=task, metric=metric)
    lines = [(named(s), {"setting": s}) for s in settings_in(part, task)]
    columns = methods_in(part)
    return grid(part, f"{task}: {what}", lines, columns, corner="removed")


def costs(rows: Rows, task: str) -> Table:
    """Size, calibration and time of each method in the first setting."""
    names = settings_in(rows, task)
    at = {"task": task, "setting": HALF if HALF in names else names[0]}
    heads = {
        "parameters of the layers": "parameters",
        "not 0": "nonzero",
        "before": "parameters_before",
        "calibration tokens": "tokens",
    }
    columns = [Column(head, {**at, "metric": m}, show=mean(0)) for head, m in heads.items()]
    columns.append(Column("seconds", {**at, "metric": "seconds"}, show=mean(1)))
    title = f"{task}, {named(at['setting'])}: size and wall time of pruning and reconstruction"
    return grid(plain(rows), title, by_method(METHODS), columns, corner="method")


def changes(rows: Rows, task: str, metric: str) -> Table:
    """What a changed setting of the run does."""
    part = rows.of(task=task, metric=metric)
    lines = [("as in the default", VARIED)]
    for label in VARIED:
        others = {k: None for k in VARIED if k != label}
        lines += [(f"{label} {v}", {**others, label: v}) for v in part.unique(label)]
    if len(lines) == 1:
        return Table("", [], [])
    setting = settings_in(part, task)[0]
    columns = methods_in(part, setting=setting)
    title = f"{task}, {named(setting)}: {metric.replace('_', ' ')} with other settings"
    return grid(part, title, lines, columns, corner="changed")


def tuned(rows: Rows) -> bool:
    """Whether the rows are those of a tuning."""
    return len(rows.unique("ridge")) > 1


# The committed tuning has no label where a value was the method's own at that time.
BEFORE = {
    "target": {"liar": "dense", "liar-q": "dense", "mask": "local", "bias": "local"},
    "ridge": dict.fromkeys(METHODS, "1e-4"),
}


def tuning_tables(rows: Rows) -> list[Table]:
    """The grid of a tuning: median over seeds by target and ridge."""
    made = []
    for task, metric, best in ((ENCODER, "kept_mrr", "max"), (DECODER, "lost_nll", "min")):
        part = rows.of(task=task, metric=metric)
        for setting in settings_in(part, task) if part else []:
            frame = part.of(setting=setting).frame.copy()
            for label, own in BEFORE.items():
                frame[label] = frame[label].fillna(frame["method"].astype(str).map(own))
            frame["ridge"] = frame["ridge"].astype(float)
            for target in sorted(frame["target"].unique()):
                title = f"{task}, {named(setting)}, target {target}: {metric.replace('_', ' ')}"
                mine = Rows(frame[frame["target"] == target])
                made.append(report.tuning(mine, METHODS, {}, ["ridge"], title=title, best=best))  # type: ignore[arg-type]
    return made


def tables(rows: Rows) -> list[Table]:
    """Main table; every setting; size and time; changed settings."""
    if tuned(rows):
        return tuning_tables(rows)
    made = [main_table(rows)]
    for task in rows.unique("task"):
        shown = {
            "accuracy": "accuracy",
            "mrr": "mean reciprocal rank",
            "cosine": "cosine to the unpruned vectors",
            "nll": "log-perplexity",
            "f1": "F1",
        }
        made += [by_setting(rows, task, metric, what) for metric, what in shown.items()]
        made.append(costs(rows, task))
        made += [changes(rows, task, metric) for metric in ("kept_mrr", "kept_accuracy", "nll")]
    return [table for table in made if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """What is left by setting (main); errors module by module."""
    drawn: dict[str, Drawing] = {}
    if tuned(rows):
        return drawn
    part = plain(rows)
    for task in rows.unique("task"):
        metric = next(
            (m for m in ("kept_accuracy", "lost_nll", "kept_f1") if part.of(task=task, metric=m)),
            "",
        )
        names = settings_in(part.of(metric=metric), task) if metric else []
        of, what = {"task": task, "metric": metric}, metric.replace("_", " ")
        panels = [Panel(named(s, "\n"), {**of, "setting": s}, what) for s in names[:6]]
        figure = report.intervals(
            part, METHODS, panels, thresholds={p.title: RETAINED for p in panels}, width=3.0
        )
        if figure:
            text = (
                f"{task}: "
                + ("accuracy over the unpruned model's" if "kept" in metric else "nats lost")
                + ", mean with its 95 % interval, a dot per seed; dashed: .98."
            )
            drawn[f"kept_{task}"] = Drawing(figure, text, main=task == ENCODER)
        of = {"task": task, "metric": "stream_errors"}
        shown = [
            Panel(named(s, "\n"), {**of, "setting": s}, "error / |Y|²")
            for s in (n for n in names if "-all-" in n)  # in others every second module is whole
        ]
        if figure := report.curves(part, METHODS, shown, xlabel="module", log="y", width=3.0):
            text = (
                f"{task}: squared error of each module's output over its size, calibration tokens, "
                "against its method's target (as a rule what it gave before pruning for the same "
                "inputs); odd: attention, even: FFN; mean over seeds, 95 % band."
            )
            drawn[f"errors_{task}"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
