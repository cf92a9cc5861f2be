"""Tables and figures of QGFN: reward against diversity, learning curves, cross use, n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.report import (
    Column,
    Drawing,
    Panel,
    Table,
    by_method,
    curves,
    frontier,
    grid,
    mean,
    report_cli,
    tuning,
)
from common.rows import NoResults, Rows
from common.stats import mean_ci
from papers.qgfn.claims import DIVERSITY, TITLES
from papers.qgfn.method import MIXTURES
from papers.qgfn.methods import METHODS
from papers.qgfn.reading import FINAL, matched, with_single_points

HALF_OF_THE_MODES = 8  # of the 16 of bits


def is_tuning(rows: Rows) -> bool:
    """Whether several rates were tried."""
    return len(rows.unique("lr")) > 1


def main_table(rows: Rows) -> Table:
    """The final models: reward, modes, diversity."""
    found = [
        ("bits: R", "bits", "final_reward", "max"),
        ("modes of 16", "bits", "modes_found", "max"),
        ("bits: distance", "bits", "final_distance", None),
        ("QED4: R", "qed", "final_reward", "max"),
        ("QED4: distance", "qed", "final_distance", None),
        ("RNA8: R", "rna", "final_reward", "max"),
        ("RNA8: distance", "rna", "final_distance", None),
    ]
    columns = [Column(name, {"task": t, "metric": m}, best) for name, t, m, best in found]
    title = (
        "Samples of the final models: mean raw reward R (QED4, RNA8: exact) and mean pairwise "
        "distance; modes of bits (δ = 3) found in training"
    )
    lines = by_method(METHODS, [name for name in METHODS if METHODS[name].n is None])
    return grid(rows, title, lines, columns, corner="method", main=True)


def half(rows: Rows) -> str:
    """Cell: thousand trajectories to half of the modes ever found, median; seeds that get there."""
    try:
        steps, found = rows.of(task="bits", metric="modes").curve()
    except NoResults:
        return "–"
    enough = found >= HALF_OF_THE_MODES
    first = [steps[line.argmax()] / 1000 for line in enough if line.any()]
    return f"{len(first)}/{len(found)}" + (f", {np.median(first):.0f}" if first else "")


def training_table(rows: Rows) -> Table:
    """Every task: what was found in training, and what P_F learned."""
    lines = [
        (f"{title}: {label}", {"task": task, **of})
        for task, title in TITLES.items()
        for label, of in by_method(METHODS)
    ]
    columns = [
        Column("R, last tenth", {"metric": "mean_reward_last"}),
        Column("R of the 100 best", {"metric": "top_reward_final"}, show=mean(3)),
        Column("modes", {"metric": "modes_found"}),
        Column("within 2", {"metric": "modes_found_within_2"}, show=mean(1)),
        Column("8 modes: seeds, thousand trajectories", show=half),
        Column("log Z", {"metric": "log_Z"}),
        Column("L1 of P_F", {"metric": "l1_of_pf"}),
        Column("pruned", {"metric": "pruned_final"}, show=mean(3)),
    ]
    title = (
        "Training: reward of the last tenth of the samples, of the 100 best distinct objects, "
        "modes (bits: within δ = 3, and 2), seeds that find 8 bit modes and the median of when; "
        "learned log Z; L1 of P_F alone to its target; share of the batch's states whose best "
        "action under P_F is never taken"
    )
    return grid(rows, title, lines, columns, corner="task: method")


def at_equal_reward(rows: Rows) -> Table:
    """Each mixture at TB(4 beta)'s mean reward, and at that of Q alone."""
    body = []
    for task in (*DIVERSITY, "rna"):
        for rival in ("tb-4beta", "dqn"):
            for method in METHODS:
                try:
                    at = matched(rows.of(task=task), method, rival)
                except NoResults:
                    continue
                gap = mean_ci(at.ours - at.theirs)
                name = f"{TITLES[task]}, {METHODS.label(rival)}: {METHODS.label(method)}"
                share = f"{at.reached.sum()}/{len(at.reached)}"
                cells = [f"{x.mean():.3f}" for x in (at.ours, at.before, at.theirs)]
                body.append([name, share, *cells, str(gap)])
    heads = ["task, rival: mixture", "seeds that reach its R", "distance, interpolated"]
    heads += ["at the last p below", "rival's distance", "difference"]
    title = (
        "At a rival's mean reward, per seed: mean pairwise distance, linear between the two p of "
        "the sweep that enclose the reward (p = 1 where none reaches it)"
    )
    return Table(title, heads, body)


def sweep_table(rows: Rows) -> Table:
    """One trained pair, sampled with any mixture at any p."""
    swept = rows.of(metric=[f"sweep_{name}" for name in FINAL])
    lines = [
        (f"{TITLES[task]}: {label}, {mixture}", {"task": task, "mixture": mixture, **of})
        for task in TITLES
        for label, of in by_method(METHODS)
        for mixture in MIXTURES
    ]

    def show(rows: Rows) -> str:
        pair = [rows.of(metric=f"sweep_{name}") for name in FINAL]
        return f"{pair[0].value():.3f} / {pair[1].value():.2f}" if all(pair) else "–"

    columns = [Column(f"p = {p:g}", {"step": p}, show=show) for p in swept.unique("step")]
    title = "One trained pair, sampled with any mixture at any p: mean R / mean pairwise distance"
    return grid(swept, title, lines, columns, corner="task: trained with, sampled with")


def tables(rows: Rows) -> list[Table]:
    """Main table, training, equal reward, the sweep over p."""
    if is_tuning(rows):
        of = {title: {"task": task, "metric": "mean_reward_last"} for task, title in TITLES.items()}
        what = "mean R of the last tenth of training, median of the seeds"
        found = [
            tuning(rows, METHODS, labels, ["lr"], title=f"{title}: {what}", best="max")
            for title, labels in of.items()
            if rows.of(**labels)
        ]
    else:
        found = [main_table(rows), training_table(rows), at_equal_reward(rows), sweep_table(rows)]
    return [table for table in found if table.rows]


# -- figures --------------------------------------------------------------------------------------


def axes(title: str, **of: Any) -> tuple[Panel, Panel]:
    """Mean reward and distance of a task."""
    reward, distance = ({**of, "metric": f"sweep_{name}"} for name in FINAL)
    return Panel(title, reward, "mean R"), Panel("", distance, "mean pairwise distance")


def figures(rows: Rows, extras: Sequence[dict[str, Any]]) -> dict[str, Drawing]:
    """Reward against diversity (main), learning curves, cross use, n."""
    drawn: dict[str, Drawing] = {}
    if is_tuning(rows):
        return drawn
    shown = [name for name in METHODS if METHODS[name].n is None]
    points = with_single_points(rows)
    pairs = [axes(title, task=task) for task, title in TITLES.items()]
    trained = [n for n in shown if METHODS[n].learns_pf or METHODS[n].learns_q]
    if figure := frontier(points, METHODS, pairs, names=trained, along="step"):
        text = (
            "Reward against diversity of the final samples (better: right and up). Lines: a "
            "trained pair per mixture, its own p from 0 (left) to 1 (right, one object per seed); "
            "single points: methods without p; bars: 95 % intervals over 5 seeds. On bits the "
            "points near R = 2.0 lie on each other."
        )
        drawn["frontier"] = Drawing(figure, text, main=True)
    learned = [
        Panel(title if metric == "mean_reward" else "", {"task": task, "metric": metric}, name)
        for metric, name in (("mean_reward", "mean R in training"), ("modes", "modes found"))
        for task, title in TITLES.items()
        if rows.of(task=task)
    ]
    few = [n for n in shown if METHODS[n].beta is None]
    wide = {"width": 2.9, "columns": max(1, len(learned) // 2)}
    if figure := curves(rows, METHODS, learned, names=few, xlabel="trajectories", **wide):
        text = (
            "Mean reward of the training samples and modes found so far against trajectories: "
            "mean and 95 % band over 5 seeds."
        )
        if rows.of(task="qed", method="tb"):
            text += " On QED4 the modes of TB and p-greedy lie on each other."
        drawn["curves"] = Drawing(figure, text)
    crossed = [
        axes(f"{title}, sampled with {mixture}", task=task, mixture=mixture)
        for task, title in TITLES.items()
        for mixture in MIXTURES
    ]
    if figure := frontier(rows, METHODS, crossed, names=shown, along="step", width=3.0):
        text = (
            "One trained pair sampled with each of the mixtures, p from 0 (left) to 1 (right); "
            "colour: the mixture that it was trained with; bars: 95 % intervals over 5 seeds."
        )
        drawn["cross_use"] = Drawing(figure, text)
    steps = [name for name in METHODS if METHODS[name].n is not None]
    names = ["p-of-max", *steps, "tb"]
    both = [
        Panel("bits", panel.of, panel.ylabel) for panel in learned if "bits" in panel.of.values()
    ]
    if all(rows.of(task="bits", method=name) for name in names) and (
        figure := curves(rows, METHODS, both, names=names, xlabel="trajectories")
    ):
        text = (
            "p-of-max 0.9 with targets of 1, 3 and all 8 steps, and TB, on bits: mean and 95 % "
            "band over 5 seeds. The curves of n = 1 and n = 3 lie on each other."
        )
        drawn["n_steps"] = Drawing(figure, text)
    return drawn


if __name__ == "__main__":
    report_cli(tables, figures)
