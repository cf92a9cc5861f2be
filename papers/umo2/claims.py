"""The claims of UMO² as functions of the rows, and what its README shows.

A threshold is met when the whole 95 % bootstrap interval over seeds lies on its right side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

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
    not_worse,
)
from common.plotting import colours, dashes, panels
from common.stats import Interval, diff, loglog_slope, mean_ci, paired_diff, ratio_of_means
from papers.umo2.baselines import METHODS, UTILITY_METHODS
from papers.umo2.olo import MAGNITUDES
from papers.umo2.task import reference_utility

STABLE_SLOPE = 0.002  # C1: packets per slot
UNSTABLE_SLOPE = 0.1  # C2
QUEUE_POWER = 0.6  # C1: mean queue of every seed at most T^0.6
OLO_RATIO = 1.5  # C3
OLO_WORSE = 1.4  # C3: each single step-size, over AdaPFOL
SAFE_UTILITY = float(np.log(1.9))  # C6: g of the static rate 0.3 in every slot
UTILITY_SLOPE = 0.005  # C6
BLIND = ("last", "mean", "ucb", "uniform")  # C2
KEYS = ["horizon", "rho", "kappa", "v"]


# -- reading the rows ---------------------------------------------------------------------------


def values(rows: pd.DataFrame, method: str, task: str, metric: str, **setting: Any) -> np.ndarray:
    """A metric by seed [n_seeds] of a method in a setting, in the order of the seeds."""
    of = (rows.method == method) & (rows.task == task) & (rows.metric == metric)
    for key, value in setting.items():
        of &= np.isclose(rows[key], value) if key in KEYS else rows[key] == value
    cell = rows[of].sort_values("seed")
    if cell.seed.duplicated().any():
        raise ValueError(f"{setting} does not name one setting of {task}")
    if len(cell) < 2 and metric != "growth" or cell.empty:
        raise NoResults(f"no two seeds of {method} on {task} with {setting}")
    return cell.value.to_numpy(float)


def settings(rows: pd.DataFrame, task: str, method: str | None = None) -> list[dict[str, float]]:
    """The settings in which a task (a method of it) was run, in order."""
    if "horizon" not in rows:
        return []
    of = rows.task == task
    if method is not None:
        of &= rows.method == method
    there = rows[of][KEYS].drop_duplicates().sort_values(KEYS)
    return [{k: float(row[k]) for k in KEYS} for _, row in there.iterrows()]


def in_short(parts: Mapping[str, Judgement], note: str = "") -> Judgement:
    """``all_of`` with a text that names what fails, and ``note``."""
    failing = [
        f"{n}: {p.ours} ({p.verdict})" for n, p in parts.items() if p.verdict != "reproduced"
    ]
    held = len(parts) - len(failing)
    text = f"all {len(parts)} hold"
    if failing:
        text = (f"partly: {held} of {len(parts)} hold; not " if held else "") + "; ".join(failing)
    return dataclasses.replace(all_of(parts), ours=f"{text}{note}")


def horizons(rows: pd.DataFrame) -> list[float]:
    """The horizons of the utility task."""
    found = sorted({s["horizon"] for s in settings(rows, "utility", "umo2")})
    if not found:
        raise NoResults("no rows of UMO² on the utility task")
    return found


# -- claims -------------------------------------------------------------------------------------


def c1(rows: pd.DataFrame) -> Judgement:
    """NSO is stable on Net-A at every load and speed of switching."""
    parts, worst = {}, ("", -np.inf)
    there = settings(rows, "net-a", "nso")
    if len(there) < 6:
        raise NoResults(f"{len(there)} of 6 settings of NSO on Net-A")
    for s in there:
        name = f"ρ={s['rho']:g} κ={s['kappa']:g}"
        slope = mean_ci(values(rows, "nso", "net-a", "quarter_slope", **s))
        queue = values(rows, "nso", "net-a", "mean_queue", **s)
        parts[f"{name} slope"] = by_interval(slope, STABLE_SLOPE, above=False)
        parts[f"{name} queue"] = compare(queue.max(), s["horizon"] ** QUEUE_POWER, above=False)
        worst = max(worst, (f"{slope} at {name}", slope.high), key=lambda pair: pair[1])
    return in_short(parts, f"; largest slope {worst[0]}")


def c2(rows: pd.DataFrame) -> Judgement:
    """Blind backpressure and the uniform allocation grow linearly where NSO is stable."""
    cell = {"rho": 0.42, "kappa": 0.4}
    nso = values(rows, "nso", "net-a", "mean_queue", **cell)
    parts, slopes = {}, []
    for name in BLIND:
        slope = mean_ci(values(rows, name, "net-a", "quarter_slope", **cell))
        parts[f"{name} slope"] = by_interval(slope, UNSTABLE_SLOPE)
        other = values(rows, name, "net-a", "mean_queue", **cell)
        parts[f"{name} queue"] = by_interval(paired_diff(nso, 0.1 * other), above=False)
        slopes.append(f"{name} {slope.value:.3g}")
    return in_short(parts, f"; slopes {', '.join(slopes)}; NSO's mean queue {mean_ci(nso)}")


def c3(rows: pd.DataFrame) -> Judgement:
    """AdaPFOL's ratio is small on the grid; each single step-size fails in some cell of it."""
    if "magnitude" not in rows:
        raise NoResults("no rows of AdaPFOL's grid")
    grid = rows[rows.task == "olo"]
    cells = list(grid[["magnitude", "switches"]].drop_duplicates().itertuples(index=False))
    parts, largest, rivals = {}, 0.0, []
    for magnitude, switches in cells:
        cell = {"magnitude": magnitude, "switches": switches}
        ci = mean_ci(values(rows, "adapfol", "olo", "ratio", **cell))
        parts[f"{magnitude} S={switches:g}"] = by_interval(ci, OLO_RATIO, above=False)
        largest = max(largest, ci.value)
    for step in single_steps(grid):
        found = []
        for magnitude, switches in cells:
            cell = {"magnitude": magnitude, "switches": switches}
            if magnitude == "constant":
                ours = values(rows, "adapfol", "olo", "ratio", **cell)
                alone = values(rows, "single", "olo", "ratio", step=step, **cell)
                if ours.mean() > 0:
                    found.append(ratio_of_means(alone, ours, paired=True))
        if not found:
            raise NoResults("no cells of constant magnitude")
        most = max(found, key=lambda ci: ci.value)
        parts[f"single step {step:g}"] = by_interval(most, OLO_WORSE)
        rivals.append(f"{most.value:.2f}")
    note = f"; largest ratio {largest:.2f}; single steps up to {' / '.join(rivals)} times AdaPFOL's"
    return in_short(parts, note)


def single_steps(grid: pd.DataFrame) -> list[float]:
    """The j of the single step-sizes 0.7 * 2^j in the rows of AdaPFOL's grid."""
    return sorted(grid[grid.method == "single"].step.unique())


def growth_in_horizon(rows: pd.DataFrame, method: str, v: float) -> tuple[Interval, Interval]:
    """Exponents in T of the mean queue and of the utility gap, by runs of all horizons.

    Raises:
        NoResults: if there are no two horizons.
    """
    T = sorted({s["horizon"] for s in settings(rows, "utility", method)})
    if len(T) < 2:
        raise NoResults("two horizons are needed")
    found = []
    for metric in ("mean_queue", "utility"):
        cells = [values(rows, method, "utility", metric, v=v, horizon=h) for h in T]
        if len({len(c) for c in cells}) > 1:
            raise NoResults("the horizons have different seeds")
        found.append(np.column_stack(cells))
    gap = reference_utility() - found[1]
    if (gap.mean(axis=0) <= 0).any():
        raise NoResults("more utility than the reference")
    return loglog_slope(T, found[0], t_min=0), loglog_slope(T, gap, t_min=0)


def c4(rows: pd.DataFrame) -> Judgement:
    """Utility grows with the horizon and the queue per slot falls, at V = T^0.3."""
    T = horizons(rows)
    if len(T) < 3:
        raise NoResults("three horizons are needed")
    u = [values(rows, "umo2", "utility", "utility", v=0.3, horizon=h) for h in T]
    q = [values(rows, "umo2", "utility", "mean_queue", v=0.3, horizon=h) / h for h in T]
    parts = {
        f"u({T[2]:.3g}) > u({T[0]:.3g})": by_interval(diff(u[2], u[0])),
        f"u({T[2]:.3g}) >= u({T[1]:.3g}) - 0.01": not_worse(diff(u[2], u[1]), 0.01),
        "queue/T, first to second": by_interval(diff(q[1], q[0]), above=False),
        "queue/T, second to third": by_interval(diff(q[2], q[1]), above=False),
    }
    means = " / ".join(f"{x.mean():.3f}" for x in u)
    queues = " / ".join(f"{x.mean() * h:.0f}" for x, h in zip(q, T, strict=True))
    gap = reference_utility() - u[2].mean()
    queue_growth, gap_growth = growth_in_horizon(rows, "umo2", 0.3)
    note = f"; u {means}, gap to the reference {gap:.2f} ∝ {power('T', gap_growth)}"
    return in_short(parts, f"{note}; queue {queues} ∝ {power('T', queue_growth)}")


def c5(rows: pd.DataFrame) -> Judgement:
    """A larger V has more utility and longer queues."""
    parts = {}
    for h in horizons(rows):
        for metric in ("utility", "mean_queue"):
            high, low = (
                values(rows, "umo2", "utility", metric, v=v, horizon=h) for v in (0.4, 0.2)
            )
            parts[f"{metric} T={h:.3g}"] = by_interval(paired_diff(high, low))
    gains = [parts[f"utility T={h:.3g}"].evidence["value"] for h in horizons(rows)]
    return in_short(parts, f"; utility + {' / '.join(f'{g:.3f}' for g in gains)}")


def c6(rows: pd.DataFrame) -> Judgement:
    """UMO² is at least as useful as a safe static rate, and stable."""
    parts, slopes = {}, []
    for h in horizons(rows):
        u = mean_ci(values(rows, "umo2", "utility", "utility", v=0.3, horizon=h))
        slope = mean_ci(values(rows, "umo2", "utility", "quarter_slope", v=0.3, horizon=h))
        parts[f"utility T={h:.3g}"] = by_interval(u, SAFE_UTILITY)
        parts[f"slope T={h:.3g}"] = by_interval(slope, UTILITY_SLOPE, above=False)
        slopes.append(f"{slope.value:.1g}")
    return in_short(parts, f"; threshold {SAFE_UTILITY:.4f}, slopes {' / '.join(slopes)}")


SCALES = ("default", "paper")
CLAIMS = [
    Claim(
        "C1",
        "NSO stabilises the network without knowledge: on Net-A at ρ = 0.30, 0.38, 0.42 and "
        "T^0.4, T^0.75 phases the slope over the last quarters is at most 0.002 and the mean queue "
        "of every seed at most T^0.6",
        "Theorem on NSO (stability)",
        "mean queue O(1) in T",
        SCALES,
        c1,
    ),
    Claim(
        "C2",
        "Backpressure without knowledge (last seen, empirical mean, UCB) and the uniform "
        "allocation are unstable at ρ = 0.42, κ = 0.4: slope at least 0.1, and NSO's mean queue "
        "is at most a tenth of theirs",
        "Motivation of adversarial network optimisation",
        "no guarantee for them",
        SCALES,
        c2,
    ),
    Claim(
        "C3",
        "AdaPFOL adapts to unknown path length and magnitude: regret is at most 1.5 "
        "√((1+P) Σ|l|²) on the whole grid, and each single step-size has, in a cell of constant "
        "magnitude, at least 1.4 times its ratio",
        "Theorem on AdaPFOL",
        "Õ(√((1+P) Σ|l|²))",
        SCALES,
        c3,
    ),
    Claim(
        "C4",
        "UMO² is stable and its utility gap shrinks with T (V = T^0.3): utility at the longest "
        "horizon above that of the shortest and not below the middle one by more than 0.01; mean "
        "queue / T decreasing",
        "Theorem on UMO²",
        "utility gap polynomially → 0",
        SCALES,
        c4,
    ),
    Claim(
        "C5",
        "V trades utility for delay: V = T^0.4 has more utility and longer queues than V = T^0.2 "
        "at every T",
        "Lyapunov drift-plus-penalty",
        "trade-off in V",
        SCALES,
        c5,
    ),
    Claim(
        "C6",
        "Bandit feedback costs, but UMO² (V = T^0.3) has at least the utility of the safe static "
        "rate 0.3, log 1.9, with slope at most 0.005",
        "Theorem on UMO²",
        "stable; gap → 0",
        SCALES,
        c6,
    ),
]


# -- what the README shows ------------------------------------------------------------------------


def shown(x: np.ndarray) -> str:
    """Mean with its interval; thousands without decimals."""
    ci = mean_ci(x)
    return str(ci) if abs(ci.value) < 1000 else f"{ci.value:,.0f} [{ci.low:,.0f}, {ci.high:,.0f}]"


def power(base: str, exponent: Interval) -> str:
    """base^exponent with the exponent's interval; two decimals say what a rate is."""
    return f"{base}^{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"


def cell(compute: Callable[[], str]) -> str:
    """A table's cell, or a dash where nothing was run."""
    try:
        return compute()
    except NoResults:
        return "—"


TITLES = {
    "net-a": "Net-A",
    "net-a-static": "Net-A frozen in phase 0 (limit 0.3545)",
    "net-b": "Net-B (limits: fixed 0.433, adaptive 0.588)",
    "net-b-50": "Net-B, 50 nodes (limits: fixed 0.638, adaptive 0.800)",
}


def heading(task: str, s: Mapping[str, float]) -> str:
    """A setting as a column's head."""
    return f"ρ={s['rho']:g}" + (f", κ={s['kappa']:g}" if task != "net-a-static" else "")


def exponent(rows: pd.DataFrame, method: str, task: str, s: Mapping[str, float]) -> str:
    """Growth exponent of the queue over the last decade, with its interval."""
    try:
        fitted = [values(rows, method, task, "growth", step=i, **s) for i in range(3)]
    except ValueError:  # fitted by several jobs, each for its own seeds
        raise NoResults("no one exponent of all seeds") from None
    value, low, high = (float(x[0]) for x in fitted)
    return power("t", Interval(value, low, high, 0))


def queue_table(rows: pd.DataFrame, task: str) -> Table:
    """Mean queue and slope of all policies on a network."""

    def entry(name: str, s: dict[str, float]) -> str:
        queue = shown(values(rows, name, task, "mean_queue", **s))
        slope = values(rows, name, task, "quarter_slope", **s).mean()
        return f"{queue}; {slope:+.4f}; {cell(lambda: exponent(rows, name, task, s))}"

    there = settings(rows, task)
    body = [
        [policy.label, *(cell(lambda n=name, s=s: entry(n, s)) for s in there)]
        for name, policy in METHODS.items()
        if ((rows.method == name) & (rows.task == task)).any()
    ]
    title = (
        f"{TITLES[task]}, T = {there[0]['horizon']:,.0f}: mean queue in packets; quarter slope in "
        "packets per slot; growth over the last decade of slots (paper: no numbers; theorem: "
        "bounded; † is told what it cannot know)"
    )
    return Table(title, ["", *(heading(task, s) for s in there)], body)


def frontier_table(rows: pd.DataFrame) -> Table:
    """Utility and mean queue over V and T."""

    def entry(name: str, v: float, h: float) -> str:
        u = shown(values(rows, name, "utility", "utility", v=v, horizon=h))
        q = values(rows, name, "utility", "mean_queue", v=v, horizon=h).mean()
        slope = values(rows, name, "utility", "quarter_slope", v=v, horizon=h).mean()
        return f"{u}; {q:,.0f}; {slope:+.4f}"

    there = settings(rows, "utility")
    T = sorted({s["horizon"] for s in there})
    body = []
    for name, policy in UTILITY_METHODS.items():
        for v in sorted({s["v"] for s in settings(rows, "utility", name)}):
            label = policy.label if name.startswith("static") else f"{policy.label}, V = T^{v:g}"
            grows = [
                cell(lambda n=name, v=v, i=i: power("T", growth_in_horizon(rows, n, v)[i]))
                for i in range(2)
            ]
            body.append(
                [label, *(cell(lambda n=name, v=v, h=h: entry(n, v, h)) for h in T), *grows]
            )
    title = (
        f"Utility task: utility; mean queue; quarter slope (best reference "
        f"{reference_utility():.3f}; paper: no numbers; theorem: gap → 0). Last columns: growth "
        "with T of the mean queue and of the gap to the reference"
    )
    columns = ["", *(f"T = {h:,.0f}" for h in T), "queue", "gap"]
    return Table(title, columns, body)


def grid_table(rows: pd.DataFrame) -> Table:
    """AdaPFOL's ratios next to those of the single step-sizes."""
    grid = rows[rows.task == "olo"]
    steps = single_steps(grid)
    body = []
    for magnitude in MAGNITUDES:
        for switches in sorted(grid.switches.unique()):
            where = {"magnitude": magnitude, "switches": switches}
            ours = cell(lambda w=where: shown(values(rows, "adapfol", "olo", "ratio", **w)))
            alone = [
                cell(
                    lambda j=j, w=where: (
                        f"{values(rows, 'single', 'olo', 'ratio', step=j, **w).mean():.2f}"
                    )
                )
                for j in steps
            ]
            body.append([f"{magnitude}, {switches:g} switches", ours, *alone])
    columns = ["", "AdaPFOL", *(f"0.7·2^{j:g}" for j in steps)]
    return Table("Regret / √((1+P) Σ|l|²) of AdaPFOL and of single step-sizes", columns, body)


def tables(rows: pd.DataFrame) -> list[Table]:
    """Queues for each network, the frontier, and AdaPFOL's grid."""
    found = [queue_table(rows, task) for task in TITLES if settings(rows, task)]
    if settings(rows, "utility"):
        found.append(frontier_table(rows))
    if "magnitude" in rows:
        found.append(grid_table(rows))
    return found


def merged(extras: list[dict[str, Any]], names: Mapping[str, Any], tasks: tuple[str, ...]) -> dict:
    """Curves by (task, setting, method); those of several jobs are averaged by their seeds."""
    found: dict[tuple, list[dict]] = {}
    for extra in extras:
        if extra["task"] in tasks and extra["method"] in names:
            for data in extra["data"]:
                key = (extra["task"], *(data[k] for k in KEYS))
                found.setdefault((key, extra["method"]), []).append(data)
    averaged: dict[tuple, dict[str, dict[str, np.ndarray]]] = {}
    for (key, name), parts in found.items():
        weights = [part["n"] for part in parts]
        curves = {
            c: np.average([part[c] for part in parts], axis=0, weights=weights)
            for c in ("mean", "low", "high", "utility")
            if c in parts[0]
        }
        averaged.setdefault(key, {})[name] = curves
    return dict(sorted(averaged.items()))


def style(name: str, names: Mapping[str, Any], mine: tuple[str, ...]) -> dict[str, Any]:
    """Label, colour and dashes of a policy."""
    rest = list(names)
    return {
        "label": names[name].label,
        "color": colours(rest, mine)[name],
        "linestyle": dashes(rest)[name],
    }


def draw_queues(curves: dict) -> Figure:
    """Queue lengths over time, one panel per network and setting."""
    columns = min(2, len(curves))
    n_rows = -(-len(curves) // columns)
    figure, axes = panels(n_rows, columns, width=4.2, height=2.4)
    for panel in axes.flat[len(curves) :]:
        panel.set_visible(False)
    for panel, (key, policies) in zip(axes.flat, curves.items(), strict=False):
        task, horizon, rho, kappa, _ = key
        for name in METHODS:
            if name in policies:
                one = policies[name]
                t = (np.arange(len(one["mean"])) + 0.5) * horizon / len(one["mean"])
                look = style(name, METHODS, ("nso",))
                panel.plot(t, np.maximum(one["mean"], 0.1), **{**look, "linewidth": 1.1})
                low, high = (np.maximum(one[c], 0.1) for c in ("low", "high"))
                panel.fill_between(t, low, high, color=look["color"], alpha=0.15, linewidth=0)
        label = task.removeprefix("net-").upper().replace("A-STATIC", "A, frozen")
        switching = "" if "frozen" in label else f", κ = {kappa:g}"
        panel.set(yscale="log", title=f"Net-{label}: ρ = {rho:g}{switching}")
    for row in axes:
        row[0].set_ylabel("packets queued")
    for panel in axes[-1]:
        panel.set_xlabel("slot t")
    axes[0, -1].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_frontier(rows: pd.DataFrame) -> Figure:
    """Utility against mean queue: a line over V for each policy, one panel per horizon."""
    T = sorted({s["horizon"] for s in settings(rows, "utility")})
    figure, axes = panels(1, len(T), width=3.4, height=3.0)
    for panel, h in zip(axes[0], T, strict=True):
        for name in UTILITY_METHODS:
            there = [s for s in settings(rows, "utility", name) if s["horizon"] == h]
            of = (rows.task == "utility") & (rows.method == name) & (rows.horizon == h)
            if there:
                points = rows[of].groupby(["v", "metric"])["value"].mean().unstack()
                look = style(name, UTILITY_METHODS, ("umo2",))
                panel.plot(points["mean_queue"], points["utility"], marker="o", ms=3, **look)
        panel.axhline(reference_utility(), color="grey", linewidth=0.8)
        panel.set(xscale="log", xlabel="mean queue (packets)", title=f"T = {h:,.0f}")
    axes[0, 0].set_ylabel("average utility (grey: reference)")
    axes[0, -1].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_utilities(curves: dict) -> Figure:
    """Running average of the utility, and the queue, at V = T^0.3 and the longest horizon."""
    longest = max(key[1] for key in curves)
    figure, axes = panels(1, 2, width=4.0, height=2.8)
    for key, policies in curves.items():
        _, horizon, _, _, v = key
        if horizon != longest or not np.isclose(v, 0.3):
            continue
        for name in (n for n in UTILITY_METHODS if n in policies):
            one = policies[name]
            t = np.arange(1, len(one["mean"]) + 1) * horizon / len(one["mean"])
            look = style(name, UTILITY_METHODS, ("umo2",))
            axes[0, 0].plot(t, one["utility"], **look)
            axes[0, 1].plot(t, np.maximum(one["mean"], 0.1), **look)
    axes[0, 0].axhline(reference_utility(), color="grey", linewidth=0.8)
    axes[0, 0].set(xlabel="slot t", title="average utility so far (grey: reference)")
    axes[0, 1].set(xlabel="slot t", yscale="log", title="packets queued")
    axes[0, 1].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Queue lengths; the frontier; running utilities."""
    drawn = {}
    queues = merged(extras, METHODS, tuple(TITLES))
    if queues:
        drawn["queues"] = draw_queues(queues)
    if settings(rows, "utility"):
        drawn["frontier"] = draw_frontier(rows)
    utilities = merged(extras, UTILITY_METHODS, ("utility",))
    if utilities:
        drawn["utilities"] = draw_utilities(utilities)
    return drawn


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
