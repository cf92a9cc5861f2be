"""The claims of MEow as functions of the rows of eval.py."""

from __future__ import annotations

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
from common.plotting import Figure, colours, curve, panels
from common.stats import diff, paired_diff
from papers.meow.eval import MC_SIZES
from papers.meow.multigoal import GOALS, RADIUS

GOAL_TASK, LONG_TASK = "multigoal", "multigoal-long"
CHEETAH = "HalfCheetah-v5"
EXACT = 1e-2  # largest |V - quadrature| / (1 + |V|)
RAREST = 0.05  # smallest share of a goal that counts as found
SHARE_OF_SAC = 0.7  # M7 at few steps
NAMES = {
    "meow": "MEow",
    "meow-lrs": "MEow, LRS only",
    "meow-vanilla": "MEow, neither LRS nor SCDQ",
    "meow-affine": "MEow, affine couplings",
    "meow-vanilla-affine": "neither, affine couplings",
    "sac": "SAC",
    "sb3-sac": "SAC (stable-baselines3)",
}
COLOURS = colours(list(NAMES), "meow")


# -- judges -----------------------------------------------------------------------------------


def exact(rows: pd.DataFrame) -> Judgement:
    """M1: the worst state of the worst seed, after 4 000 and after 12 000 steps."""
    found = [values(rows, task, "meow", "exactness") for task in (GOAL_TASK, LONG_TASK)]
    if not all(len(v) for v in found):
        raise NoResults("no trained networks on multi-goal, or none of the long runs")
    worst = float(max(v.max() for v in found))
    n = sum(len(v) for v in found)
    text = f"at most {worst:.1e} over {n} trained networks"
    return compare(worst, EXACT, above=False, ours=text)


def mc_errors(rows: pd.DataFrame, samples: int) -> np.ndarray:
    """Median error of the uniform estimate with so many samples, mean over states, per seed."""
    found = rows[(rows.metric == "mc_error") & (rows.task == GOAL_TASK)]
    at = found[found.samples == samples] if len(found) else found
    if at.empty:
        raise NoResults(f"no estimates of V with {samples} samples")
    return at.groupby("seed").value.mean().to_numpy(dtype=float)


def exact_errors(rows: pd.DataFrame) -> np.ndarray:
    """|quadrature - V| of the flow's V at the same states, mean over states, per seed."""
    states = rows.loc[rows.metric == "mc_error", "state"].unique()
    at = rows[(rows.metric == "quadrature_error") & (rows.task == GOAL_TASK)]
    at = at[at.state.isin(states)]
    return at.value.abs().groupby(at.seed).mean().to_numpy(dtype=float)


def monte_carlo_errs(rows: pd.DataFrame) -> Judgement:
    """M2: error(M = 100) > error(M = 10 000) > the error of the flow's own V."""
    few, many = mc_errors(rows, 100), mc_errors(rows, 10_000)
    return all_of(
        {
            "error at M = 100 less error at 10 000": by_interval(paired_diff(few, many)),
            "error at M = 10 000 less the flow's own": by_interval(
                paired_diff(many, exact_errors(rows))
            ),
        }
    )


def all_goals(rows: pd.DataFrame) -> Judgement:
    """M3: every goal often enough in all seeds but one, and no less evenly than SAC."""
    rarest = needed(rows, GOAL_TASK, "meow", "rarest_goal")
    good, enough = int((rarest >= RAREST).sum()), len(rarest) - 1
    ours = needed(rows, GOAL_TASK, "meow", "goal_entropy")
    sac = needed(rows, GOAL_TASK, "sac", "goal_entropy")
    ci = paired_diff(ours, sac)
    return all_of(
        {
            "all four goals": compare(
                good, enough, ours=f"each in {RAREST:.0%} or more of {good} of {len(rarest)} seeds"
            ),
            "entropy of the goals, less SAC's": by_interval(
                ci, ours=f"{ours.mean():.2f} against {sac.mean():.2f} nats: {ci}"
            ),
        }
    )


def shifts_necessary(rows: pd.DataFrame) -> Judgement:
    """M4: final return, MEow less vanilla."""
    ours = needed(rows, CHEETAH, "meow", "final_return")
    without = needed(rows, CHEETAH, "meow-vanilla", "final_return")
    ci = paired_diff(ours, without)
    return by_interval(ci, ours=f"{ours.mean():.0f} against {without.mean():.0f}: {ci}")


def determinants_tame(rows: pd.DataFrame) -> Judgement:
    """M5: drift of sum log sigma since the start, vanilla above MEow in every seed."""
    ours = needed(rows, CHEETAH, "meow", "log_det_drift")
    without = needed(rows, CHEETAH, "meow-vanilla", "log_det_drift")
    margin = without - ours
    text = (
        f"{without.mean():.2f} against {ours.mean():.2f} nats; "
        f"larger in {(margin > 0).sum()} of {len(margin)} seeds"
    )
    return compare(float(margin.min()), 0.0, ours=text)


def clipping_helps(rows: pd.DataFrame) -> Judgement:
    """M6: area under the curve, MEow less LRS only."""
    ci = paired_diff(needed(rows, CHEETAH, "meow", "auc"), needed(rows, CHEETAH, "meow-lrs", "auc"))
    return by_interval(ci)


def near_sac(rows: pd.DataFrame) -> Judgement:
    """M7: final return at equal steps above 0.7 times SAC's."""
    ours = needed(rows, CHEETAH, "meow", "final_return")
    sac = needed(rows, CHEETAH, "sac", "final_return")
    ci = diff(ours, SHARE_OF_SAC * sac)
    text = f"{ours.mean():.0f} against {SHARE_OF_SAC} x {sac.mean():.0f}: {ci}"
    if sac.mean() <= 0:  # the margin would be on the wrong side
        return Judgement("inconclusive", text + "; SAC itself has no positive return")
    return by_interval(ci, ours=text)


CLAIMS = [
    Claim(
        "M1",
        f"V is exact: |V - alpha log int exp(Q/alpha)| <= {EXACT:g} (1 + |V|) by quadrature, at "
        "every state tried of every trained network",
        "Section 3, one flow",
        "exact",
        ("default",),
        exact,
    ),
    Claim(
        "M2",
        "Monte-Carlo estimates of V err and improve slowly: uniform proposals at M = 100 and "
        "10 000 samples, against the error of the flow's own V",
        "Figure of soft value estimates",
        "errors of 20 to 22 at the start state, flat in M",
        ("default",),
        monte_carlo_errs,
    ),
    Claim(
        "M3",
        "The multi-modal policy reaches all four goals: each in 5 % or more of the episodes in "
        "all seeds but one, and the goals' entropy exceeds that of SAC",
        "Multi-goal experiment",
        "all four goals reached",
        ("default",),
        all_goals,
    ),
    Claim(
        "M4",
        "Learnable reward shifting is necessary: final return on HalfCheetah above that without",
        "Ablation figure",
        "11 500 against -100 after 1.5M steps",
        ("default", "paper"),
        shifts_necessary,
    ),
    Claim(
        "M5",
        "Without LRS the determinants drift: |sum log sigma - its start| is larger in every seed",
        "Figure 1 (Hopper)",
        "linear product 1.7e-5 without, about 2 with",
        ("default", "paper"),
        determinants_tame,
    ),
    Claim(
        "M6",
        "Shifting-based clipped double Q helps: area under the HalfCheetah curve above LRS alone",
        "Ablation figure",
        "11 500 against 8 800 at the end",
        ("default", "paper"),
        clipping_helps,
    ),
    Claim(
        "M7",
        f"Comparable to SAC: final return on HalfCheetah above {SHARE_OF_SAC} of SAC's at equal "
        "steps",
        "MuJoCo figure",
        "11 500 against 12 500 after 1.5M steps",
        ("default", "paper"),
        near_sac,
    ),
]


# -- tables -----------------------------------------------------------------------------------


def tables(rows: pd.DataFrame) -> list[Table]:
    """What the README shows."""
    found = [multigoal_table(rows), estimates_table(rows), map_table(rows)]
    tasks = rows.loc[rows.metric == "final_return", "task"].unique()
    found += [returns_table(rows, task) for task in tasks]
    return [table for table in found if table.rows]


def methods_of(rows: pd.DataFrame, task: str) -> list[str]:
    """In the order of NAMES."""
    there = set(rows.loc[rows.task == task, "method"])
    return [m for m in NAMES if m in there]


def multigoal_table(rows: pd.DataFrame) -> Table:
    """Goals and returns of stochastic episodes."""
    lines = []
    for task, label in ((GOAL_TASK, ""), (LONG_TASK, " (long)")):
        for method in methods_of(rows, task):
            shares = rows[(rows.task == task) & (rows.method == method)]
            shares = shares[shares.metric == "goal_share"].groupby("goal").value.mean()
            names = ("reached", "rarest_goal", "goal_entropy", "return")
            lines.append(
                [
                    NAMES[method] + label,
                    " / ".join(f"{x:.2f}" for x in shares),
                    *(interval(values(rows, task, method, m)) for m in names),
                ]
            )
    columns = ["", "share of right / left / up / down", "any goal", "rarest", "entropy", "return"]
    return Table("Multi-goal: 100 stochastic episodes of at most 200 steps", columns, lines)


def estimates_table(rows: pd.DataFrame) -> Table:
    """Errors of the ways to V, per state."""
    if "samples" not in rows:
        return Table("", [], [])
    at = rows[(rows.task == GOAL_TASK) & (rows.method == "meow")]
    lines = []
    for state in at.loc[at.metric == "mc_error", "state"].unique():
        here = at[at.state == state]

        def of(metric: str, here: pd.DataFrame = here, **labels: Any) -> np.ndarray:
            chosen = here[here.metric == metric]
            for key, value in labels.items():
                chosen = chosen[chosen[key] == value]
            return chosen.value.to_numpy(dtype=float)

        lines.append(
            [
                f"({state.replace(' ', ', ')})",
                interval(of("exact_v")),
                f"{np.abs(of('quadrature_error')).max():.1e}",
                *(interval(of("mc_error", samples=m)) for m in MC_SIZES),
                interval(of("sac_error")),
            ]
        )
    columns = ["state", "V of the flow", "quadrature - V, largest"]
    columns += [f"uniform, M = {m:,}" for m in MC_SIZES] + ["fitted Gaussian - V"]
    title = "Soft values: median absolute error of estimates (trained MEow)"
    return Table(title, columns, lines)


def map_table(rows: pd.DataFrame) -> Table:
    """The learned V against exact soft value iteration."""
    lines = [
        [
            "MEow" if task == GOAL_TASK else "MEow (long)",
            *(interval(values(rows, task, "meow", m)) for m in ("map_error", "map_correlation")),
            *(
                interval(values(rows[rows.state == s], task, "meow", "exact_v"))
                for s in ("0 0", "2 0", "2 2")
            ),
        ]
        for task in (GOAL_TASK, LONG_TASK)
        if "meow" in methods_of(rows, task)
    ]
    columns = ["", "mean |V - V*|", "correlation with V*", "V(0, 0)", "V(2, 0)", "V(2, 2)"]
    title = "Learned V and the exact soft optimal value (V*(0, 0) = -114.6, V*(2, 0) = -46.4)"
    return Table(title, columns, lines)


def returns_table(rows: pd.DataFrame, task: str) -> Table:
    """Deterministic returns."""
    lines = [
        [
            NAMES[method],
            *(
                interval(values(rows, task, method, m))
                for m in ("final_return", "auc", "log_det_drift")
            ),
        ]
        for method in methods_of(rows, task)
    ]
    columns = ["", "final return", "mean over evaluations", "drift of sum log sigma"]
    return Table(f"{task}: deterministic episodes", columns, lines)


# -- figures ----------------------------------------------------------------------------------


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Paths and value maps, Monte-Carlo errors, learning curves."""
    drawn = {}
    if any(e["name"] == "paths" for e in extras):
        drawn["multigoal"] = multigoal_figure(extras)
    if (rows.metric == "mc_error").any():
        drawn["soft_values"] = soft_value_figure(rows)
    for task in rows.loc[rows.metric == "final_return", "task"].unique():
        drawn[f"returns_{task.split('-')[0].lower()}"] = returns_figure(rows, task)
    return drawn


def multigoal_figure(extras: list[dict[str, Any]]) -> Figure:
    """Stochastic paths of one seed per run; V of one seed and V*."""
    paths = {(e["method"], e["task"]): e for e in reversed(extras) if e["name"] == "paths"}
    maps = [e for e in extras if e["name"] == "V"][:2]
    star = [e for e in extras if e["name"] == "V*"][:1]
    order = [(m, t) for t in (GOAL_TASK, LONG_TASK) for m in NAMES if (m, t) in paths]
    columns = max(len(order), len(maps) + len(star), 1)
    figure, axes = panels(2, columns, width=2.5, height=2.4)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, key in zip(axes[0], order, strict=False):
        axis.set_visible(True)
        goals(axis)
        for path in paths[key]["data"]:
            xy = np.array(path)
            axis.plot(xy[:, 0], xy[:, 1], color=COLOURS[key[0]], linewidth=0.7, alpha=0.6)
        axis.set_title(NAMES[key[0]] + ("" if key[1] == GOAL_TASK else " (long)"))
    for axis, extra in zip(axes[1], maps + star, strict=False):
        axis.set_visible(True)
        goals(axis)
        image = axis.imshow(
            np.array(extra["data"]).T, extent=(-6.75, 6.75, -6.75, 6.75), origin="lower"
        )
        figure.colorbar(image, ax=axis, shrink=0.8)
        long = "" if extra["task"] == GOAL_TASK else " (long)"
        axis.set_title("exact soft V*" if extra["name"] == "V*" else f"V of MEow{long}")
    return figure


def goals(axis: Any) -> None:
    """The box and the four goals."""
    from matplotlib.patches import Circle

    for x, y in GOALS:
        axis.add_patch(Circle((x, y), RADIUS, color="#BBBBBB", zorder=0))
    axis.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal")
    axis.grid(False)


def soft_value_figure(rows: pd.DataFrame) -> Figure:
    """Error of the uniform estimate against its number of samples, by state."""
    at = rows[(rows.metric == "mc_error") & (rows.task == GOAL_TASK)]
    figure, axes = panels(1, 1, width=4.2)
    axis = axes[0, 0]
    for (state, here), colour in zip(
        at.groupby("state", sort=False), ("#D55E00", "#0072B2", "#009E73"), strict=False
    ):
        table = here.pivot(index="seed", columns="samples", values="value")
        label = f"({str(state).replace(' ', ', ')})"
        curve(axis, table.columns.to_numpy(float), table.to_numpy(), label=label, color=colour)
    axis.set(xscale="log", yscale="log", xlabel="samples M", ylabel="|estimate - V|, median")
    axis.legend(title="state; the flow's V: 0")
    return figure


def returns_figure(rows: pd.DataFrame, task: str) -> Figure:
    """Returns and the determinants of the constant layers against steps."""
    figure, axes = panels(1, 2)
    for method in methods_of(rows, task):
        for axis, metric in zip(axes[0], ("returns", "log_det_linear"), strict=True):
            steps, data = curves(rows, task, method, metric)
            if len(steps):
                curve(axis, steps, data, label=NAMES[method], color=COLOURS[method])
    axes[0, 0].set(xlabel="steps", ylabel="return, deterministic", title=task)
    axes[0, 1].set(xlabel="steps", ylabel="log of the linear product")
    axes[0, 0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
