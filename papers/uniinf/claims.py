"""The claims of uniINF as functions of the rows and of the method judged.

A threshold is met when the whole 95 % interval over seeds lies on its right side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from common.claims import Claim, Judgement, Rows, all_of, by_interval, claims_cli
from common.stats import paired_diff
from papers.uniinf.methods import METHODS
from papers.uniinf.regret import (
    alphas,
    curves,
    exponent,
    final,
    growth_against_log,
    name_of,
    over,
)

STOCHASTIC = ("e1", "e1-k10", "e3-s1")
MISTOLD = tuple(name for name, method in METHODS.items() if method.mistold)
SLOPE_OF_LOG = 0.35  # C1: a logarithm has local exponent 1/ln t = 0.07–0.09 in [1e5, 1e6]
GROWTH_OF_LOG = 2.0  # C1
SLACK_OF_POWER = 0.08  # C2: added to 1/alpha
TIMES_KNOWN = 3.0  # C3
TIMES_SKIPPING, SLOPE_UNSKIPPED = 10.0, 0.7  # C4a, C4b
TIMES_MISTOLD = 2.0  # C6
LOSS_SCALES = (1, 20, 100)  # of E3
RATIO_OF_LOGS = math.log(100) / math.log(20)  # C7


def room(part: Judgement) -> float:
    """How far the interval stays from the threshold, as a share of the threshold (or the value)."""
    e = part.evidence
    distance = e["low"] - e["threshold"] if e["above"] else e["threshold"] - e["high"]
    return float(distance / (e["threshold"] or e["value"]))


def closest(parts: Mapping[str, Judgement], note: str = "") -> Judgement:
    """``all_of``; where all parts hold it names what came closest to failing."""
    whole = all_of(parts, note, spell_out=0)
    if all(part.verdict == "reproduced" for part in parts.values()):
        name = min(parts, key=lambda n: room(parts[n]))
        text = f"all {len(parts)} hold; closest {name}: {parts[name].ours}"
        return dataclasses.replace(whole, ours="; ".join(filter(None, [text, note])))
    return whole


def c1(rows: Rows, method: str) -> Judgement:
    """Logarithmic regret in the stochastic environments."""
    parts = {}
    for task in STOCHASTIC:
        for alpha in alphas(rows):
            t, regret = curves(rows, method, task, alpha)
            slope, growth = exponent(t, regret), growth_against_log(t, regret)
            cell = name_of(task, alpha)
            parts[f"{cell} slope"] = by_interval(slope, SLOPE_OF_LOG, above=False)
            parts[f"{cell} growth"] = by_interval(growth, GROWTH_OF_LOG, above=False)
    return closest(parts)


def c2(rows: Rows, method: str) -> Judgement:
    """Growth no faster than T^(1/alpha) in the adversarial environment."""
    parts = {}
    for alpha in alphas(rows):
        slope = exponent(*curves(rows, method, "e2", alpha))
        parts[name_of("e2", alpha)] = by_interval(slope, 1 / alpha + SLACK_OF_POWER, above=False)
    return closest(parts)


def c3(rows: Rows, method: str) -> Judgement:
    """At most three times the regret of HTINF that knows sigma and alpha."""
    parts = {}
    for task in ("e1", "e2", "e3-s1"):
        for alpha in alphas(rows):
            ratio = over(final(rows, method, task, alpha), final(rows, "htinf", task, alpha))
            parts[name_of(task, alpha)] = by_interval(ratio, TIMES_KNOWN, above=False)
    return closest(parts)


def c4a(rows: Rows, method: str) -> Judgement:
    """Without skipping, mean regret is tenfold; the medians stand beside."""
    parts, medians = {}, []
    for alpha in alphas(rows):
        without, ours = (final(rows, m, "e3-s1", alpha) for m in ("tsallis_inf", method))
        medians.append(f"{np.median(without) / np.median(ours):.3g}")
        parts[f"α={alpha:g}"] = by_interval(over(without, ours), TIMES_SKIPPING)
    return all_of(parts, f"medians {' / '.join(medians)}", spell_out=3)


def c4b(rows: Rows, method: str) -> Judgement:
    """The mean regret of a method that does not skip grows nearly linearly."""
    parts = {
        f"α={alpha:g}": by_interval(
            exponent(*curves(rows, method, "e3-s1", alpha)), SLOPE_UNSKIPPED
        )
        for alpha in alphas(rows)
    }
    return all_of(parts, spell_out=3)


def c5(rows: Rows, method: str) -> Judgement:
    """At a hundred times the scale, less regret than the algorithm that assumes sigma = 1."""
    parts = {}
    for alpha in alphas(rows):
        ours, blind = (final(rows, m, "e3-s100", alpha) / 100 for m in (method, "opttinf"))
        means = f"{ours.mean():.3g} against {blind.mean():.3g}"
        parts[f"α={alpha:g}"] = by_interval(paired_diff(blind, ours), ours=means)
    return all_of(parts, spell_out=3)


def c6(rows: Rows, method: str) -> Judgement:
    """One wrong parameter costs HTINF twice the regret of the method or more."""
    parts = {}
    for alpha in alphas(rows):
        ours = final(rows, method, "e1", alpha)
        told = {m: final(rows, m, "e1", alpha) for m in MISTOLD}
        worst = max(told, key=lambda m: told[m].mean())
        ratio = over(told[worst], ours)
        text = f"{ratio} with {METHODS.label(worst)}"
        parts[f"α={alpha:g}"] = by_interval(ratio, TIMES_MISTOLD, ours=text, worst=worst)
    return closest(parts)


def c7(rows: Rows, method: str) -> Judgement:
    """Regret in units of the scale grows no faster than the logarithm of the scale."""
    parts, shown = {}, []
    for alpha in alphas(rows):
        units = [final(rows, method, f"e3-s{scale}", alpha) / scale for scale in LOSS_SCALES]
        ratio = over(units[-1], units[-2])
        parts[f"α={alpha:g}"] = by_interval(ratio, RATIO_OF_LOGS, above=False)
        shown.append("/".join(f"{x.mean():.3g}" for x in units))
    return all_of(parts, f"R/scale {'; '.join(shown)}", spell_out=3)


def c0(rows: Rows, method: str) -> Judgement:
    """Logarithmic, below the adversarial rate, and adapted to the scale, all at once."""
    parts = {"C1": c1(rows, method), "C2": c2(rows, method), "C7": c7(rows, method)}
    whole = all_of(parts, spell_out=0)
    held = [name for name, part in parts.items() if part.verdict == "reproduced"]
    text = "all three hold" if len(held) == 3 else f"only {', '.join(held) or 'none'} of the three"
    return dataclasses.replace(whole, ours=text)


CLAIMS = [
    Claim(
        "C0",
        "One algorithm, told neither σ, α nor the kind of world, meets C1, C2 and C7 at once "
        "(T = 10⁶, 20 seeds)",
        "Main theorem: best of both worlds, parameter-free",
        "both rates, without parameters",
        c0,
        method="uniinf",
        tasks=(*STOCHASTIC, "e2", *(f"e3-s{s}" for s in LOSS_SCALES[1:])),
        headline=True,
    ),
    Claim(
        "C1",
        "In E1 (K = 4, 10) and E3, T = 10⁶, regret is logarithmic: exponent ≤ 0.35, R/log T at "
        "most doubles in a decade",
        "Theorem, stochastic case",
        "O(K (σ^α/Δ)^{1/(α−1)} log T · log(σ^α/Δ))",
        c1,
        method="uniinf",
        tasks=STOCHASTIC,
    ),
    Claim(
        "C2",
        "In E2 (adversarial, fixed gap 0.2, T = 10⁶) regret grows no faster than the bound: "
        "exponent over the last decade ≤ 1/α + 0.08",
        "Theorem, adversarial case",
        "O(σ K^{1−1/α} T^{1/α} polylog)",
        c2,
        method="uniinf",
        tasks=("e2",),
    ),
    Claim(
        "C3",
        "Not knowing the parameters costs only logs: regret at T = 10⁶ in E1, E2, E3 is at most "
        "3 times HTINF†'s",
        "Table of results: HTINF's rates up to logs",
        "equal up to logs",
        c3,
        method="uniinf",
        tasks=("e1", "e2", "e3-s1"),
        against=("htinf",),
    ),
    Claim(
        "C4a",
        "Without skipping, Tsallis-INF has at least 10 times uniINF's mean regret in E3 "
        "(T = 10⁶, 100 seeds)",
        "Skipping-clipping technique",
        "no bound without skipping",
        c4a,
        method="uniinf",
        tasks=("e3-s1",),
        against=("tsallis_inf",),
        specific=False,
        shared="OptTINF, HTINF and AdaTINF skip as well",
        only=("study",),
    ),
    Claim(
        "C4b",
        "Without skipping, Tsallis-INF's mean regret in E3 grows with exponent 0.7 or more "
        "(T = 10⁶, 100 seeds)",
        "Skipping-clipping technique",
        "no bound without skipping",
        c4b,
        method="tsallis_inf",
        tasks=("e3-s1",),
        specific=False,
        shared="it is about a method without skipping",
        only=("study",),
    ),
    Claim(
        "C5",
        "It adapts to the scale: in E3 ×100 (T = 10⁶) its regret is below OptTINF's, which "
        "assumes σ = 1",
        "Parameter-free in σ",
        "log σ against powers of σ",
        c5,
        method="uniinf",
        tasks=("e3-s100",),
        against=("opttinf",),
    ),
    Claim(
        "C7",
        "R/scale grows no faster than log(scale) in E3: from ×20 to ×100 by less than "
        "log 100 / log 20 = 1.54 (T = 10⁶)",
        "Theorem, factor log σ",
        "log σ",
        c7,
        method="uniinf",
        tasks=tuple(f"e3-s{s}" for s in LOSS_SCALES),
    ),
    Claim(
        "C6",
        "The worst of three wrong values (σ/10, 10σ, α = 2) gives HTINF at least twice uniINF's "
        "regret in E1",
        "Motivation of parameter-freeness",
        "guarantee holds for the true (σ, α) only",
        c6,
        method="uniinf",
        tasks=("e1",),
        against=MISTOLD,
        specific=False,
        shared="whoever is told nothing, or the truth, is not hurt by a wrong value",
    ),
]

if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
