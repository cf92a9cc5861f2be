"""Tables and figures: exact numbers, learned samplers, what rectification does, the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.report import (
    DASH,
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    grid,
    heatmaps,
    mean,
    report_cli,
    shown,
)
from common.rows import Rows
from papers.rpe.drawing import found, rectification
from papers.rpe.methods import METHODS
from papers.rpe.task import SHORT, STRINGS

LONG = ("tfbind8-tree", "tfbind8-dag", "qm9str-dag", *(f"rna{i}-l14" for i in (1, 2, 3, 4)))
TITLES = {**SHORT, **{task: task for task in LONG}}


def learned() -> list[tuple[str, dict]]:
    """Lines: every learner, added ones included."""
    return by_method(METHODS, [name for name in METHODS if METHODS[name].kind != "tables"])


def tables(rows: Rows) -> list[Table]:
    """Main: L1 by task; modes over time; exact numbers; every learner in full; the grid."""
    l1 = [Column(SHORT[t], {"task": t, "metric": "l1_sum_exact_final"}, "min") for t in SHORT]
    accuracy = {"task": "rna1-dag", "metric": "accuracy_final"}
    main = grid(
        rows,
        "Exact L1 to the target, 0 to 2, after the last update, and accuracy in percent",
        learned(),
        [*l1, Column("T2 RNA1: accuracy", accuracy, "max", mean(1))],
        corner="learner",
        main=True,
    )
    if main.rows:
        numbers = {
            "uniform policy": "l1_uniform",
            "one sweep, rectified": "l1_rectified",
            "one sweep, unrectified": "l1_unrectified",
        }
        of = {t: rows.of(method="exact", task=t) for t in SHORT}
        extra = [
            [label, *(tiny(of[t].of(metric=metric)) for t in SHORT), DASH]
            for label, metric in numbers.items()
        ]
        main = Table(main.title, main.columns, [*main.rows, *extra], main=True)
    exact = grid(
        rows.of(method="exact"),
        "Exact L1 of one sweep of policy evaluation (T1, T2: the factor is a constant)",
        [(title, {"task": task}) for task, title in TITLES.items()],
        [
            Column("objects", {"metric": "n_objects"}, show=mean(0)),
            Column("inner states", {"metric": "n_inner"}, show=mean(0)),
            Column("rectified", {"metric": "l1_rectified"}, show=tiny),
            Column("unrectified", {"metric": "l1_unrectified"}, show=tiny),
            Column("flow iteration", {"metric": "l1_flow_iteration"}, show=tiny),
            Column("uniform policy", {"metric": "l1_uniform"}, show=tiny),
        ],
        corner="task",
    )
    every = [
        (f"{title}: {label}", {"task": task, **of})
        for task, title in TITLES.items()
        for label, of in learned()
    ]
    full = grid(
        rows,
        "Every learner after the last update (the paper shows curves; no numbers are known)",
        every,
        [
            Column("L1", {"metric": "l1_sum_exact_final"}),
            Column("L1, true R at the last step", {"metric": "l1_true_leaves"}),
            Column("accuracy", {"metric": "accuracy_final"}),
            Column("mean reward", {"metric": "mean_reward_final"}),
            Column("modes", {"metric": "modes_final"}),
            Column("of", {"metric": "n_modes"}, show=mean(0)),
            Column("log Z error", {"metric": "log_Z_error_final"}),
            Column("reward calls", {"metric": "reward_calls"}, show=mean(0)),
        ],
        corner="task: learner",
    )
    steps = sorted({s for s in (375, 750, 1500) if s in rows.of(metric="modes").unique("step")})
    over_time = grid(
        rows.of(metric="modes"),
        "Modes found by an update, mean over the seeds",
        learned(),
        [Column(f"{SHORT[t]}, {s:.0f}", {"task": t}, show=at(s)) for t in STRINGS for s in steps],
        corner="learner",
    )
    found = [main, over_time, exact, full, no_factor(rows.of(task="grid", method="exact"))]
    return [t for t in found if any(c != DASH for line in t.rows for c in line[1:])]


@shown
def tiny(rows: Rows) -> str:
    """Cell: an exact number; what is rounding only shows its size."""
    value = rows.value()
    return f"{value:.0e}" if abs(value) < 1e-6 else f"{value:.3f}"


def at(step: float) -> Callable[[Rows], str]:
    """Cell: mean of a curve at a step."""

    def value(rows: Rows) -> str:
        steps, values = rows.curve()
        return f"{values[:, steps == step].mean():.0f}" if step in steps else DASH

    return shown(value)


def no_factor(rows: Rows) -> Table:
    """What the grid's path factors lead to."""
    lines = {
        "smallest path factor": ("value_over_Z_smallest_factor", "l1_smallest_factor"),
        "largest path factor": ("value_over_Z_largest_factor", "l1_largest_factor"),
        "unrectified": ("", "l1_unrectified"),
        "flow iteration": ("", "l1_flow_iteration"),
    }
    return Table(
        "T5 HyperGrid D=2, H=8 (standard-1 rewards): no factor gives the target",
        ["what is used", "V(s0)/Z", "L1"],
        [[name, *(tiny(rows.of(metric=m)) for m in metrics)] for name, metrics in lines.items()],
    )


# -- figures --------------------------------------------------------------------------------------


def figures(rows: Rows, extras: list[dict[str, Any]]) -> dict[str, Drawing]:
    """Learning curves (main), modes, what rectification does on T3 and T4, the grid's factors."""
    drawn: dict[str, Drawing] = {}
    tasks = [t for t in SHORT if rows.of(task=t, metric="modes")]
    tasks = tasks or [t for t in LONG if rows.of(task=t, metric="modes")][:6]
    for name, metric, ylabel, text in (
        ("curves", "l1_sum_exact", "exact L1", "Exact L1 distance of the sampler to its target"),
        ("modes", "modes", "modes found", "Modes met so far by samples of the current policy"),
        ("accuracy", "accuracy", "accuracy", "Mean reward in percent of the target's"),
    ):
        panels = [
            Panel(TITLES[t], {"task": t, "metric": metric}, "" if i % 3 else ylabel)
            for i, t in enumerate(tasks)
        ]
        if figure := curves(rows, METHODS, panels, width=2.7, ylim=(0, None), xlabel="update"):
            text += (
                ", against updates (32 rollouts each); mean and 95 % band over the seeds. On T1 "
                "and T2 the curve of the unrectified learner is that of RPE."
            )
            drawn[name] = Drawing(figure, text, main=name == "curves")
    if figure := rectification(extras):
        text = (
            "Left: probability of each length on T3, in tables (pale) and learned. Middle and "
            "right: probability of each word of T4 against its target (line: equal), in tables "
            "and learned by the first seed."
        )
        drawn["rectification"] = Drawing(figure, text)
    names = {
        "target": "target",
        "l1_smallest_factor": "smallest g",
        "l1_largest_factor": "largest g",
        "l1_unrectified": "no g",
    }
    maps = [(title, found(extras, "grid", "exact", name)) for name, title in names.items()]
    if figure := heatmaps([(t, m) for t, m in maps if m is not None and m.ndim == 2]):
        text = (
            "T5: target on the grid, and the samplers that follow from the smallest path factor of "
            "each state, the largest one and none; one colour scale."
        )
        drawn["grid"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
