"""The claims of BVVI as functions of the rows, and what its README shows.

A threshold on a learning curve is met when the whole 95 % bootstrap interval over seeds lies on its
right side. Regret is counted from exact values, so there is no other noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.claims_v1 import (
    Claim,
    Judgement,
    NoResults,
    Table,
    all_of,
    by_interval,
    claims_cli,
    compare,
)
from common.plotting import OTHERS, panels
from common.stats import (
    Interval,
    diff,
    loglog_slope,
    mean_ci,
    paired_diff,
    ratio_of_means,
)
from papers.bvvi.baselines import METHODS

TASK_LABELS = {
    "off": "E-off",
    "off-full": "E-off, state seen",
    "gamble": "E-gamble",
    "gamble-full": "E-gamble, state seen",
    "rand": "E-rand",
    "rand-full": "E-rand, state seen",
}
SLOPE = 0.75  # C2: exponent 1/2 and 0.25 for a power of the logarithm
RATIO = 0.6  # C2: average regret at K over that at K/4; 0.5 for a square root
FINAL_AVERSE, FINAL_SEEKING = 1.42, 2.58  # C5, on E-gamble at gamma = -3 and 1
# Optimal values of E-off that the authors' figures subtract from: of their report's figures, and of
# their last plotting script (H = 4 bounds every value).
ASSUMED_IN_REPORT = {-3.0: 3.84, 1.0: 3.92}
ASSUMED_IN_SCRIPT = {-5.0: 3.22, -3.0: 3.97, -1.0: 3.45, 1.0: 3.895, 3.0: 3.95, 5.0: 4.02}


class Cell(NamedTuple):
    """A learner on an environment."""

    method: str
    task: str
    gamma: float
    c: float  # bonus scale; 0 where there is none
    episodes: int  # K


# -- reading the rows ---------------------------------------------------------------------------


def main_episodes(rows: pd.DataFrame) -> int:
    """K of the main runs (the long ones have more)."""
    if "episodes" not in rows or rows.episodes.isna().all():
        raise NoResults("nothing has learnt")
    return int(rows.episodes.min())


def regret_curves(rows: pd.DataFrame, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Episodes [m] of the last decade and cumulative regret [n_seeds, m].

    Raises:
        NoResults: if there are not two seeds.
    """
    there = (rows.metric == "regret") & (rows.method == cell.method) & (rows.task == cell.task)
    there &= (rows.gamma == cell.gamma) & (rows.c == cell.c) & (rows.episodes == cell.episodes)
    chosen = rows[there]
    if chosen.seed.nunique() < 2:
        what = f"{METHODS[cell.method].label} on {TASK_LABELS[cell.task]}, γ={cell.gamma:g}"
        raise NoResults(f"no two seeds of {what}, c={cell.c:g}")
    table = chosen.pivot(index="seed", columns="step", values="value").sort_index()
    return table.columns.to_numpy(float), table.to_numpy(float)


def final_regret(rows: pd.DataFrame, cell: Cell) -> np.ndarray:
    """Regret at K [n_seeds]."""
    return regret_curves(rows, cell)[1][:, -1]


def counted(rows: pd.DataFrame, cell: Cell, metric: str) -> float:
    """What a cell's runs counted, mean over its seeds (jobs have equally many)."""
    there = (rows.metric == metric) & (rows.method == cell.method) & (rows.task == cell.task)
    there &= (rows.gamma == cell.gamma) & (rows.c == cell.c) & (rows.episodes == cell.episodes)
    return float(rows[there].value.astype(float).mean())


def exact(rows: pd.DataFrame, task: str, gamma: float, metric: str) -> float:
    """An exact value of an environment (mean over the random ones)."""
    of = (rows.method == "planner") & (rows.task == task.removesuffix("-full"))
    values = rows[of & (rows.gamma == gamma) & (rows.metric == metric)].value
    if values.empty:
        raise NoResults(f"no exact value of {TASK_LABELS[task]} at γ={gamma:g}")
    return float(values.astype(float).mean())


def optimum(rows: pd.DataFrame, task: str, gamma: float) -> float:
    """V* of an environment."""
    return exact(rows, task, gamma, "v_full" if task.endswith("-full") else "v_star")


def final_J(rows: pd.DataFrame, cell: Cell) -> np.ndarray:
    """Mean J of the policies of the last 5 % of the episodes [n_seeds]."""
    k, curves = regret_curves(rows, cell)
    gap = (curves[:, -1] - curves[:, -2]) / (k[-1] - k[-2])
    return optimum(rows, cell.task, cell.gamma) - gap


def gammas(rows: pd.DataFrame, task: str) -> list[float]:
    """Risk parameters that were learnt with on an environment."""
    return sorted(
        float(g) for g in rows[(rows.task == task) & (rows.metric == "regret")].gamma.unique()
    )


def learners(rows: pd.DataFrame, task: str, episodes: int) -> list[tuple[str, float]]:
    """(method, c) that ran on an environment, in the order of METHODS and from the paper's c."""
    of = rows[(rows.task == task) & (rows.metric == "regret") & (rows.episodes == episodes)]
    there = set(zip(of.method, of.c, strict=True))
    return sorted(there, key=lambda pair: (list(METHODS).index(pair[0]), -pair[1]))


def label_of(method: str, c: float) -> str:
    """A learner's name in tables and legends."""
    return METHODS[method].label + (f", c={c:g}" if METHODS[method].explores else "")


# -- claims -------------------------------------------------------------------------------------


def growth(k: np.ndarray, curves: np.ndarray) -> tuple[Interval, Interval]:
    """Exponent over the last decade, and average regret at K over that at K/4.

    Raises:
        NoResults: if there is no regret, or none yet at K/10: nothing grows.
    """
    if len(k) < 4 or curves[:, 0].min() <= 1e-6:
        raise NoResults("no regret at K/10 in some seed")
    even = k != k[-2]  # 0.95 K would count the end twice
    slope = loglog_slope(k[even], curves[:, even])
    quarter = int(np.argmin(np.abs(k - k[-1] / 4)))
    ratio = ratio_of_means(curves[:, -1], curves[:, quarter], paired=True)
    part = k[quarter] / k[-1]
    return slope, Interval(ratio.value * part, ratio.low * part, ratio.high * part, ratio.n)


def c1(rows: pd.DataFrame) -> Judgement:
    """The planner's value is that of the best of all policy trees."""
    of = (rows.method == "planner") & (rows.task == "rand")
    table = rows[of].pivot_table(index=["seed", "gamma"], columns="metric", values="value")
    if "v_enumerated" not in table:
        raise NoResults("the policy trees of E-rand were not enumerated")
    worst = float((table.v_star - table.v_enumerated).abs().max())
    text = f"largest difference {worst:.1g} in {len(table)} cells of 16,384 policy trees each"
    return compare(worst, 1e-10, above=False, ours=text, cells=len(table))


def c2(rows: pd.DataFrame) -> Judgement:
    """Exponent and average regret fall as those of a square root."""
    parts = {}
    for task, c in (("off", 1.0), ("gamble", 0.02)):
        for gamma in (-1.0, 1.0):
            cell = Cell("bvvi_next", task, gamma, c, main_episodes(rows))
            slope, ratio = growth(*regret_curves(rows, cell))
            name = f"{TASK_LABELS[task]} γ={gamma:g}"
            parts[f"{name} exponent"] = by_interval(slope, SLOPE, above=False)
            parts[f"{name} ratio"] = by_interval(ratio, RATIO, above=False)
    return all_of(parts)


def c3(rows: pd.DataFrame) -> Judgement:
    """Greedy has more regret than BVVI on the gamble."""
    ours, greedy = (
        final_regret(rows, Cell(method, "gamble", -1.0, c, main_episodes(rows)))
        for method, c in (("bvvi_next", 0.02), ("greedy", 0.0))
    )
    difference = paired_diff(greedy, ours)
    text = f"{ours.mean():.3g} against {greedy.mean():.3g}, difference {difference}"
    return by_interval(difference, ours=text)


def c4(rows: pd.DataFrame) -> Judgement:
    """More regret and a lower optimum when the state is hidden."""
    partial, full = (
        final_regret(rows, Cell("bvvi_next", task, 1.0, 1.0, main_episodes(rows)))
        for task in ("off", "off-full")
    )
    difference = diff(partial, full)
    text = f"{partial.mean():.3g} against {full.mean():.3g}, difference {difference}"
    hidden, seen = optimum(rows, "off", 1.0), optimum(rows, "off-full", 1.0)
    return all_of(
        {
            "regret": by_interval(difference, ours=text),
            "optimum": compare(seen - hidden, 1e-9, ours=f"{hidden:.4f} against {seen:.4f}"),
        }
    )


def c5(rows: pd.DataFrame) -> Judgement:
    """What is learnt at each gamma is better there than the risk-neutral optimum."""
    parts = {}
    for gamma, threshold in ((-3.0, FINAL_AVERSE), (1.0, FINAL_SEEKING)):
        J = mean_ci(final_J(rows, Cell("bvvi_next", "gamble", gamma, 0.02, main_episodes(rows))))
        neutral = exact(rows, "gamble", gamma, "j_risk_neutral")
        best = optimum(rows, "gamble", gamma)
        text = f"{J} against {neutral:.4f} risk-neutral (optimum {best:.4f})"
        parts[f"γ={gamma:g}"] = by_interval(J, max(threshold, neutral), ours=text)
    return all_of(parts)


def c6(rows: pd.DataFrame) -> Judgement:
    """Regret grows with aversion."""
    at = {
        gamma: final_regret(rows, Cell("bvvi_next", "off", gamma, 1.0, main_episodes(rows)))
        for gamma in (-1.0, -3.0, -5.0)
    }
    parts = {}
    for milder, harsher in ((-1.0, -3.0), (-3.0, -5.0)):
        difference = paired_diff(at[harsher], at[milder])
        text = f"{at[milder].mean():.3g} < {at[harsher].mean():.3g}, difference {difference}"
        parts[f"γ={milder:g} to {harsher:g}"] = by_interval(difference, ours=text)
    return all_of(parts)


CLAIMS = [
    Claim(
        "C1",
        "Planning with beta vectors is optimal over all history-dependent policies: on five random "
        "POMDPs, γ = ±0.5 and ±2, V_1 is within 1e-10 of the best of all policy trees",
        "Bellman equations with risk beliefs and beta vectors",
        "equal",
        ("default",),
        c1,
    ),
    Claim(
        "C2",
        "Regret is sublinear: on E-off (c = 1) and E-gamble (c = 0.02) at γ = ±1 the exponent over "
        "[K/10, K] is at most 0.75 and average regret at K at most 0.6 times that at K/4",
        "Theorem 6.1",
        "√K: exponent 0.5, ratio 0.5",
        ("default",),
        c2,
    ),
    Claim(
        "C3",
        "Optimism beats greedy where exploration matters: on E-gamble at γ = −1 regret of BVVI "
        "(c = 0.02) at K is below that of the plug-in planner",
        "Optimism by the bonus",
        "√K against no bound",
        ("default",),
        c3,
    ),
    Claim(
        "C4",
        "Partial observability costs: on E-off at γ = 1 (c = 1) regret at K is larger than with "
        "the state as observation, and the optimum is lower",
        "Experiments of the authors' repository",
        "≈ 90 against ≈ 48",
        ("default", "paper"),
        c4,
    ),
    Claim(
        "C5",
        "Risk sensitivity matters: on E-gamble (c = 0.02) the last policies reach J ≥ 1.42 at "
        "γ = −3 and J ≥ 2.58 at γ = 1, above the risk-neutral optimal policy",
        "Motivation of the entropic risk measure",
        "no number",
        ("default",),
        c5,
    ),
    Claim(
        "C6",
        "Regret grows with risk aversion: on E-off (c = 1) at K it is larger at γ = −3 than at −1 "
        "and larger at −5 than at −3",
        "Theorem 6.1, factor (e^{abs(γ)H} − 1)/(abs(γ)H); experiments",
        "≈ 400 at −3, ≈ 460 at −5",
        ("default", "paper"),
        c6,
    ),
]


# -- what the README shows ------------------------------------------------------------------------


def text_of(compute: Callable[[], Any]) -> str:
    """A table's cell, or a dash where nothing was run or nothing can be fitted."""
    try:
        return str(compute())
    except (NoResults, ValueError):
        return "—"


def optima_table(rows: pd.DataFrame) -> Table:
    """Table A: exact values of E-off and E-gamble, and what the authors' figures assume."""
    body = []
    for task in ("off", "gamble"):
        of = rows[(rows.method == "planner") & (rows.task == task)]
        for gamma in sorted(of.gamma.unique()):
            values = [
                f"{exact(rows, task, gamma, metric):.6f}"
                for metric in (
                    *("v_star", "v_full", "v_blind", "j_myopic", "j_risk_neutral", "j_random"),
                )
            ]
            assumed = [
                f"{table[gamma]:g}" if task == "off" and gamma in table else "—"
                for table in (ASSUMED_IN_REPORT, ASSUMED_IN_SCRIPT)
            ]
            body.append([f"{TASK_LABELS[task]} γ={gamma:g}", *values, *assumed])
    columns = ["", "V*, exact", "state seen", "blind", "myopic", "risk-neutral", "random"]
    columns += ["authors' V* (report)", "authors' V* (script)"]
    return Table("Exact values: optimum, and J of planners that know the model", columns, body)


def learners_table(
    rows: pd.DataFrame, task: str, title: str, value: Callable[[Cell], Any], random: Callable
) -> Table:
    """Learners × gamma on an environment."""
    K, columns = main_episodes(rows), gammas(rows, task)
    body = [
        [label_of(method, c)]
        + [text_of(lambda g=g, m=method, c=c: value(Cell(m, task, g, c, K))) for g in columns]
        for method, c in learners(rows, task, K)
    ]
    body.append(["random"] + [text_of(lambda g=g: random(task, g)) for g in columns])
    return Table(
        f"{title} on {TASK_LABELS[task]}, K = {K:,}", ["", *(f"γ={g:g}" for g in columns)], body
    )


def regret_table(rows: pd.DataFrame, task: str) -> Table:
    """Table B: regret at K."""

    def random(task: str, gamma: float) -> str:
        lost = optimum(rows, task, gamma) - exact(rows, task, gamma, "j_random")
        return f"{main_episodes(rows) * lost:.0f}"

    return learners_table(
        rows, task, "Regret", lambda cell: mean_ci(final_regret(rows, cell)), random
    )


def final_table(rows: pd.DataFrame, task: str) -> Table:
    """Table C: J of the last policies."""
    return learners_table(
        rows,
        task,
        "J of the last 5 % of the policies",
        lambda cell: mean_ci(final_J(rows, cell)),
        lambda task, gamma: f"{exact(rows, task, gamma, 'j_random'):.3f}",
    )


def square_root_fit(k: np.ndarray, curves: np.ndarray) -> str:
    """a and R² of a√k fitted to the mean curve over the last decade (below 0: no square root)."""
    k, mean = np.delete(k, -2), np.delete(curves.mean(0), -2)
    a = (np.sqrt(k) @ mean) / k.sum()
    rest, spread = ((mean - a * np.sqrt(k)) ** 2).sum(), ((mean - mean.mean()) ** 2).sum()
    if spread == 0:
        return "—"
    r2 = 1 - rest / spread
    return f"{a:.3g}√k, {r2:.2f}" if r2 >= 0 else f"{a:.3g}√k, < 0"


def growth_table(rows: pd.DataFrame, episodes: int, title: str) -> Table:
    """Growth of BVVI's regret: exponent, ratio, fit, optimism."""
    body = []
    of = rows[(rows.metric == "regret") & (rows.episodes == episodes)]
    for task in TASK_LABELS:
        for gamma in gammas(of, task):
            for method, c in learners(of, task, episodes):
                if not method.startswith("bvvi"):
                    continue
                cell = Cell(method, task, gamma, c, episodes)
                try:
                    k, curves = regret_curves(rows, cell)
                    found = [*growth(k, curves), square_root_fit(k, curves)]
                except (NoResults, ValueError):
                    continue
                name = f"{TASK_LABELS[task]} γ={gamma:g}"
                share = f"{counted(rows, cell, 'optimistic'):.3f}"
                regret = mean_ci(curves[:, -1])
                body.append([name, label_of(method, c), *map(str, (regret, *found)), share])
    columns = ["", "", "regret", "exponent (√K: 0.5)", "ratio K : K/4 (√K: 0.5)"]
    return Table(title, [*columns, "fit of a√k, R²", "episodes with V̂₁ ≥ V*"], body)


def tables(rows: pd.DataFrame) -> list[Table]:
    """Exact values; regret and last policies by environment; growth; long runs."""
    shown = [optima_table(rows)]
    try:
        K = main_episodes(rows)
    except NoResults:
        return shown
    there = [task for task in TASK_LABELS if gammas(rows, task)]
    shown += [regret_table(rows, task) for task in there]
    shown += [final_table(rows, task) for task in there if task in ("off", "gamble")]
    judged = rows[~rows.gamma.isin([0.01, 3.0, 5.0])]
    shown.append(growth_table(judged, K, f"Growth over the last decade, K = {K:,}"))
    for longer in sorted(set(rows.episodes.dropna().astype(int)) - {K}):
        title = f"Beyond the authors' K: growth over the last decade, K = {longer:,}"
        shown.append(growth_table(rows, longer, title))
    return shown


STYLES: dict[tuple[str, float], dict[str, Any]] = {
    ("bvvi_next", 0.02): {"color": "#D55E00", "linestyle": "-", "linewidth": 2.2},
    ("bvvi_next", 0.1): {"color": "#D55E00", "linestyle": ":", "linewidth": 1.6},
    ("bvvi_next", 1.0): {"color": "#D55E00", "linestyle": "--", "linewidth": 1.6},
    ("bvvi_self", 0.02): {"color": OTHERS[0], "linestyle": "-"},
    ("bvvi_self", 1.0): {"color": OTHERS[0], "linestyle": "--"},
    ("greedy", 0.0): {"color": OTHERS[1], "linestyle": "--"},
    ("risk_neutral", 0.02): {"color": OTHERS[2], "linestyle": "-."},
    ("myopic", 0.0): {"color": OTHERS[4], "linestyle": ":"},
    ("rsvi2", 0.02): {"color": OTHERS[5], "linestyle": "--"},
}
Curves = dict[tuple[str, str, float, float, int], dict[str, np.ndarray]]


def curves_of(extras: list[dict[str, Any]]) -> Curves:
    """Mean curves and bands by (method, task, gamma, c, K); seeds divided among jobs are pooled."""
    parts: dict[tuple, list[dict[str, Any]]] = {}
    for extra in extras:
        if extra["name"] == "curves":
            for one in extra["data"]["curves"]:
                key = (extra["method"], extra["task"], one["gamma"], one["c"], one["episodes"])
                parts.setdefault(key, []).append(one | {"k": extra["data"]["k"]})
    return {key: pooled(several) for key, several in parts.items()}


def pooled(several: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """One mean curve and band of the jobs among which the seeds of a cell were divided."""
    n = np.array([[one["n"]] for one in several], float)
    mean, low, high = (np.array([one[name] for one in several]) for name in ("mean", "low", "high"))
    centre = (n * mean).sum(0) / n.sum()
    below, above = (
        np.sqrt(((n * half) ** 2).sum(0)) / n.sum() for half in (mean - low, high - mean)
    )
    k = np.array(several[0]["k"], float)
    return {"k": k, "mean": centre, "low": centre - below, "high": centre + above}


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Regret against episodes for each environment, and regret at K against gamma."""
    curves = curves_of(extras)
    if not curves:
        return {}
    lengths = sorted({key[4] for key in curves})
    drawn = {}
    for task in ("off", "gamble", "rand"):
        if any(key[1] == task and key[4] == lengths[0] for key in curves):
            drawn[f"regret_{task}"] = draw_regret(curves, task, lengths[0])
    for longer in lengths[1:]:
        drawn[f"regret_{longer}_episodes"] = draw_regret(curves, "gamble", longer)
    return drawn | {"regret_by_gamma": draw_by_gamma(rows)}


def draw_regret(curves: Mapping[tuple, Mapping[str, np.ndarray]], task: str, K: int) -> Figure:
    """log R against log k, a panel per gamma; grey: slope 1/2."""
    there = sorted({key[2] for key in curves if key[1] == task and key[4] == K})
    n_columns = min(4, len(there))
    n_rows = -(-len(there) // n_columns)
    figure, axes = panels(n_rows, n_columns, width=3.1, height=2.7)
    for panel in axes.flat[len(there) :]:
        panel.axis("off")
    for panel, gamma in zip(axes.flat, there, strict=False):
        for (method, c), style in STYLES.items():
            if (one := curves.get((method, task, gamma, c, K))) is None:
                continue
            k, seen = one["k"], one["mean"] > 1e-6
            panel.plot(k[seen], one["mean"][seen], label=label_of(method, c), **style)
            low = np.maximum(one["low"], 1e-2)
            panel.fill_between(
                k[seen], low[seen], one["high"][seen], color=style["color"], alpha=0.13, lw=0
            )
            if (method, c) == ("bvvi_next", 0.02):
                root = one["mean"][-1] * np.sqrt(k / k[-1])
                panel.plot(k, root, color="#999999", lw=0.9, label="√k", zorder=0)
        panel.set(xscale="log", title=f"γ = {gamma:g}")
        if any((line.get_ydata() > 0).any() for line in panel.lines):
            panel.set_yscale("log")
    for panel in axes[-1]:
        panel.set_xlabel("episode k")
    for row in axes:
        row[0].set_ylabel("cumulative regret")
    figure.suptitle(TASK_LABELS[task])
    return with_legend_below(figure)


def with_legend_below(figure: Figure) -> Figure:
    """One legend for all panels."""
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=7)
    return figure


def draw_by_gamma(rows: pd.DataFrame) -> Figure:
    """Regret at K against gamma."""
    K = main_episodes(rows)
    there = [task for task in ("off", "gamble") if gammas(rows, task)]
    figure, axes = panels(1, max(1, len(there)), width=4.4, height=3.2)
    for panel, task in zip(axes[0], there, strict=False):
        for (method, c), style in STYLES.items():
            points = []
            for gamma in gammas(rows, task):
                try:
                    ci = mean_ci(final_regret(rows, Cell(method, task, gamma, c, K)))
                except NoResults:
                    continue
                points.append((gamma, ci.value, ci.low, ci.high))
            if points:
                x, value, low, high = np.array(points).T
                panel.plot(x, value, marker="o", ms=3, label=label_of(method, c), **style)
                panel.fill_between(x, low, high, color=style["color"], alpha=0.13, lw=0)
        panel.set_yscale("symlog", linthresh=1.0)
        panel.set(xlabel="γ", ylabel=f"regret at K = {K:,}", title=TASK_LABELS[task])
    return with_legend_below(figure)


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
