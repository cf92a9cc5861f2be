"""The claims of uniINF as functions of the rows, and what its README shows.

A threshold is met when the whole 95 % bootstrap interval over seeds lies on its right side.
"""

from __future__ import annotations

import dataclasses
import math
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
)
from common.plotting import colours, dashes, panels
from common.stats import Interval, loglog_slope, mean_ci, paired_diff, ratio_of_means
from papers.uniinf.baselines import METHODS

TASK_LABELS = {
    "e1": "E1",
    "e1-k2": "E1 K=2",
    "e1-k10": "E1 K=10",
    "e1-k50": "E1 K=50",
    "e2": "E2",
    "e3-s1": "E3",
    "e3-s20": "E3 ×20",
    "e3-s100": "E3 ×100",
    "e4": "E4",
}
MAIN = ("uniinf", "htinf", "opttinf", "adatinf", "robust_ucb", "tsallis_inf", "ucb1")
MISTOLD = ("htinf_low", "htinf_high", "htinf_alpha2")  # E5
SLOPE_OF_LOG = 0.35  # C1: a logarithm has local exponent 1/ln t = 0.07–0.09 in [1e5, 1e6]
SLACK_OF_POWER = 0.08  # C2: added to 1/alpha


# -- reading the rows ---------------------------------------------------------------------------


def regret_curves(
    rows: pd.DataFrame, method: str, task: str, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds [m] of the last decade and pseudo-regret [n_seeds, m] of a method in a cell."""
    of = (rows.metric == "regret") & (rows.method == method) & (rows.task == task)
    cell = rows[of & (rows.alpha == alpha)]
    if cell.seed.nunique() < 2:
        raise NoResults(
            f"no two seeds of {METHODS[method].label} on {TASK_LABELS[task]}, α={alpha}"
        )
    table = cell.pivot(index="seed", columns="step", values="value").sort_index()
    return table.columns.to_numpy(float), table.to_numpy(float)


def final_regret(rows: pd.DataFrame, method: str, task: str, alpha: float) -> np.ndarray:
    """Pseudo-regret at the horizon [n_seeds], in the order of the seeds."""
    return regret_curves(rows, method, task, alpha)[1][:, -1]


def alphas(rows: pd.DataFrame) -> list[float]:
    """The tail parameters that were run."""
    return sorted(float(alpha) for alpha in rows.alpha.unique())


def tasks(rows: pd.DataFrame) -> list[str]:
    """The environments that were run."""
    there = set(rows.task)
    return [task for task in TASK_LABELS if task in there]


def name_of(task: str, alpha: float) -> str:
    """A cell's name in the evidence."""
    return f"{TASK_LABELS[task]} α={alpha:g}"


# -- claims -------------------------------------------------------------------------------------


def room(part: Judgement) -> float:
    """How far the interval stays from the threshold, as a share of the threshold (or the value)."""
    e = part.evidence
    distance = e["low"] - e["threshold"] if e["above"] else e["threshold"] - e["high"]
    return distance / (e["threshold"] or e["value"])


def in_short(parts: Mapping[str, Judgement], note: str = "") -> Judgement:
    """``all_of`` with a text that names what fails, or what came closest to failing."""
    whole = all_of(parts)
    failing = [
        f"{n}: {p.ours} ({p.verdict})" for n, p in parts.items() if p.verdict != "reproduced"
    ]
    if failing:
        held = len(parts) - len(failing)
        text = f"partly: {held} of {len(parts)} hold; not " if held else ""
        text += "; ".join(failing)
    else:
        closest = min(parts, key=lambda name: room(parts[name]))
        text = f"all {len(parts)} hold; closest {closest}: {parts[closest].ours}"
    return dataclasses.replace(whole, ours=f"{text}{note}")


def growth_against_log(t: np.ndarray, curves: np.ndarray) -> Interval:
    """(R(T) / log T) / (R(T/10) / log(T/10)): 1 for a logarithm, 10^p for a power p, nearly."""
    ratio = ratio_of_means(curves[:, -1], curves[:, 0], paired=True)
    c = math.log(t[0]) / math.log(t[-1])
    return Interval(ratio.value * c, ratio.low * c, ratio.high * c, ratio.n)


def c1(rows: pd.DataFrame) -> Judgement:
    """Logarithmic regret in the stochastic environments."""
    parts = {}
    for task in ("e1", "e1-k10", "e3-s1"):
        for alpha in alphas(rows):
            t, curves = regret_curves(rows, "uniinf", task, alpha)
            cell = name_of(task, alpha)
            parts[f"{cell} slope"] = by_interval(loglog_slope(t, curves), SLOPE_OF_LOG, above=False)
            parts[f"{cell} growth"] = by_interval(growth_against_log(t, curves), 2.0, above=False)
    return in_short(parts)


def c2(rows: pd.DataFrame) -> Judgement:
    """Growth no faster than T^(1/alpha) in the adversarial environment."""
    parts = {}
    for alpha in alphas(rows):
        slope = loglog_slope(*regret_curves(rows, "uniinf", "e2", alpha))
        parts[name_of("e2", alpha)] = by_interval(slope, 1 / alpha + SLACK_OF_POWER, above=False)
    return in_short(parts)


def c3(rows: pd.DataFrame) -> Judgement:
    """At most three times the regret of HTINF that knows sigma and alpha."""
    parts = {}
    for task in ("e1", "e2", "e3-s1"):
        for alpha in alphas(rows):
            ours, known = (final_regret(rows, m, task, alpha) for m in ("uniinf", "htinf"))
            ratio = ratio_of_means(ours, known, paired=True)
            parts[name_of(task, alpha)] = by_interval(ratio, 3.0, above=False)
    return in_short(parts)


def c4(rows: pd.DataFrame) -> Judgement:
    """Without skipping, mean regret is tenfold and nearly linear; the medians stand beside."""
    parts, medians = {}, []
    for alpha in alphas(rows):
        t, without = regret_curves(rows, "tsallis_inf", "e3-s1", alpha)
        ours = final_regret(rows, "uniinf", "e3-s1", alpha)
        median = float(np.median(without[:, -1]) / np.median(ours))
        medians.append(f"{median:.3g}")
        ratio = ratio_of_means(without[:, -1], ours, paired=True)
        parts[f"α={alpha:g} ratio"] = by_interval(ratio, 10.0, ratio_of_medians=median)
        parts[f"α={alpha:g} slope"] = by_interval(loglog_slope(t, without), 0.7)
    return in_short(parts, f"; ratio of medians {' / '.join(medians)} at α = {listed(rows)}")


def c5(rows: pd.DataFrame) -> Judgement:
    """At a hundred times the scale, less regret than the algorithm that assumes sigma = 1."""
    parts = {}
    for alpha in alphas(rows):
        ours, blind = (final_regret(rows, m, "e3-s100", alpha) / 100 for m in ("uniinf", "opttinf"))
        means = f"{ours.mean():.3g} against {blind.mean():.3g}"
        difference = paired_diff(blind, ours)
        parts[f"α={alpha:g}"] = by_interval(difference, ours=f"{means}, difference {difference}")
    return in_short(parts)


def c6(rows: pd.DataFrame) -> Judgement:
    """One wrong parameter costs HTINF twice the regret of uniINF or more."""
    parts = {}
    for alpha in alphas(rows):
        ours = final_regret(rows, "uniinf", "e1", alpha)
        told = {m: final_regret(rows, m, "e1", alpha) for m in MISTOLD}
        worst = max(told, key=lambda m: told[m].mean())
        ratio = ratio_of_means(told[worst], ours, paired=True)
        text = f"{ratio} with {METHODS[worst].label}"
        parts[f"α={alpha:g}"] = by_interval(ratio, 2.0, ours=text, worst=worst)
    return in_short(parts)


def listed(rows: pd.DataFrame) -> str:
    """The tail parameters as text."""
    return " / ".join(f"{alpha:g}" for alpha in alphas(rows))


SCALES = ("default", "paper")
CLAIMS = [
    Claim(
        "C1",
        "Regret is logarithmic in stochastic environments without knowing (σ, α): in E1 (K = 4 and "
        "10) and E3 the exponent over the last decade is at most 0.35 and R(T)/log T at most twice "
        "R(T/10)/log(T/10)",
        "Theorem, stochastic case",
        "O(K (σ^α/Δ)^{1/(α−1)} log T · log(σ^α/Δ))",
        SCALES,
        c1,
    ),
    Claim(
        "C2",
        "Regret grows no faster than T^{1/α} up to logs in the adversarial environment E2: the "
        "exponent over the last decade is at most 1/α + 0.08",
        "Theorem, adversarial case",
        "O(σ K^{1−1/α} T^{1/α} ((log T)^{1.5} + log σ))",
        SCALES,
        c2,
    ),
    Claim(
        "C3",
        "Not knowing the parameters costs only logs: regret at T in E1, E2, E3 is at most 3 times "
        "that of HTINF with the true σ and α",
        "Table of results: the rates of HTINF up to logs",
        "equal up to logs",
        SCALES,
        c3,
    ),
    Claim(
        "C4",
        "Skipping is necessary: in E3 (scale 1) Tsallis-INF, which does not skip, has mean regret "
        "at least 10 times uniINF's and an exponent of at least 0.7",
        "Skipping-clipping technique",
        "no bound without skipping",
        SCALES,
        c4,
    ),
    Claim(
        "C5",
        "It adapts to the scale of the losses: in E3 at scale 100 its regret is below OptTINF's, "
        "which assumes σ = 1",
        "Parameter-free in σ",
        "log σ against σ-dependent powers",
        SCALES,
        c5,
    ),
    Claim(
        "C6",
        "A wrong parameter costs HTINF its guarantee and leaves uniINF unaffected: in E5 the worst "
        "of three wrong values gives HTINF at least twice uniINF's regret",
        "Motivation of parameter-freeness",
        "guarantee holds for the true (σ, α) only",
        SCALES,
        c6,
    ),
]


# -- what the README shows ------------------------------------------------------------------------


def shown(values: np.ndarray) -> str:
    """Mean with its interval; thousands without decimals."""
    ci = mean_ci(values)
    return str(ci) if abs(ci.value) < 1000 else f"{ci.value:,.0f} [{ci.low:,.0f}, {ci.high:,.0f}]"


def cell(compute: Callable[[], Any]) -> str:
    """A table's cell, or a dash where nothing was run or nothing can be fitted."""
    try:
        return str(compute())
    except (NoResults, ValueError):
        return "—"


def regret_table(rows: pd.DataFrame, alpha: float) -> Table:
    """Pseudo-regret at the horizon: algorithms × environments."""
    body = []
    for m in (*MAIN, *MISTOLD):
        if m in set(rows.method):
            cells = [
                cell(lambda m=m, task=task: shown(final_regret(rows, m, task, alpha)))
                for task in tasks(rows)
            ]
            body.append([METHODS[m].label, *cells])
    title = f"Pseudo-regret at T = {rows.step.max():,.0f}, α = {alpha:g} († is given the true σ, α)"
    return Table(title, ["", *(TASK_LABELS[task] for task in tasks(rows))], body)


def growth_table(rows: pd.DataFrame) -> Table:
    """Proved rate and fitted exponent of uniINF."""
    body = []
    for task in tasks(rows):
        proved = "T^{1/α} polylog T" if task in ("e2", "e4") else "log T"
        fits = [
            cell(lambda task=task, a=a: loglog_slope(*regret_curves(rows, "uniinf", task, a)))
            for a in alphas(rows)
        ]
        body.append([TASK_LABELS[task], proved, *fits])
    columns = ["", "paper (proved)", *(f"fitted exponent, α={a:g}" for a in alphas(rows))]
    return Table("Growth of uniINF's regret over the last decade", columns, body)


def counts_table(rows: pd.DataFrame) -> Table:
    """What uniINF did: rounds skipped, final S, pulls of the best arm."""
    body = []
    ours = rows[rows.method == "uniinf"]
    for task in tasks(ours):
        for alpha in alphas(ours):
            of = ours[(ours.task == task) & (ours.alpha == alpha)].groupby("metric")["value"].mean()
            body.append(
                [name_of(task, alpha), f"{of['skipped']:.1f}", f"{of['final_S']:.4g}"]
                + [f"{of['best_fraction']:.4f}"]
            )
    columns = ["", "rounds skipped", "S at T (from 4)", "fraction of pulls of i*"]
    return Table("What uniINF does, mean over seeds", columns, body)


def tables(rows: pd.DataFrame) -> list[Table]:
    """Regret for each alpha, growth, and counts."""
    regret = [regret_table(rows, alpha) for alpha in alphas(rows)]
    extra = [growth_table(rows), counts_table(rows)] if "uniinf" in set(rows.method) else []
    return [*regret, *extra]


def pooled(several: list[dict[str, Any]]) -> dict[str, Any]:
    """One mean curve and band of the jobs among which the seeds of a cell were divided."""
    if len(several) == 1:
        return several[0]
    n = np.array([[curve["n"]] for curve in several], float)
    mean, low, high = (np.array([curve[k] for curve in several]) for k in ("mean", "low", "high"))
    centre = (n * mean).sum(0) / n.sum()
    below, above = (
        np.sqrt(((n * half) ** 2).sum(0)) / n.sum() for half in (mean - low, high - mean)
    )
    return {**several[0], "n": int(n.sum())} | {
        "mean": centre.tolist(),
        "low": (centre - below).tolist(),
        "high": (centre + above).tolist(),
    }


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Regret curves for each alpha, and regret over its adversarial rate."""
    parts: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for extra in extras:
        if extra["name"] == "curves" and extra["method"] in MAIN:
            for curve in extra["data"]:
                parts.setdefault((extra["method"], extra["task"], curve["alpha"]), []).append(curve)
    curves = {key: pooled(several) for key, several in parts.items()}
    drawn = {f"curves_alpha_{a:g}".replace(".", "_"): draw(curves, a) for a in alphas(rows)}
    return drawn | {"normalised": draw_normalised(curves)}


def style(method: str) -> dict[str, Any]:
    """Colour, dash and weight of a method's curve."""
    return {
        "color": colours(MAIN, "uniinf")[method],
        "linestyle": dashes(MAIN)[method],
        "linewidth": 2.2 if method == "uniinf" else 1.2,
        "label": METHODS[method].label,
    }


def draw(curves: Mapping[tuple[str, str, float], Any], alpha: float) -> Figure:
    """A row per environment: log R against log t (slope: exponent), R against log t."""
    there = [task for task in TASK_LABELS if any(key[1] == task for key in curves)]
    figure, axes = panels(len(there), 2, width=4.2, height=2.3)
    for (left, right), task in zip(axes, there, strict=True):
        top = 0.0
        for method in MAIN:
            if (one := curves.get((method, task, alpha))) is None:
                continue
            t, mean = np.array(one["t"]), np.array(one["mean"])
            if method in ("uniinf", "htinf"):
                top = max(top, *one["high"])
            for panel in (left, right):
                panel.plot(t, mean, **style(method))
                panel.fill_between(
                    t, one["low"], one["high"], color=style(method)["color"], alpha=0.15, lw=0
                )
        left.set(xscale="log", ylabel=f"{TASK_LABELS[task]}: pseudo-regret")
        if task != "e4":  # negative while the arm that is best at the end is not yet the best
            left.set_yscale("log")
        right.set(xscale="log")
        if top > 0:
            right.set_ylim(min(0.0, right.get_ylim()[0] if task == "e4" else 0.0), 1.2 * top)
    axes[0, 0].legend(fontsize=7)
    axes[0, 0].set_title(f"α = {alpha:g}: log R against log t")
    axes[0, 1].set_title("R against log t (logarithmic: straight)")
    for panel in axes[-1]:
        panel.set_xlabel("round t")
    return figure


def draw_normalised(curves: Mapping[tuple[str, str, float], Any]) -> Figure:
    """R / (sigma K^(1-1/alpha) t^(1/alpha)): at most polylogarithmic growth is claimed."""
    there = [task for task in TASK_LABELS if any(key[1] == task for key in curves)]
    tails = sorted({key[2] for key in curves})
    figure, axes = panels(len(there), len(tails), width=3.0, height=2.0)
    for row, task in zip(axes, there, strict=True):
        for panel, alpha in zip(row, tails, strict=True):
            for method in MAIN:
                if (one := curves.get((method, task, alpha))) is None:
                    continue
                t = np.array(one["t"], float)
                rate = one["sigma"] * one["n_arms"] ** (1 - 1 / alpha) * t ** (1 / alpha)
                panel.plot(t, np.array(one["mean"]) / rate, **style(method))
            panel.set(xscale="log", yscale="linear" if task == "e4" else "log")
        row[0].set_ylabel(TASK_LABELS[task])
    for panel, alpha in zip(axes[0], tails, strict=True):
        panel.set_title(f"α = {alpha:g}")
    for panel in axes[-1]:
        panel.set_xlabel("round t")
    figure.suptitle(r"Pseudo-regret over $\sigma K^{1-1/\alpha} t^{1/\alpha}$")
    axes[0, -1].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
