"""The paper's claims: what is said, and how rows of a loss decide it."""

from __future__ import annotations

import math

from common.claims import (
    Claim,
    Judgement,
    NoResults,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    compare,
    not_worse,
)
from common.stats import mean_ci
from papers.gfn_losses.methods import METHODS
from papers.gfn_losses.task import BitSpec

OBJECTIVES = ("tb", "db", "stb", "fm")
SAME = 1e-9  # "at least": the interval of the difference does not reach below zero
LIMIT_RATIO, LIMIT_ABOVE = 1.5, 0.1  # gl3: final L1 at most max(1.5 x best, best + 0.1)


def target_distance(spec: BitSpec) -> float:
    """Mean Hamming distance to the nearest mode under the target.

    Its modes lie far apart, so that each bit differs with probability 1 / (1 + e^beta).
    """
    return spec.n_bits / (1 + math.exp(spec.beta))


def of_grids(rows: Rows, method: str) -> list[str]:
    """Objectives that a loss was trained with on the hard grid."""
    there = rows.of(method=method, metric="area").unique("task")
    found = [name for name in OBJECTIVES if f"grid-{name}" in there]
    if not found:
        raise NoResults(f"no area of {method} on the grid")
    return found


def faster(rows: Rows, method: str) -> Judgement:
    """gl1: area under the L1 curve, Quadratic minus the judged loss, on every objective."""
    parts = {}
    for name in of_grids(rows, method):
        area = rows.of(task=f"grid-{name}", metric="area")
        parts[name.upper()] = by_interval(
            area.of(method="quadratic").minus(area.of(method=method), paired=False)
        )
    return all_of(parts, spell_out=4)


def slowest(rows: Rows, method: str) -> Judgement:
    """gl1b: the judged loss has a larger area than each other loss of the paper."""
    parts = {}
    for name in of_grids(rows, method):
        area = rows.of(task=f"grid-{name}", metric="area")
        for other in METHODS.of_the_paper:
            if other != method and area.of(method=other):
                gap = area.of(method=method).minus(area.of(method=other), paired=False)
                parts[f"{name.upper()} − {METHODS.label(other)}"] = by_interval(gap)
    return all_of(parts)


def regions(rows: Rows, method: str) -> Judgement:
    """gl2: regions found in training with TB, against Quadratic."""
    found = rows.of(task="grid-tb", metric="regions_found")
    ours, base = found.of(method=method), found.of(method="quadratic")
    gap = ours.minus(base, paired=False)
    text = f"{ours.value():.2f} against {base.value():.2f}; difference {gap}"
    return not_worse(gap, SAME, ours=text)


def same_limit(rows: Rows, method: str) -> Judgement:
    """gl3: final L1 on the easy grid against the best loss's."""
    final = rows.of(task="control-tb", metric="l1_final")
    found = [final.of(method=name).ci() for name in METHODS.of_the_paper]
    best = min(ci.value for ci in found)
    bound = max(LIMIT_RATIO * best, best + LIMIT_ABOVE)
    worst = max([*found, final.of(method=method).ci()], key=lambda ci: ci.high)
    text = f"worst {worst}; bound {bound:.3f}"
    return by_interval(worst, bound, above=False, ours=text, best=best)


def modes(rows: Rows, method: str) -> Judgement:
    """gl4: bit modes found with TB, against Quadratic."""
    found = rows.of(task="bits-tb", metric="modes_found")
    ours, base = found.of(method=method), found.of(method="quadratic")
    gap = ours.minus(base, paired=False)
    text = f"{ours.value():.1f} against {base.value():.1f}; difference {gap}"
    return not_worse(gap, SAME, ours=text)


def fit(rows: Rows, method: str) -> Judgement:
    """gl4b: distance of the mean distance to a mode from the target's, against Quadratic's."""
    sizes = rows.of(task="bits-tb", metric="n_bits").unique("value") or [BitSpec().n_bits]
    target = target_distance(BitSpec(n_bits=int(sizes[0])))
    distance = rows.of(task="bits-tb", metric="mean_distance")
    off = {name: abs(distance.of(method=name).values() - target) for name in (method, "quadratic")}
    gap = mean_ci(off[method] - off["quadratic"])
    text = (
        f"off by {off[method].mean():.1f} against {off['quadratic'].mean():.1f}; difference {gap}"
    )
    return by_interval(gap, SAME, above=False, ours=text, target=target)


def ranks(rows: Rows, method: str) -> Judgement:
    """gl5: Spearman on the test set, the judged loss minus each Linex loss, TB and DB."""
    parts = {}
    for name in ("tb", "db"):
        spearman = rows.of(task=f"bits-{name}", metric="spearman")
        for linex in ("linex1", "linex05"):
            if linex != method:
                gap = spearman.of(method=method).minus(spearman.of(method=linex), paired=False)
                parts[f"{name.upper()} − {METHODS.label(linex)}"] = not_worse(gap, SAME)
    return all_of(parts)


def theorem(rows: Rows, method: str) -> Judgement:
    """gl6: the worst relative gradient error over DAGs and parts (exact, float64)."""
    errors = rows.of(method=method, metric="gradient_error").frame
    if errors.empty:
        raise NoResults(f"no gradient errors of {method}")
    worst = float(errors.value.max())
    return compare(worst, 1e-6, above=False, ours=f"worst of {len(errors)}: {worst:.0e}")


CLAIMS = [
    Claim(
        "gl1",
        "Linex(1) converges faster than the squared loss on the hard grid: smaller area under the "
        "exact L1 curve with TB, DB, STB and FM",
        "Figure 2, Section 5.1",
        "Quadratic is slower (figure)",
        faster,
        "linex1",
        ("grid-tb", "grid-db"),
        against=("quadratic",),
        headline=True,
    ),
    Claim(
        "gl1b",
        "The squared loss converges slowest of the four losses, whatever the objective (area, "
        "hard grid)",
        "Figure 2, Section 5.1",
        "Quadratic slowest of four",
        slowest,
        "quadratic",
        ("grid-tb", "grid-db"),
    ),
    *(
        Claim(
            id,
            f"{label} finds at least as many reward regions as the squared loss (TB, 20 seeds)",
            "Sections 4.2, 5.1",
            "zero-avoiding losses explore more",
            regions,
            method,
            ("grid-tb",),
            against=("quadratic",),
        )
        for id, method, label in (("gl2a", "linex1", "Linex(1)"), ("gl2b", "linex05", "Linex(1/2)"))
    ),
    Claim(
        "gl3",
        "On an easy grid all losses end at the same error: final L1 within max(1.5 × best, "
        "best + 0.1)",
        "Figure 2",
        "about equal",
        same_limit,
        "linex1",
        ("control-tb",),
        specific=False,
        shared="it is said of all four losses alike: every one has the same exact solution",
    ),
    Claim(
        "gl4",
        "Bit sequences, TB, 4,000 steps: Linex(1) finds at least as many modes as the squared loss",
        "Table 3",
        "5/5 against 1/5 runs find all",
        modes,
        "linex1",
        ("bits-tb",),
        against=("quadratic",),
    ),
    Claim(
        "gl4b",
        "…and fits the target no worse: mean distance to a mode as near to the target's "
        "(bits, TB; our addition)",
        "a count of modes rewards spread",
        "–",
        fit,
        "linex1",
        ("bits-tb",),
        against=("quadratic",),
    ),
    Claim(
        "gl5",
        "Bit sequences: the squared loss ranks the test set at least as well as the Linex losses "
        "(Spearman, 4,000 steps)",
        "Table 4",
        "TB .81 against .74; DB .79 against .75",
        ranks,
        "quadratic",
        ("bits-tb", "bits-db"),
        against=("linex1", "linex05"),
    ),
    Claim(
        "gl6",
        "On-policy, the loss's gradient is that of an f-divergence (four parts, error ≤ 1e-6, "
        "float64)",
        "Theorem 1",
        "exact",
        theorem,
        "linex1",
        ("theory",),
        specific=False,
        shared="the theorem holds for every convex loss, the squared one included",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
