"""Tables and figures of OVMSE: win rates, unlearning and what explains it, the data, the chain."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from common import report
from common.report import Column, Drawing, Panel, Table, by_method, grid
from common.rows import Rows
from papers.ovmse.claims import DIP, EPISODES, MEDIUM, null_dip, of
from papers.ovmse.methods import METHODS
from papers.ovmse.task import CHAIN, QUALITIES

STAGES = {
    "chain": (
        {"chain_value": "Q(0, (1, 1))"},
        *("episode", "Exact chain, value of the right action: mean over seeds; Q* = .857."),
    ),
    "offline": (
        {"offline_win_rate": "win rate", "offline_q": "Q", "offline_gap": "conservative term"},
        *("update", "Offline training: mean over seeds and 95 % band."),
    ),
}
DOTS = {"dip": "dip", "area": "auc", "final": "final"}
DATA = {
    **{"win rate": "win_rate", "return": "return", "episodes": "episodes", "steps": "steps"},
    "behaviour's steps": "checkpoint",
}
ONLINE = [m.name for m in METHODS.values() if m.stage == "online"]
LEFT_OUT = {"ovmse-fixed", "se-tuned", "mix-tuned", "finetune-tuned"}  # of the curves
OFFLINE = [m.name for m in METHODS.values() if m.stage == "offline"]


def columns(heads: Mapping[str, tuple[str, Any]], task: str) -> list[Column]:
    """Columns of means with intervals on a task: head -> metric and which is best."""
    return [Column(head, {"metric": m, "task": task}, best) for head, (m, best) in heads.items()]


STEPS = report.mean(0)  # cell: a number of steps


def online_tasks(rows: Rows) -> list[str]:
    """Tasks with online runs, the default's first."""
    found = rows.of(metric="auc").unique("task")
    return sorted(found, key=lambda task: (task != MEDIUM, task))


def lines_of(rows: Rows, task: str) -> list[tuple[str, dict[str, Any]]]:
    """Online methods; where a study or tuning varies a setting, a line for each of its values."""
    made = []
    there = rows.of(task=task, metric="auc")
    for method in METHODS.values():
        mine = there.of(method=method.name)
        labels = ("lambda0", "epsilon")
        ways: list[list[float | None]] = [[None, *mine.unique(label)] for label in labels]
        for values in itertools.product(*ways):
            setting = dict(zip(labels, values, strict=True))
            shown = [f"{name}={value:g}" for name, value in setting.items() if value is not None]
            made.append((", ".join([method.label, *shown]), {"method": method.name, **setting}))
    return made


def main_table(rows: Rows, task: str) -> Table:
    """Win rates and unlearning on a task."""
    heads = {
        "at the start": ("start", None),
        "dip": ("dip", "min"),
        "value of the data, first quarter": ("probe_early", "max"),
        "area": ("auc", "max"),
        "final": ("final", "max"),
    }
    made = columns(heads, task)
    made.append(Column("steps to .6", {"metric": "steps_to_60", "task": task}, "min", show=STEPS))
    start = of(rows, "start", "finetune-eps", task)
    chance = f"{null_dip(start.value()):.1%}" if start else "few"
    title = (
        f"SMAX {task}: greedy win rates; dip: the first less the lowest of the next five "
        f"({EPISODES} episodes each, by chance above {DIP:g} in {chance} of runs); "
        "value: mean Q of the data's actions, at the start 1"
    )
    return grid(rows, title, lines_of(rows, task), made, corner="method", main=task == MEDIUM)


def explanations(rows: Rows, task: str) -> Table:
    """What the parts do: explorers, share of the samples that the memory lifts, agreement."""
    heads = {
        "explorers per step": ("explorers_mean", None),
        "steps with two or more": ("several_mean", None),
        "Q_off above y_TD, first quarter": ("remembered_early", None),
        "the same, last three intervals": ("remembered_late", None),
        "mean of y − y_TD, first quarter": ("lift_early", None),
        "greedy actions that are still θ_off's": ("agreement_early", None),
        "fall of the data's value": ("probe_fall", "min"),
    }
    made = columns(heads, task)
    made.append(
        Column("steps to offline + .2", {"metric": "steps_to_more", "task": task}, show=STEPS)
    )
    made += [
        Column(head, {"metric": metric, "task": task}, show=STEPS)
        for head, metric in (("environment steps", "env_steps"), ("updates", "updates"))
    ]
    title = f"SMAX {task}: what explains it (rewards of the learners x 10)"
    return grid(rows, title, lines_of(rows, task), made, corner="method")


def tables(rows: Rows) -> list[Table]:
    """Main table, explanations, the chain, offline learning, the data sets, tuning."""
    made = []
    for task in online_tasks(rows):
        made += [main_table(rows, task), explanations(rows, task)]
    if rows.of(task=CHAIN):
        heads = {
            "lowest value": ("chain_worst", "max"),
            "last value": ("chain_last", None),
            "mean value, noisy rewards": ("chain_noisy_mean", None),
        }
        title = (
            "Exact chain, ε = .2: value of the right action at the start over Q* (with noise: "
            "itself; Q* = .857)"
        )
        made.append(grid(rows, title, by_method(METHODS), columns(heads, CHAIN), corner="method"))
    for task in rows.of(metric="offline_final").unique("task"):
        part = rows.of(task=task)
        body = [Column("without α", {"metric": "offline_final", "alpha": None})]
        for a in part.of(metric="offline_final").unique("alpha"):
            body.append(Column(f"α = {a:g}", {"metric": "offline_final", "alpha": a}, "max"))
        title = f"SMAX {task}: greedy win rate after offline training (three evaluations)"
        made.append(grid(part, title, by_method(METHODS, OFFLINE), body, corner="method"))
    for task in rows.of(metric="data_win_rate").unique("task"):
        part = rows.of(task=task)
        body = [Column(head, {"metric": f"data_{metric}"}) for head, metric in DATA.items()]
        lines = [(quality, {"quality": quality}) for quality in QUALITIES]
        title = f"SMAX-{task}: the data sets (QMIX, ε = .05; replay: its own)"
        made.append(grid(part, title, lines, body, corner="data"))
    return [table for table in made if table.rows]


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Win rates and unlearning (main), what the parts do, the chain, stages 1 and 2."""
    drawn: dict[str, Drawing] = {}
    for task in online_tasks(rows):
        part = rows.of(task=task, lambda0=None, epsilon=None)  # where no setting was varied
        shown = [
            Panel("win rate", {"metric": "win_rate"}, "greedy"),
            Panel("value of the data", {"metric": "probe_q"}, "over its start"),
            Panel("still θ_off's actions", {"metric": "agreement"}, "share"),
            Panel("explorers per step", {"metric": "explorers"}),
            Panel("Q_off above y_TD", {"metric": "remembered"}, "share of samples"),
            Panel("lift y − y_TD", {"metric": "lift"}),
        ]
        names = [n for n in ONLINE if task != MEDIUM or n not in LEFT_OUT]
        figure = report.curves(
            part, METHODS, shown, names=names, xlabel="environment steps", width=3.0
        )
        if figure:
            text = (
                f"SMAX {task}: mean over seeds, 95 % band. All but scratch begin with the offline "
                "value function of their seed; the lift is 0 without memory."
            )
            name = "online" if task == MEDIUM else f"online_{task.replace('-', '_')}"
            drawn[name] = Drawing(figure, text, main=task == MEDIUM)
        shown = [Panel(title, {"metric": metric}) for title, metric in DOTS.items()]
        if figure := report.intervals(part, METHODS, shown, thresholds={"dip": DIP}, width=3.0):
            text = f"SMAX {task}: mean with its 95 % interval, a dot per seed; dashed: dip of .1."
            drawn[f"seeds_{task.replace('-', '_')}"] = Drawing(figure, text)
    for name, (metrics, xlabel, text) in STAGES.items():
        part = rows.of(metric=list(metrics))
        if len(part.unique("alpha")) > 1:
            continue  # a grid: see the table
        shown = [
            Panel(f"{task}: {title}", {"task": task, "metric": metric})
            for task in part.unique("task")
            for metric, title in metrics.items()
        ]
        if figure := report.curves(part, METHODS, shown, xlabel=xlabel):
            drawn[name] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report.report_cli(tables, figures)
