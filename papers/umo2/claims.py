"""The claims of UMO² as functions of the rows and of the policy judged.

A threshold is met when the whole 95 % interval over seeds lies on its right side. Two thresholds
are rates: what is bounded grows slower than log T, and a polynomial falls faster than 1 / log T.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

from common.claims import (
    Claim,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    not_worse,
)
from common.stats import Interval, paired_diff, ratio_of_means
from papers.umo2.methods import METHODS, OLO, UTILITY
from papers.umo2.rates import by_horizon, exponent, gaps, law, logarithm
from papers.umo2.references import phase_utility, reference_utility
from papers.umo2.task import KAPPAS, RHOS

STABLE_SLOPE = 0.002  # C1: packets per slot
QUEUE_POWER = 0.6  # C1: mean queue at most T^0.6
UNSTABLE_SLOPE = 0.1  # C2
OLO_RATIO = 1.5  # C3
OLO_WORSE = 1.4  # C3: each single step-size, over AdaPFOL
SAFE_UTILITY = math.log(1.9)  # C6: g of the static rate 0.3 in every slot
UTILITY_SLOPE = 0.005  # C6
LONG = 100_000  # C8: growth over horizons from here on
ONE_ENTRY = ("last", "mean", "ucb", "uniform")  # C2: they see what they serve, or do not look


def utilities(rows: Rows, method: str, v: float = 0.3) -> Rows:
    """Rows of a policy on the utility task at V = T^v."""
    return rows.of(task=UTILITY, method=method, v=v)


# -- judges -------------------------------------------------------------------------------------


def c1(rows: Rows, method: str) -> Judgement:
    """Flat within a run on Net-A, at every load and speed of switching."""
    parts, worst = {}, Interval(0.0, 0.0, -math.inf, 0)
    for rho, kappa in product(RHOS, KAPPAS):
        at = rows.of(task="net-a", method=method, rho=rho, kappa=kappa)
        slope, queue = (at.of(metric=m).ci() for m in ("quarter_slope", "mean_queue"))
        name, bound = f"ρ={rho:g} κ={kappa:g}", at.unique("horizon")[0] ** QUEUE_POWER
        parts[f"{name} slope"] = by_interval(slope, STABLE_SLOPE, above=False)
        parts[f"{name} queue"] = by_interval(queue, bound, above=False)
        worst = max(worst, slope, key=lambda ci: ci.high)
    return all_of(parts, f"largest slope {worst}")


def c2(rows: Rows, method: str) -> Judgement:
    """What sees one entry grows linearly; the method's queue is a tenth of theirs at most."""
    at = rows.of(task="net-a", rho=0.42, kappa=0.4)
    mine = at.of(method=method, metric="mean_queue")
    parts, slopes = {}, []
    for name in ONE_ENTRY:
        theirs = at.of(method=name)
        slope = theirs.of(metric="quarter_slope").ci()
        parts[f"{name} slope"] = by_interval(slope, UNSTABLE_SLOPE)
        ours, other = mine.paired(theirs.of(metric="mean_queue"))
        parts[f"{name} queue"] = by_interval(paired_diff(ours, 0.1 * other), above=False)
        slopes.append(f"{name} {slope.value:.2f}")
    return all_of(parts, f"slopes {', '.join(slopes)}; mean queue {mine.ci()}")


def c3(rows: Rows, method: str) -> Judgement:
    """The ratio is small on the whole grid; each single step-size is worse in some cell of it."""
    grid = rows.of(task=OLO, metric="ratio")
    cells = [
        {"magnitude": m, "switches": s}
        for m, s in product(grid.unique("magnitude"), grid.unique("switches"))
    ]
    parts, largest, rivals = {}, 0.0, []
    for cell in cells:
        ci = grid.of(method=method, step=None, **cell).ci()
        name = f"{cell['magnitude']} S={cell['switches']:g}"
        parts[name] = by_interval(ci, OLO_RATIO, above=False)
        largest = max(largest, ci.value)
    for step in grid.of(method="single").unique("step"):
        found = []
        for cell in (c for c in cells if c["magnitude"] == "constant"):
            alone = grid.of(method="single", step=step, **cell)
            theirs, ours = alone.paired(grid.of(method=method, step=None, **cell))
            if ours.mean() > 0:
                found.append(ratio_of_means(theirs, ours, paired=True))
        if not found:
            raise NoResults("no cells of constant magnitude")
        most = max(found, key=lambda ci: ci.value)
        parts[f"single step {step:g}"] = by_interval(most, OLO_WORSE)
        rivals.append(f"{most.value:.1f}")
    if not rivals:
        raise NoResults("no rows of AdaPFOL's grid")
    return all_of(parts, f"largest ratio {largest:.2f}; single steps up to {'/'.join(rivals)} ×")


def c4(rows: Rows, method: str) -> Judgement:
    """Utility rises from the shortest to the longest horizon; queue / T falls."""
    mine = utilities(rows, method)
    T, q = by_horizon(mine, "mean_queue", least=3)
    first, middle, last = (mine.of(metric="utility", horizon=h) for h in (T[0], T[-2], T[-1]))
    rise = last.minus(first, paired=False)
    parts = {
        "rise": by_interval(rise),
        "longest not below the one before": not_worse(last.minus(middle, paired=False), 0.01),
    }
    for i, j in pairwise(range(len(T))):
        change = paired_diff(q[:, j] / T[j], q[:, i] / T[i])
        parts[f"queue/T, T={T[i]:.3g} to {T[j]:.3g}"] = by_interval(change, above=False)
    return all_of(parts, f"u {first.value():.3f} to {last.value():.3f}, rise {rise}")


def c5(rows: Rows, method: str) -> Judgement:
    """A larger V has more utility and longer queues."""
    large, small = (utilities(rows, method, v) for v in (0.4, 0.2))
    parts, gains = {}, []
    for h in horizons(large):
        for metric in ("utility", "mean_queue"):
            more = large.of(metric=metric, horizon=h).minus(small.of(metric=metric, horizon=h))
            parts[f"{metric} T={h:.3g}"] = by_interval(more)
        gains.append(f"{parts[f'utility T={h:.3g}'].evidence['value']:.3f}")
    return all_of(parts, f"utility + {' / '.join(gains)}")


def c6(rows: Rows, method: str) -> Judgement:
    """At least as useful as a safe static rate, and stable."""
    parts, least = {}, math.inf
    for h in horizons(utilities(rows, method)):
        mine = utilities(rows, method).of(horizon=h)
        u, slope = (mine.of(metric=m).ci() for m in ("utility", "quarter_slope"))
        parts[f"utility T={h:.3g}"] = by_interval(u, SAFE_UTILITY)
        parts[f"slope T={h:.3g}"] = by_interval(slope, UTILITY_SLOPE, above=False)
        least = min(least, u.value)
    return all_of(parts, f"utility {least:.3f} or more; threshold {SAFE_UTILITY:.3f}")


def horizons(rows: Rows) -> list[float]:
    """The horizons of some rows.

    Raises:
        NoResults: if there is none.
    """
    if not (found := rows.unique("horizon")):
        raise NoResults(f"no horizon of {rows}")
    return found


def c7(rows: Rows, method: str) -> Judgement:
    """The utility gap falls faster than 1 / log T."""
    T, gap = gaps(utilities(rows, method), phase_utility())
    ci, slowest = exponent(T, gap), -logarithm(T)
    means = " / ".join(f"{x:.3f}" for x in gap.mean(axis=0))
    text = f"gap {means} ∝ {law(ci)}; 1/log T ∝ T^{slowest:.2f}"
    other = exponent(*gaps(utilities(rows, method), reference_utility()))
    details = f"{text}; to the reference over windows of any length ∝ {law(other)}"
    judged = by_interval(ci, slowest, above=False)
    return Judgement(judged.verdict, text, judged.evidence, details)


def c8(rows: Rows, method: str) -> Judgement:
    """The queue grows slower than log T where the window condition holds."""
    at = rows.of(task="net-a", method=method, rho=0.30, kappa=0.4)
    T, queue = by_horizon(at, "mean_queue", least=3, first=LONG)
    ci, fastest = exponent(T, queue), logarithm(T)
    means = " / ".join(f"{x:.3g}" for x in queue.mean(axis=0))
    text = f"{means} packets ∝ {law(ci)}; log T ∝ T^{fastest:.2f}"
    return by_interval(ci, fastest, above=False, ours=text)


CLAIMS = [
    Claim(
        "C7",
        "UMO²'s utility gap to the best reference stable within phases falls faster than 1/log T "
        "(T ≤ 320,000, V = T^0.3, 20 seeds)",
        "Theorem on UMO²",
        "gap → 0 as a polynomial",
        c7,
        method="umo2",
        tasks=(UTILITY,),
        headline=True,
    ),
    Claim(
        "C4",
        "UMO² (V = T^0.3, 20 seeds) is stable, and its utility is higher at T = 320,000 than at "
        "20,000; mean queue / T falls",
        "Theorem on UMO²",
        "gap shrinks",
        c4,
        method="umo2",
        tasks=(UTILITY,),
    ),
    Claim(
        "C6",
        "With bandit feedback UMO² (V = T^0.3) has more utility than the safe static rate 0.3, "
        "with slope ≤ 0.005",
        "Theorem on UMO²",
        "stable; gap → 0",
        c6,
        method="umo2",
        tasks=(UTILITY,),
        against=("static30",),
    ),
    Claim(
        "C5",
        "V = T^0.4 has more utility and longer queues than V = T^0.2 at every T",
        "Lyapunov drift-plus-penalty",
        "trade-off in V",
        c5,
        method="umo2",
        tasks=(UTILITY,),
        specific=False,
        shared="every policy that weighs the utility by V trades it for queues",
    ),
    Claim(
        "C8",
        "At ρ = 0.30 (inside the window condition) NSO's mean queue grows slower than log T, "
        "T = 10⁵ to 3·10⁶ (5 seeds)",
        "Theorem on NSO (stability)",
        "O(1) in T",
        c8,
        method="nso",
        tasks=("net-a",),
        only=("study",),
    ),
    Claim(
        "C1",
        "Within one run (T = 10⁵, phases of fixed length, ρ ≤ 0.42, 20 seeds) NSO's queue is "
        "flat: slope ≤ 0.002, mean ≤ T^0.6",
        "Theorem on NSO (stability)",
        "bounded at ρ = 0.30; silent at 0.38, 0.42",
        c1,
        method="nso",
        tasks=("net-a",),
        only=("default", "paper"),
    ),
    Claim(
        "C2",
        "Last-seen, mean and UCB backpressure (one entry seen) and uniform allocation are "
        "unstable at ρ=0.42, κ=0.4; NSO, seeing all, has a tenth of their queue",
        "Motivation of adversarial network optimisation",
        "no guarantee for them",
        c2,
        method="nso",
        tasks=("net-a",),
        against=ONE_ENTRY,
        only=("default", "paper"),
    ),
    Claim(
        "C3",
        "AdaPFOL's regret is at most 1.5 √((1+P) Σ|l|²) on the whole grid; each single step is "
        "1.4 times worse somewhere",
        "Theorem on AdaPFOL",
        "Õ(√((1+P) Σ|l|²))",
        c3,
        method="adapfol",
        tasks=(OLO,),
        against=("single",),
    ),
]

if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
