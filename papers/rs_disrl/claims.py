"""The claims of RS-DisRL as functions of the rows and of the method that is judged.

A threshold is met when the whole 95 % interval lies on its right side (seeds are model draws).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from common.claims import (
    Claim,
    Judge,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    compare,
)
from papers.rs_disrl import reading
from papers.rs_disrl.baselines import DELTA
from papers.rs_disrl.methods import METHODS, OURS
from papers.rs_disrl.risk import LABELS
from papers.rs_disrl.task import TASKS

SLOPE_OF_ROOT, SLOPE_OF_LINE = 0.75, 0.9  # C4: 1/2 and a quarter for the logarithms; C5
EXACT_PLANNING = tuple(name for name, size in TASKS.items() if size.kind in ("finite", "tabular"))


def several(method: str, *names: str) -> tuple[str, ...]:
    """The estimators of a claim; another method in their place is judged alone."""
    return names if method == names[0] else (method,)


def in_short(parts: dict[str, Judgement]) -> Judgement:
    """``all_of`` with a text that names what does not hold, or what came closest to that."""

    def room(name: str) -> float:  # how far from its threshold, as a share
        e = parts[name].evidence
        worst = e.get("low" if e["above"] else "high", e["value"])
        distance = (worst - e["threshold"]) * (1 if e["above"] else -1)
        return distance / abs(e["threshold"] or e["value"] or 1.0)

    failing = [name for name, part in parts.items() if part.verdict != "reproduced"]
    worst, held = min(failing or parts, key=room), len(parts) - len(failing)
    text = f"{held} of {len(parts)} hold; not" if failing else f"all {held} hold, closest"
    more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
    return replace(all_of(parts), ours=f"{text} {worst}: {parts[worst].ours}{more}")


def history_matters(rows: Rows, method: str) -> Judgement:
    """The best policy of (s, y) beats the best of s alone, and is never worse."""
    if not (mine := METHODS[method].best):
        raise NoResults(f"{METHODS[method].label} actions are the best of no class")

    def gaps(task: str, risk: str) -> np.ndarray:
        return np.subtract(*(reading.known(rows, n, task, risk) for n in (mine, "markov")))

    example = gaps("two-step", "cvar50")
    tiny = np.concatenate([gaps("tiny", risk) for risk in ("cvar25", "cvar50")])
    parts = {
        "two-step": compare(float(example.min()), 1e-9),
        "random draws": compare(float(tiny.max()), 1e-9),
        "never worse": compare(float(tiny.min()), -1e-12),
    }
    text = f"two-step: gap {example[0]:.4f}; {np.sum(tiny > 1e-9)} of {len(tiny)} draws have one"
    return replace(all_of(parts), ours=text)


def covers(rows: Rows, method: str) -> Judgement:
    """Fraction of runs with the truth in the set in every episode, above 1 - delta."""
    parts = {}
    for name in several(method, *OURS):
        for kind, label in (("finite", "I1"), ("tabular", "I2")):
            if kind in METHODS[name].kinds:
                share, text = reading.coverage(rows, name, kind)
                parts[f"{METHODS[name].label} {label}"] = by_interval(share, 1 - DELTA, ours=text)
    return in_short(parts)


def optimistic(rows: Rows, method: str) -> Judgement:
    """Whenever the truth is in the set, the optimistic value is at least V*."""
    names = several(method, *OURS)
    inside, broken = (
        [reading.total(rows, metric, name, *EXACT_PLANNING) for name in names]
        for metric in ("in_set", "broken_optimism")
    )
    if METHODS[method].objective == "mean" or not all(inside):
        raise NoResults(f"{METHODS[method].label}: no set of values under the risk measure")
    return compare(sum(broken), 0.0, above=False, ours=f"{sum(broken):.0f} episodes below V*")


def grows_like_a_root(rows: Rows, method: str) -> Judgement:
    """Exponent of regret on I2."""
    parts = {}
    for name, task in product(several(method, "m_mle", "m_lsr"), ("i2", "i2-rare")):
        for risk in reading.risks(rows, name, task):
            slope = reading.exponent(reading.regret(rows, name, task, risk))
            cell = f"{METHODS[name].label} {reading.name_of(task, risk)}"
            parts[cell] = by_interval(slope, SLOPE_OF_ROOT, above=False)
    return in_short(parts)


def flattens(fraction: float, **cells: str) -> Judge:
    """Regret on I1 has stopped growing: R(K) <= 1.5 R(K/2) + 0.5; ``cells``: method = task."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for name in several(method, *cells):
            task = cells.get(name) or next(iter(cells.values()))
            for risk in reading.risks(rows, name, task):
                cell = f"{METHODS[name].label} {LABELS[risk]}"
                interval = reading.flattening(reading.regret(rows, name, task, risk), fraction)
                parts[cell] = by_interval(interval, 0.5, above=False)
        return in_short(parts)

    return judge


def beats_neutral(fraction: float, task: str, *names: str) -> Judge:
    """Risk-neutral optimism has linear risk-regret, and three times as much: CVaR 0.25."""

    def judge(rows: Rows, method: str) -> Judgement:
        slope = reading.exponent(reading.regret(rows, "neutral", task, "cvar25"))
        parts, ratios = {"risk-neutral exponent": by_interval(slope, SLOPE_OF_LINE)}, []
        neutral = reading.regret_after(rows, "neutral", task, "cvar25", fraction)
        for name in several(method, *names):
            ours = reading.regret_after(rows, name, task, "cvar25", fraction)
            if not ours.values().any():
                raise NoResults(f"no regret of {METHODS[name].label}")
            ratio, label = neutral.over(ours), METHODS[name].label
            parts[f"{label} ratio"] = by_interval(ratio, 3.0)
            parts[f"{label} difference"] = by_interval(neutral.minus(ours))
            ratios.append(f"{ratio} times {label}'s")
        return replace(all_of(parts), ours="; ".join(ratios))

    return judge


def mle_is_as_good(rows: Rows, method: str) -> Judgement:
    """No more regret than M-LSR on I1, at K/10 and at K, for each risk measure."""
    parts = {}
    for risk, fraction in product(reading.risks(rows, method, "i1"), (0.1, 1.0)):
        mle = reading.regret_after(rows, method, "i1", risk, fraction)
        lsr = reading.regret_after(rows, "m_lsr", "i1", risk, fraction)
        text = f"{mle.value():.3g} vs {lsr.value():.3g}"
        name = f"{LABELS[risk]}, K={mle.frame['step'].iloc[0]:.0f}"
        parts[name] = by_interval(lsr.minus(mle), ours=text)
    return in_short(parts)


FOUR = {"m_mle": "i1", "m_lsr": "i1", "v_mle": "i1-n32", "v_lsr": "i1-n32"}  # method, task
THEOREMS, NEUTRAL = "Theorems on RS-DisRL-M and -V", "Motivation of risk-sensitive RL"
FOR_RISK = "whoever plans for the risk measure meets it, without a confidence set as well"
FINITE = "a finite class is identified in the end, by every consistent learner that plans for risk"


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, *tasks: str, **more: Any
) -> Claim:
    """A claim at the scale that has the K of its statement; of M-MLE unless told otherwise."""
    more = {"method": "m_mle", "specific": "shared" not in more, "only": ("default",), **more}
    return Claim(name, statement, source, paper, judge, tasks=tasks, **more)


CLAIMS = [
    claim(
        "C1",
        "History matters for CVaR: policies of (s,y) beat the best of s alone in the two-step "
        "example and some random MDPs, never worse",
        *("Augmented MDP", "> 0", history_matters, "two-step", "tiny"),
        method="oracle",
    ),
    claim(
        "C2",
        "All four confidence sets keep the truth in every episode in at least 0.9 of the runs "
        "(valid widths; I1, I2)",
        *("Lemmas on M-Est and V-Est", "1 − δ", covers, "i1-n32"),
        **{"against": OURS[1:], "shared": "risk-neutral and Markov optimism use the same sets"},
    ),
    claim(
        "C3",
        "Optimism: in every episode in which the truth is in the set, the optimistic value is at "
        "least V* − 1e-9 (I1, I2)",
        *("Optimistic planning", "≥ V*", optimistic, "i1-n32"),
        against=OURS[1:],
        shared="whoever plays the best of a set that holds the truth meets it",
    ),
    claim(
        "C4",
        "M-MLE and M-LSR over all tabular models (I2, K=50,000, 40 seeds): regret's exponent over "
        "the last decade is at most 0.75",
        *(THEOREMS, "0.5 (√K)", grows_like_a_root, "i2", "i2-rare"),
        **{"against": ("m_lsr",), "headline": True},
    ),
    claim(
        "C4b",
        "On the finite class I1 regret of all four has stopped growing by K=2,000 (20 seeds): "
        "R(K) ≤ 1.5 R(K/2) + 0.5",
        *(THEOREMS, "√K", flattens(0.1, **FOUR), "i1", "i1-n32"),
        shared=FINITE,
    ),
    claim(
        *("C4c", "The same by K=20,000", THEOREMS, "√K", flattens(1.0, **FOUR), "i1", "i1-n32"),
        shared=FINITE,
    ),
    claim(
        *("C4d", "The same for V-LSR by K=200,000", THEOREMS, "√K"),
        *(flattens(1.0, v_lsr="i1-n32-long"), "i1-n32-long"),
        **{"method": "v_lsr", "shared": FINITE},
    ),
    claim(
        "C5",
        "Risk-neutral learning has linear risk-regret, 3 times that of M-MLE and M-LSR: I1, CVaR "
        "0.25, K=2,000, 20 seeds",
        *(NEUTRAL, "Ω(K)", beats_neutral(0.1, "i1", "m_mle", "m_lsr"), "i1"),
        **{"against": ("neutral", "m_lsr"), "shared": FOR_RISK},
    ),
    claim(
        *("C5b", "The same at K=20,000", NEUTRAL, "Ω(K)"),
        *(beats_neutral(1.0, "i1", "m_mle", "m_lsr"), "i1"),
        **{"against": ("neutral", "m_lsr"), "shared": FOR_RISK},
    ),
    claim(
        *("C5c", "The same at K=20,000 for V-MLE and V-LSR (N=32)", NEUTRAL, "Ω(K)"),
        *(beats_neutral(1.0, "i1-n32", "v_mle", "v_lsr"), "i1-n32"),
        **{"method": "v_mle", "against": ("neutral", "v_lsr"), "shared": FOR_RISK},
    ),
    claim(
        "C6",
        "Likelihood is at least as sample-efficient as least squares: regret of M-MLE at most "
        "M-LSR's (I1, K=2,000 and 20,000, 20 seeds)",
        *("Comparison of the estimators", "MLE ≤ LSR", mle_is_as_good, "i1"),
        against=("m_lsr",),
        shared="greedy, risk-neutral and Markov learners use the likelihood, too",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
