"""The claims of RS-DisRL as functions of the rows, and what its README shows.

A threshold is met when the whole 95 % interval lies on its right side: bootstrap over seeds (each
a model draw of its own), Clopper and Pearson's for fractions of runs. The paper has no experiments:
its rates are compared as exponents.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
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
from common.plotting import colours, dashes, panels
from common.stats import Interval, loglog_slope, mean_ci, paired_diff, ratio_of_means
from papers.rs_disrl.augmented import law
from papers.rs_disrl.baselines import DELTA, METHODS
from papers.rs_disrl.eval import LIVE_AT
from papers.rs_disrl.risk import LABELS, cvar_mixture, grid, rho
from papers.rs_disrl.task import two_step

TASK_LABELS = {
    "i1": "I1",
    "i1-n32": "I1 N=32",
    "i1-n32-long": "I1 N=32 long",
    "i1-n20": "I1 N=20",
    "i2": "I2",
    "i2-rare": "I2 crisis",
    "i2-large": "I2 large",
    "i3": "I3",
    "tiny": "40 tiny draws",
    "two-step": "two-step",
}
OURS = ("m_mle", "m_lsr", "v_mle", "v_lsr")
DRAWN = (*OURS, "m_mle_tuned", "m_lsr_tuned", "neutral", "greedy", "markov", "markov_known")
SLOPE_OF_ROOT = 0.75  # C4, I2: 1/2 and a quarter for the logarithms
SLOPE_OF_LINE = 0.9  # C5


# -- reading the rows ---------------------------------------------------------------------------


def regret_curves(rows: pd.DataFrame, method: str, task: str, risk: str) -> pd.DataFrame:
    """Regret of a method in a cell: one line per seed, one column per episode."""
    of = (rows.metric == "regret") & (rows.method == method) & (rows.task == task)
    cell = rows[of & (rows.risk == risk)]
    if cell.seed.nunique() < 2:
        raise NoResults(f"no two seeds of {METHODS[method].label} on {cell_name(task, risk)}")
    return cell.pivot(index="seed", columns="step", values="value").sort_index()


def at(curves: pd.DataFrame, fraction: float = 1.0) -> np.ndarray:
    """Regret [n_seeds] after a fraction of the episodes."""
    wanted = max(1.0, round(curves.columns[-1] * fraction))
    return curves[wanted].to_numpy(float)


def slope(curves: pd.DataFrame) -> Interval:
    """Growth exponent over the last decade."""
    return loglog_slope(curves.columns.to_numpy(float), curves.to_numpy(float))


def paired(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The seeds that both have."""
    both = a.index.intersection(b.index)
    return a.loc[both], b.loc[both]


def total(rows: pd.DataFrame, metric: str, method: str, task: str) -> float:
    """Sum of a count over the risk measures and jobs of a cell."""
    of = (rows.metric == metric) & (rows.method == method) & (rows.task == task)
    if not of.any():
        raise NoResults(f"no {metric} of {METHODS[method].label} on {TASK_LABELS[task]}")
    return float(rows[of].value.sum())


def known(rows: pd.DataFrame, name: str, task: str, risk: str) -> np.ndarray:
    """A known value (optimal | neutral | markov) of a task for each seed, in their order."""
    of = (rows.metric == f"value_{name}") & (rows.task == task) & (rows.risk == risk)
    if not of.any():
        raise NoResults(f"no {name} value of {cell_name(task, risk)}")
    return rows[of].sort_values("step").value.to_numpy(float)


def present(rows: pd.DataFrame, column: str, labels: Mapping[str, str]) -> list[str]:
    """The values of a column, in the order of their labels."""
    there = set(rows[column])
    return [name for name in labels if name in there]


def learned_risks(rows: pd.DataFrame, method: str, task: str) -> list[str]:
    """The risk measures for which a method has curves on a task."""
    of = (rows.metric == "regret") & (rows.method == method) & (rows.task == task)
    found = present(rows[of], "risk", LABELS)
    if not found:
        raise NoResults(f"no runs of {METHODS[method].label} on {TASK_LABELS[task]}")
    return found


def cell_name(task: str, risk: str) -> str:
    """A cell's name in the evidence."""
    return f"{TASK_LABELS[task]}, {LABELS[risk]}"


# -- claims -------------------------------------------------------------------------------------


def room(part: Judgement) -> float:
    """How far a part stays from its threshold, as a share of it (or of the value)."""
    e = part.evidence
    worst = e.get("low" if e["above"] else "high", e["value"])
    distance = (worst - e["threshold"]) * (1 if e["above"] else -1)
    return distance / abs(e["threshold"] or e["value"] or 1.0)


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


def c1(rows: pd.DataFrame) -> Judgement:
    """The best augmented policy beats the best Markov-in-s policy, and is never worse."""
    example = known(rows, "optimal", "two-step", "cvar50") - known(
        rows, "markov", "two-step", "cvar50"
    )
    parts = {"two-step, α=0.5": compare(float(example.min()), 1e-9, ours=f"gap {example[0]:.4f}")}
    gaps = np.concatenate(
        [
            known(rows, "optimal", "tiny", risk) - known(rows, "markov", "tiny", risk)
            for risk in ("cvar25", "cvar50")
        ]
    )
    some = f"{np.sum(gaps > 1e-9)} of {len(gaps)} have one, at most {gaps.max():.4f}"
    parts["tiny draws, a gap"] = compare(float(gaps.max()), 1e-9, ours=some)
    least = f"least {gaps.min():.1e}"
    parts["tiny draws, never worse"] = compare(float(gaps.min()), -1e-12, ours=least)
    return dataclasses.replace(
        all_of(parts), ours="; ".join(f"{name}: {part.ours}" for name, part in parts.items())
    )


def coverage(rows: pd.DataFrame, method: str, tasks: tuple[str, ...]) -> Judgement:
    """Fraction of runs with the truth in the set in every episode, above 1 - delta."""
    n = sum(round(total(rows, "runs", method, task)) for task in tasks)
    held = sum(round(total(rows, "runs_in_set", method, task)) for task in tasks)
    ci = scipy.stats.binomtest(held, n).proportion_ci(method="exact")
    interval = Interval(held / n, float(ci.low), float(ci.high), n)
    return by_interval(interval, 1 - DELTA, ours=f"{held} of {n} runs")


def c2(rows: pd.DataFrame) -> Judgement:
    """Valid widths keep the truth."""
    cells = {
        "I1 M-MLE": ("m_mle", ("i1", "i1-n32")),
        "I1 M-LSR": ("m_lsr", ("i1", "i1-n32")),
        "I1 V-MLE": ("v_mle", ("i1-n32",)),
        "I1 V-LSR": ("v_lsr", ("i1-n32", "i1-n32-long")),
        "I2 M-MLE": ("m_mle", ("i2", "i2-rare")),
        "I2 M-LSR": ("m_lsr", ("i2", "i2-rare")),
    }
    return in_short({name: coverage(rows, *cell) for name, cell in cells.items()})


def c3(rows: pd.DataFrame) -> Judgement:
    """Whenever the truth is in the set, the optimistic value is at least V*."""
    broken, cells = 0.0, 0
    for task in present(rows, "task", TASK_LABELS):
        for method in (*OURS, "m_mle_tuned", "m_lsr_tuned", "v_lsr_width"):
            of = (rows.method == method) & (rows.task == task) & (rows.metric == "broken_optimism")
            if task != "i3" and of.any():
                broken += rows[of].value.sum()
                cells += 1
    if not cells:
        raise NoResults("no runs of I1 or I2")
    text = f"{broken:.0f} episodes below V* with the truth in the set, in {cells} cells"
    return compare(broken, 0.0, above=False, ours=text)


def flattening(curves: pd.DataFrame, end: float = 1.0) -> Interval:
    """R(K) - 1.5 R(K/2), K a fraction ``end`` of all episodes."""
    return mean_ci(at(curves, end) - 1.5 * at(curves, end / 2))


def c4(rows: pd.DataFrame) -> Judgement:
    """Sublinear regret of all four estimators."""
    parts = {}
    places = {"m_mle": "i1", "m_lsr": "i1", "v_mle": "i1-n32", "v_lsr": "i1-n32-long"}
    for method, task in places.items():
        for risk in learned_risks(rows, method, task):
            interval = flattening(regret_curves(rows, method, task, risk))
            name = f"{METHODS[method].label} {cell_name(task, risk)}"
            parts[name] = by_interval(interval, 0.5, above=False)
    for method in ("m_mle", "m_lsr"):
        for task in ("i2", "i2-rare"):
            for risk in learned_risks(rows, method, task):
                interval = slope(regret_curves(rows, method, task, risk))
                name = f"{METHODS[method].label} {cell_name(task, risk)}"
                parts[name] = by_interval(interval, SLOPE_OF_ROOT, above=False)
    return in_short(parts)


def c5(rows: pd.DataFrame) -> Judgement:
    """Risk-neutral optimism has linear risk-regret: CVaR 0.25, I1, at K/10 and at K."""
    neutral = regret_curves(rows, "neutral", "i1", "cvar25")
    parts = {"slope": by_interval(slope(neutral), SLOPE_OF_LINE)}
    for method in ("m_mle", "m_lsr"):
        ours, theirs = paired(regret_curves(rows, method, "i1", "cvar25"), neutral)
        for end in (0.1, 1.0):
            name = f"{METHODS[method].label} at K={ours.columns[-1] * end:.0f}"
            ratio = ratio_of_means(at(theirs, end), at(ours, end), paired=True)
            parts[f"{name}, ratio"] = by_interval(ratio, 3.0)
            parts[f"{name}, difference"] = by_interval(paired_diff(at(theirs, end), at(ours, end)))
    note = []
    for method in ("v_mle", "v_lsr"):
        ours, theirs = paired(
            regret_curves(rows, method, "i1-n32", "cvar25"),
            regret_curves(rows, "neutral", "i1-n32", "cvar25"),
        )
        note.append(f"{METHODS[method].label} {at(theirs).mean() / at(ours).mean():.1f}")
    return in_short(parts, f"; ratio for V, not judged: {', '.join(note)}")


def c6(rows: pd.DataFrame) -> Judgement:
    """M-MLE has no more regret than M-LSR on I1, at K/10 and at K."""
    parts = {}
    for risk in learned_risks(rows, "m_lsr", "i1"):
        mle, lsr = paired(
            *(regret_curves(rows, method, "i1", risk) for method in ("m_mle", "m_lsr"))
        )
        for end in (0.1, 1.0):
            difference = paired_diff(at(lsr, end), at(mle, end))
            means = f"{at(mle, end).mean():.3g} against {at(lsr, end).mean():.3g}"
            name = f"{LABELS[risk]} at K={mle.columns[-1] * end:.0f}"
            parts[name] = by_interval(difference, ours=f"{means}, difference {difference}")
    return in_short(parts)


SCALES = ("default",)
CLAIMS = [
    Claim(
        "C1",
        "History matters: the best augmented policy beats the best policy of s alone for CVaR, in "
        "the two-step example at α = 0.5 and in at least one of 40 random MDPs, and is never worse",
        "Augmented MDP",
        "policies of (s, y) are optimal, policies of s are not",
        SCALES,
        c1,
    ),
    Claim(
        "C2",
        "Confidence sets are valid: the truth is in the set in every episode in at least 1 − δ = "
        "0.9 of the runs (valid widths; I2 at scale 1)",
        "Lemmas on M-Est and V-Est",
        "probability ≥ 1 − δ",
        SCALES,
        c2,
    ),
    Claim(
        "C3",
        "Optimism: in every episode in which the truth is in the set, the optimistic value is at "
        "least V* − 1e-9 (I1, I2)",
        "Optimistic planning",
        "ρ(Z^k) ≥ V*",
        SCALES,
        c3,
    ),
    Claim(
        "C4",
        "Sublinear regret of all four estimators: on I1 R(K) − R(K/2) ≤ R(K/2)/2 + 1/2; on I2 the "
        "exponent over the last decade is at most 0.75",
        "Theorems on RS-DisRL-M and -V",
        "Õ(√K)",
        SCALES,
        c4,
    ),
    Claim(
        "C5",
        "Risk-neutral learning has linear risk-regret: on I1 with CVaR 0.25 its exponent is at "
        "least 0.9 and its regret at least 3 times that of M-MLE and of M-LSR",
        "Motivation of risk-sensitive RL",
        "Ω(K)",
        SCALES,
        c5,
    ),
    Claim(
        "C6",
        "Maximum likelihood is at least as sample-efficient as least squares: on I1 the mean "
        "regret of M-MLE is at most M-LSR's",
        "Comparison of the estimators",
        "MLE ≤ LSR",
        SCALES,
        c6,
    ),
]


# -- what the README shows ------------------------------------------------------------------------


def cell(compute: Callable[[], Any]) -> str:
    """A table's cell, or a dash where nothing was run or nothing can be fitted."""
    try:
        return str(compute())
    except (NoResults, ValueError, KeyError):
        return "—"


def regret_table(rows: pd.DataFrame, task: str) -> Table:
    """Regret at K: methods × risk measures."""
    of = rows[(rows.task == task) & (rows.metric == "regret")]
    risks = present(of, "risk", LABELS)
    body = []
    for method in METHODS:
        if method in set(of.method) and method != "oracle":
            cells = [
                cell(lambda m=method, r=risk: mean_ci(at(regret_curves(rows, m, task, r))))
                for risk in risks
            ]
            body.append([METHODS[method].label, *cells])
    title = f"Risk-regret at K = {of.step.max():,.0f}, {TASK_LABELS[task]} († knows the model)"
    return Table(title, ["", *(LABELS[risk] for risk in risks)], body)


def live_table(rows: pd.DataFrame) -> Table:
    """Size of the live set, mean over seeds, CVaR 0.25."""
    body = []
    sizes = rows[(rows.metric == "live") & (rows.risk == "cvar25")]
    for task in ("i1", "i1-n32"):
        for method in ("m_mle", "m_lsr", "m_lsr_tuned", "v_mle", "v_lsr", "v_lsr_width"):
            of = sizes[(sizes.task == task) & (sizes.method == method)]
            if len(of):
                mean = of.groupby("step").value.mean()
                shown = [f"{mean[k]:.1f}" if k in mean.index else "—" for k in LIVE_AT]
                shown.append(f"{mean.iloc[-1]:.1f}")
                body.append([f"{METHODS[method].label}, {TASK_LABELS[task]}", *shown])
    columns = ["of N models, or N² candidates (V)", *(f"k = {k}" for k in LIVE_AT), "k = K"]
    return Table("Live models before episode k, CVaR 0.25", columns, body)


def values_table(rows: pd.DataFrame) -> Table:
    """Known values of the drawn models, with L_inf and the number of rejected draws."""
    body = []
    for task in present(rows, "task", TASK_LABELS):
        for risk in present(rows[rows.task == task], "risk", LABELS):
            three = [
                cell(lambda n=name, t=task, r=risk: f"{known(rows, n, t, r).mean():.4f}")
                for name in ("optimal", "neutral", "markov")
            ]
            of = rows[(rows.task == task) & (rows.risk == risk) & (rows.method == "oracle")]
            facts = of.groupby("metric").value.mean()
            if len(facts):
                shown = [f"{facts['lipschitz']:.4g}", f"{facts['rejected']:.1f}"]
                body.append([cell_name(task, risk), *three, *shown])
    columns = ["mean over draws", "V*", "risk-neutral optimum", "best Markov in s", "L∞"]
    return Table("What is lost without risk and without y", [*columns, "draws rejected"], body)


def growth_table(rows: pd.DataFrame) -> Table:
    """Proved rate and fitted exponents."""
    body = []
    for task in present(rows, "task", TASK_LABELS):
        for risk in ("cvar25", "entropic_m1"):
            for method in (*OURS, "m_mle_tuned", "m_lsr_tuned", "neutral", "greedy"):
                if task in ("i2", "i2-rare", "i2-large", "i3") or method == "neutral":
                    fit = cell(lambda m=method, t=task, r=risk: slope(regret_curves(rows, m, t, r)))
                    if fit != "—":
                        proved = "1/2" if method in OURS else "none"
                        body.append(
                            [f"{METHODS[method].label}, {cell_name(task, risk)}", proved, fit]
                        )
    columns = ["", "paper (proved)", "fitted exponent, last decade"]
    return Table("Growth of the regret", columns, body)


def coverage_table(rows: pd.DataFrame) -> Table:
    """Coverage and optimism, tuned and approximate ones as well."""
    body = []
    for task in present(rows, "task", TASK_LABELS):
        for method in (*OURS, "v_lsr_width", "m_mle_tuned", "m_lsr_tuned"):
            of = rows[(rows.task == task) & (rows.method == method)]
            if len(of):
                mean = of.groupby("metric").value.mean()
                runs = f"{total(rows, 'runs_in_set', method, task):.0f} of "
                runs += f"{total(rows, 'runs', method, task):.0f}"
                shares = [f"{mean['in_set']:.4f}", f"{mean['optimistic']:.4f}"]
                body.append([f"{METHODS[method].label}, {TASK_LABELS[task]}", runs, *shares])
    columns = ["", "runs with the truth always in the set", "share of episodes", "optimistic"]
    return Table("Coverage and optimism, all risk measures", columns, body)


def tables(rows: pd.DataFrame) -> list[Table]:
    """Regret for each task, live sets, known values, growth, coverage."""
    learned = rows[(rows.metric == "regret") & ~rows.method.isin(["oracle", "markov_known"])]
    regret = [regret_table(rows, task) for task in present(learned, "task", TASK_LABELS)]
    rest = [live_table(rows), values_table(rows), growth_table(rows), coverage_table(rows)]
    return [table for table in (*regret, *rest) if table.rows]


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
    live = (n * np.array([curve["live"] for curve in several])).sum(0) / n.sum()
    return {**several[0], "n": int(n.sum()), "live": live.tolist()} | {
        "mean": centre.tolist(),
        "low": (centre - below).tolist(),
        "high": (centre + above).tolist(),
    }


def style(method: str) -> dict[str, Any]:
    """Colour, dash and weight of a method's curve."""
    others = [name for name in DRAWN if name != "m_mle"]
    return {
        "color": colours(["m_mle", *others], "m_mle")[method],
        "linestyle": dashes(DRAWN)[method],
        "linewidth": 2.0 if method in OURS else 1.1,
        "label": METHODS[method].label,
    }


Curves = dict[tuple[str, str, str], dict[str, Any]]


def figures(rows: pd.DataFrame, extras: list[dict[str, Any]]) -> dict[str, Figure]:
    """Regret, regret over its rate, size of the set, values, and the two-step example."""
    parts: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for extra in extras:
        if extra["name"] == "curves" and extra["method"] in DRAWN:
            for curve in extra["data"]:
                key = (extra["method"], extra["task"], curve["risk"])
                parts.setdefault(key, []).append(curve)
    curves = {key: pooled(several) for key, several in parts.items()}
    drawn = {"values": draw_values(rows), "two_step": draw_two_step()}
    learned = [task for task in TASK_LABELS if any(k[1] == task and k[0] in OURS for k in curves)]
    if learned:
        drawn |= {
            "regret": draw_regret(curves, rows, learned),
            "normalised": draw_normalised(curves, learned),
            "live": draw_live(curves),
        }
    return drawn


def draw_regret(curves: Curves, rows: pd.DataFrame, tasks: list[str]) -> Figure:
    """A row per task, a column per risk: log R against log k with bands and fitted exponents."""
    risks = [risk for risk in ("cvar25", "entropic_m1") if any(k[2] == risk for k in curves)]
    figure, axes = panels(len(tasks), len(risks), width=4.6, height=2.8)
    for row, task in zip(axes, tasks, strict=True):
        for panel, risk in zip(row, risks, strict=True):
            for method in DRAWN:
                if (one := curves.get((method, task, risk))) is None:
                    continue
                k, mean, low = (np.array(one[name], float) for name in ("k", "mean", "low"))
                if not (mean > 1e-6).any():
                    continue
                fit = cell(lambda m=method, t=task, r=risk: slope(regret_curves(rows, m, t, r)))
                look = style(method)
                if fit != "—":
                    look["label"] += f" ({float(fit.split()[0]):.2f})"
                panel.plot(k, np.where(mean > 1e-6, mean, np.nan), **look)
                panel.fill_between(
                    k, np.maximum(low, 1e-6), one["high"], color=look["color"], alpha=0.15, lw=0
                )
            panel.set(xscale="log", yscale="log", title=cell_name(task, risk))
            panel.set_ylim(bottom=max(panel.get_ylim()[0], 1e-2))
            panel.legend(fontsize=6)
        row[0].set_ylabel("risk-regret (fitted exponent)")
    for panel in axes[-1]:
        panel.set_xlabel("episode k")
    return figure


def draw_normalised(curves: Curves, tasks: list[str]) -> Figure:
    """R / (L_inf sqrt(k)) for all risk measures: the theory says bounded up to logarithms."""
    figure, axes = panels(len(tasks), len(OURS), width=2.8, height=2.2)
    look = colours(list(LABELS))
    for row, task in zip(axes, tasks, strict=True):
        for panel, method in zip(row, OURS, strict=True):
            for risk in LABELS:
                if (one := curves.get((method, task, risk))) is not None:
                    k = np.array(one["k"], float)
                    normal = np.array(one["mean"]) / (one["lipschitz"] * np.sqrt(k))
                    panel.plot(k, normal, color=look[risk], label=LABELS[risk])
            panel.set(xscale="log", title=f"{METHODS[method].label}, {TASK_LABELS[task]}")
            if panel.lines:
                panel.legend(fontsize=6)
            else:
                panel.set_visible(False)
        row[0].set_ylabel(r"regret / $(L_\infty \sqrt{k})$")
    return figure


def draw_live(curves: Curves) -> Figure:
    """Share of live models (M) or candidates (V), CVaR 0.25."""
    figure, axes = panels(1, 2, width=4.2, height=2.8)
    for panel, task in zip(axes[0], ("i1", "i1-n32"), strict=True):
        for method in (*OURS, "m_lsr_tuned"):
            if (one := curves.get((method, task, "cvar25"))) is not None:
                live = np.array(one["live"])
                panel.plot(one["k"], live / max(live.max(), 1.0), **style(method))
        panel.set(xscale="log", yscale="log", title=TASK_LABELS[task], xlabel="episode k")
        if panel.lines:
            panel.legend(fontsize=7)
    axes[0, 0].set_ylabel("live share of the class, CVaR 0.25")
    return figure


def draw_values(rows: pd.DataFrame) -> Figure:
    """Loss against V* of the risk-neutral and of the best Markov-in-s policy, per risk measure."""
    tasks = [
        task
        for task in TASK_LABELS
        if ((rows.task == task) & (rows.metric == "value_neutral")).any()
    ]
    figure, axes = panels(1, max(len(tasks), 1), width=2.6, height=2.8)
    for panel, task in zip(axes[0], tasks, strict=False):
        risks = present(
            rows[(rows.task == task) & (rows.metric == "value_optimal")], "risk", LABELS
        )
        for offset, (name, colour, label) in enumerate(
            (("neutral", "#0072B2", "risk-neutral optimum"), ("markov", "#E69F00", "Markov in s"))
        ):
            loss = []
            for risk in risks:
                best = known(rows, "optimal", task, risk)
                try:
                    loss.append(float((best - known(rows, name, task, risk)).mean()))
                except NoResults:
                    loss.append(math.nan)
            where = np.arange(len(risks)) + 0.4 * offset
            panel.bar(where, loss, width=0.4, color=colour, label=label)
        panel.set_xticks(np.arange(len(risks)) + 0.2, [LABELS[r] for r in risks], rotation=60)
        panel.set_title(TASK_LABELS[task])
    axes[0, 0].set_ylabel("V* − value of the policy")
    axes[0, 0].legend(fontsize=6)
    return figure


def draw_two_step() -> Figure:
    """CVaR_alpha of the four policies of the two-step example."""
    q, y = two_step(), grid(2, 3)
    levels = np.linspace(0.02, 0.998, 80)
    figure, axes = panels(1, 1, width=4.2, height=2.8)
    names = {
        (0, 0): "safe always (Markov)",
        (1, 1): "risky always (Markov)",
        (0, 1): "safe after 0, risky after 2/3",
        (1, 0): "risky after 0, safe after 2/3",
    }
    look = colours(list(names.values()), names[1, 0])
    for (after_bad, after_good), name in names.items():
        policy = np.zeros((2, 1, len(y)), np.int64)
        policy[1, 0, 0], policy[1, 0, 2] = after_bad, after_good
        pmf = law(q, policy, 0)
        curve = [rho(pmf, cvar_mixture(((level, 1.0),), y)) for level in levels]
        axes[0, 0].plot(levels, curve, color=look[name], label=name)
    axes[0, 0].set(xlabel="α", ylabel="CVaR_α of the return", title="two-step example")
    axes[0, 0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    claims_cli(CLAIMS, tables, figures)
