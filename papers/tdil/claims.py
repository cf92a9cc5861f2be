"""The claims of TDIL as functions of the rows of eval.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.claims_v1 import (
    Claim,
    Judgement,
    NoResults,
    Table,
    all_of,
    by_interval,
    claims_cli,
    compare,
    curves,
    interval,
    needed,
    values,
)
from common.plotting import Figure, colours, curve, dashes, panels
from common.stats import mean_ci, paired_diff
from papers.tdil.mazes import PATH, WALLS, continuous_demonstration, exact_reward

A, B, C = "grid", "continuous", "hopper-200"
SCORE = {A: "success", B: "success"}  # elsewhere the return, relative to the expert's
TITLES = {A: "A: grid maze", B: "B: continuous maze", C: "C: Hopper, 200 steps"}
NAMES = {
    "tdil": "TDIL",
    "tdil-no-bc": "TDIL without BC",
    "tdil-no-filter": "TDIL without threshold",
    "tdil-no-expert": "TDIL without expert's critic step",
    "tdil-hard": "TDIL with hard negatives",
    "tdil-no-hard": "TDIL without hard negatives",
    "tdil-irl": "TDIL + IRL, no BC",
    "gail": "GAIL-style",
    "gail-bc": "GAIL-style + BC",
    "bc": "BC",
}


# -- reading rows -----------------------------------------------------------------------------


def score_of(task: str) -> str:
    """The metric by which methods are compared."""
    return SCORE.get(task, "relative_return")


# -- judges -----------------------------------------------------------------------------------


def learns_reachability(rows: pd.DataFrame) -> Judgement:
    """T1: AUC over all pairs of cells, and the walls are seen."""
    gap = needed(rows, A, "tdil", "d_open") - needed(rows, A, "tdil", "d_walled")
    return all_of(
        {
            "AUC >= .95": by_interval(mean_ci(needed(rows, A, "tdil", "auc")), 0.95),
            "open - walled >= .05": by_interval(mean_ci(gap), 0.05),
        }
    )


def denser_reward(rows: pd.DataFrame) -> Judgement:
    """T2: share of (cell, action) that is paid: twice the demonstration's, but not everything."""
    share = mean_ci(needed(rows, A, "tdil", "paid_share_tdil"))
    irl = needed(rows, A, "gail", "paid_share_irl")
    text = f"{share}; exact table 0.300; GAIL-style reward {irl.mean():.3f}"
    return all_of(
        {
            "at least 2 x 15/400": by_interval(share, 0.075, ours=text, irl=irl.mean()),
            "at most 1/2": by_interval(share, 0.5, above=False),
        }
    )


def recovers(task: str) -> Any:
    """T3: success from all starts, above BC; at least GAIL's mean, with and without BC."""

    def judge(rows: pd.DataFrame) -> Judgement:
        ours = needed(rows, task, "tdil", "success")
        parts = {}
        theirs = needed(rows, task, "bc", "success")
        ci = paired_diff(ours, theirs)
        parts["above BC"] = by_interval(
            ci, ours=f"{ours.mean():.3f} against {theirs.mean():.3f}: {ci}"
        )
        for method in ("gail", "gail-bc"):
            theirs = needed(rows, task, method, "success")
            parts[f"at least {NAMES[method]}, in the mean"] = compare(
                float(ours.mean() - theirs.mean()), 0.0, ours=f"{theirs.mean():.3f}"
            )
        return all_of(parts)

    return judge


def time_matters(rows: pd.DataFrame) -> Judgement:
    """T4: D tells forward from backward on transitions of the final Hopper policy."""
    gap = mean_ci(needed(rows, C, "tdil", "time_gap"))
    with_, without = (
        needed(rows, B, method, "success").mean() for method in ("tdil", "tdil-no-hard")
    )
    text = f"{gap}; reported: success on B {with_:.3f} with hard negatives, {without:.3f} without"
    return by_interval(gap, 0.3, ours=text, b_with=with_, b_without=without)


def selects_blindly(rows: pd.DataFrame) -> Judgement:
    """T5: rank correlation of rho_rel with the return over a run's checkpoints, on C."""
    ci = mean_ci(needed(rows, C, "tdil", "spearman"))
    found = {task: values(rows, task, "tdil", "spearman") for task in (A, B)}
    other = {task: float(x.mean()) if len(x) else float("nan") for task, x in found.items()}
    text = f"{ci}; reported: {other[A]:.2f} on A, {other[B]:.2f} on B"
    return by_interval(ci, 0.5, ours=text, **other)


def expert_level(rows: pd.DataFrame) -> Judgement:
    """T6: return over the expert's, on every task that was run."""
    found = rows[(rows.method == "tdil") & (rows.metric == "relative_return")]
    if found.empty:
        raise NoResults("no simulator task was run")
    parts = {}
    for task in found.task.unique():
        ratio = needed(rows, task, "tdil", "relative_return")
        parts[str(task)] = by_interval(mean_ci(ratio), 0.9)
    return all_of(parts)


CLAIMS = [
    Claim(
        "T1",
        "The transition discriminator learns one-step reachability (grid maze).",
        "abstract",
        "no number",
        ("default",),
        learns_reachability,
    ),
    Claim(
        "T2",
        "The surrogate reward is denser than an IRL reward's, which pays the demonstration alone.",
        "abstract",
        "no number",
        ("default",),
        denser_reward,
    ),
    Claim(
        "T3-A",
        "TDIL recovers from starts off the demonstration where BC fails (grid maze).",
        "abstract; maze experiment",
        "beats existing methods",
        ("default",),
        recovers(A),
    ),
    Claim(
        "T3-B",
        "TDIL recovers from starts off the demonstration where BC fails (continuous maze).",
        "abstract",
        "beats existing methods",
        ("default",),
        recovers(B),
    ),
    Claim(
        "T4",
        "Where time is irreversible, hard negatives teach D its direction (Hopper, indicative).",
        "hard negatives",
        "no number",
        ("default",),
        time_matters,
    ),
    Claim(
        "T5",
        "The relative surrogate reward selects models without rewards (Hopper, indicative).",
        "abstract",
        "no number",
        ("default",),
        selects_blindly,
    ),
    Claim(
        "T6",
        "One demonstration is enough for the expert's level (five MuJoCo tasks, Adroit Door).",
        "abstract",
        "expert level",
        ("paper", "long"),
        expert_level,
    ),
]


# -- tables -----------------------------------------------------------------------------------


def present(rows: pd.DataFrame, task: str) -> list[str]:
    """Methods that were run on a task, in the order of NAMES."""
    there = set(rows[rows.task == task].method)
    return [name for name in NAMES if name in there]


def tables(rows: pd.DataFrame) -> list[Table]:
    """One table per task, and one about the rewards on the grid."""
    result = []
    for task in dict.fromkeys(
        [*(t for t in TITLES if (rows.task == t).any()), *rows.task.unique()]
    ):
        score = "success" if task in SCORE else "return"
        metrics = {
            **({"success": "success"} if task in SCORE else {"return": "return"}),
            **({"reach": "reaches the path"} if task in SCORE else {}),
            **({"relative_return": "share of the expert's"} if task not in SCORE else {}),
            **({"follow": "then follows it"} if task == A else {}),
            f"{score}_blind": f"{score}, blind selection",
            f"{score}_oracle": f"{score}, best checkpoint",
            "spearman": "rank correlation of ρ_rel",
            "time_gap": "D(s, s') - D(s', s)",
        }
        body = [
            [NAMES[method], *(interval(values(rows, task, method, m)) for m in metrics)]
            for method in present(rows, task)
        ]
        result.append(Table(TITLES.get(task, task), ["method", *metrics.values()], body))
    if (rows.metric == "auc").any():
        metrics = {
            "auc": "AUC",
            "d_open": "D, adjacent",
            "d_walled": "D, a wall between",
            "d_error": "error of D, all pairs",
            "d_error_true": "true pairs",
            "paid_share_tdil": "pairs paid by R_TDIL",
            "paid_share_irl": "pairs paid by D_g",
        }
        body = [
            [NAMES[method], *(interval(values(rows, A, method, m)) for m in metrics)]
            for method in present(rows, A)
            if method != "bc"
        ]
        result.append(Table("A: what pays, and where", ["method", *metrics.values()], body))
    return result


# -- figures ----------------------------------------------------------------------------------


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Learning curves, reward maps, paths in the continuous maze, blind selection."""
    drawn = {}
    tasks = [task for task in TITLES if (rows.task == task).any()]
    if tasks:
        drawn["curves"] = curves_figure(rows, tasks)
        drawn["blind_selection"] = blind_figure(rows, tasks)
    maps = [e for e in extras if e["name"].endswith("_reward") and e["method"] in ("tdil", "gail")]
    if maps:
        drawn["rewards"] = maps_figure(maps)
    paths = [e for e in extras if e["name"] == "paths" and e["task"] == B]
    if paths:
        drawn["paths"] = paths_figure(paths)
    return drawn


def curves_figure(rows: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Score against environment steps."""
    figure, axes = panels(1, len(tasks), width=3.6, height=3.2)
    colour, dash = colours(list(NAMES), "tdil"), dashes(list(NAMES))
    for axis, task in zip(axes[0], tasks, strict=True):
        score = SCORE.get(task, "return")
        for method in present(rows, task):
            steps, seen = curves(rows, task, method, f"{score}_curve")
            if len(seen):
                style = {"color": colour[method], "linestyle": dash[method]}
                curve(axis, steps, seen, label=NAMES[method], **style)
        expert = rows[(rows.task == task) & (rows.metric == "expert_return")].value
        if len(expert):
            axis.axhline(expert.iloc[0], color="black", linewidth=0.8)
            axis.text(0, expert.iloc[0], "expert", va="bottom", fontsize=7)
        axis.set(xlabel="environment steps", ylabel=score, title=TITLES[task])
        axis.legend(fontsize=6)
    return figure


def blind_figure(rows: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """rho_rel and the score of TDIL's checkpoints, a colour per seed."""
    figure, axes = panels(1, len(tasks), width=3.2, height=2.8)
    for axis, task in zip(axes[0], tasks, strict=True):
        score = SCORE.get(task, "return")
        for seed in sorted(rows[rows.task == task].seed.unique()):
            mine = rows[(rows.method == "tdil") & (rows.task == task) & (rows.seed == seed)]
            both = mine.pivot_table(index="step", columns="metric", values="value")
            if {"rho_rel_curve", f"{score}_curve"} <= set(both):
                both = both[["rho_rel_curve", f"{score}_curve"]].dropna()
                axis.plot(*both.to_numpy().T, "o", markersize=3, alpha=0.7, label=f"seed {seed}")
        axis.set(xlabel="ρ_rel", ylabel=score, title=TITLES[task])
    axes[0, 0].legend(fontsize=6)
    return figure


def maps_figure(extras: Sequence[dict[str, Any]]) -> Figure:
    """R_TDIL by cell, exact and learned, and the best action's D_g, with walls and path."""
    shown: list[tuple[str, Any]] = [("exact R_TDIL", exact_reward(0.1).reshape(10, 10))]
    for extra in extras:
        name = "learned R_TDIL" if extra["name"] == "cell_reward" else "GAIL-style, best action"
        shown.append((name, np.array(extra["data"], dtype=float)))
    figure, axes = panels(1, len(shown), width=2.9, height=2.9)
    for axis, (name, data) in zip(axes[0], shown, strict=True):
        image = axis.imshow(data, extent=(0, 10, 10, 0), cmap="viridis", vmin=0)
        draw_maze(axis, np.array(PATH) + 0.5)
        axis.set_title(name)
        axis.grid(False)
        figure.colorbar(image, ax=axis, shrink=0.7)
    return figure


def paths_figure(extras: Sequence[dict[str, Any]]) -> Figure:
    """Deterministic paths of one seed from a dozen starts, a panel per method."""
    figure, axes = panels(-(-len(extras) // 3), 3, width=2.7, height=2.8)
    for axis in axes.flat[len(extras) :]:
        axis.set_visible(False)
    order = list(NAMES)
    demonstration = continuous_demonstration().next_observations * 10 + 5
    for axis, extra in zip(
        axes.flat, sorted(extras, key=lambda e: order.index(e["method"])), strict=False
    ):
        for path in np.array(extra["data"], dtype=float):
            axis.plot(path[:, 1], path[:, 0], color="#0072B2", linewidth=0.8, alpha=0.7)
            axis.plot(path[0, 1], path[0, 0], "o", color="#0072B2", markersize=3)
        draw_maze(axis, demonstration)
        axis.set_title(NAMES[extra["method"]], fontsize=8)
        axis.grid(False)
    return figure


def draw_maze(axis: Any, path: np.ndarray) -> None:
    """Walls, and the demonstration in the method's colour; rows go down."""
    for orthogonal, at, low, high in WALLS:
        ends = ([low, high], [at, at]) if orthogonal == 0 else ([at, at], [low, high])
        axis.plot(*ends, color="black", linewidth=1.5)
    axis.plot(path[:, 1], path[:, 0], color="#D55E00", linewidth=1.2, marker=".", markersize=3)
    axis.set(xlim=(-0.1, 10.1), ylim=(10.1, -0.1), xticks=[], yticks=[])
    axis.set_aspect("equal")


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
