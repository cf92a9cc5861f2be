"""The claims of Kaleidoscope as functions of the rows of eval.py and of the method judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from common.claims import (
    Claim,
    Judge,
    Judgement,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    compare,
)
from papers.kaleidoscope.methods import METHODS

HUNT, UNITS, PROBE, CHEETAH = "distinct", "units", "probe", "HalfCheetah-2x3"
RACES = ("terran", "protoss", "zerg")
SOLVED = 0.95  # mean greedy return of the probe
CLOSE = 0.05  # of the rival's mean: methods nearer than that are said not to be told apart


def less(rows: Rows, method: str, other: str, task: str, metric: str) -> Judgement:
    """The method's value less another one's, paired by seed."""
    part = rows.of(task=task, metric=metric)
    ours, theirs = part.of(method=method), part.of(method=other)
    ci = ours.minus(theirs)
    text = f"{ci} ({ours.value():.3g} against {theirs.value():.3g})"
    if abs(ci.value) < CLOSE * abs(theirs.value()):
        text += f", within {CLOSE:.0%}"
    return by_interval(ci, ours=text)


def above(task: str, metric: str, *others: str) -> Judge:
    """Above each of the others in a metric of a task."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {METHODS.label(o): less(rows, method, o, task, metric) for o in others}
        return next(iter(parts.values())) if len(parts) == 1 else all_of(parts)

    return judge


def growth(rows: Rows, method: str, task: str, metric: str) -> Judgement:
    """A quantity at the end less that at first (``_at_first``), paired by seed."""
    own = rows.of(task=task, method=method)
    names = (metric, f"{metric}_at_first")
    end, first = (own.of(metric=name) for name in names)
    ci = end.minus(first)
    return by_interval(ci, ours=f"{first.value():.3g} → {end.value():.3g} ({ci})")


def heterogeneous(rows: Rows, method: str) -> Judgement:
    """C1: networks alone answer the same observations otherwise more often than at first, and the
    masks end farther apart than they begin in every seed.
    """
    own = rows.of(task=HUNT, method=method)
    end, first = own.of(metric="final_mask_distance").paired(
        own.of(metric="mask_distance_at_first")
    )
    more = int((end > first).sum())
    apart = f"{more} of {len(end)} seeds ({first.mean():.2g} → {end.mean():.2g})"
    parts = {
        "disagreement": growth(rows, method, HUNT, "network_disagreement"),
        "distance of masks": compare(more, len(end), ours=apart),
    }
    return all_of(parts)


def probe_solved(rows: Rows, method: str) -> Judgement:
    """C2: the probe's greedy return; what cannot tell agents apart has 0."""
    last = rows.of(task=PROBE, metric="last_return")
    ours = last.of(method=method).values().mean()
    none = max(last.of(method=m).values().max() for m in ("fups", "frozen"))
    parts = {
        METHODS.label(method): compare(float(ours), SOLVED, ours=f"{ours:.2f}"),
        "FuPS and frozen masks": compare(float(none), 0.0, above=False, ours=f"{none:.2f}"),
    }
    return all_of(parts)


def farther_apart(rows: Rows, method: str) -> Judgement:
    """C5b: the masks' final distance above that without the diversity term in every seed."""
    distance = rows.of(task=HUNT, metric="final_mask_distance")
    ours, without = distance.of(method=method).paired(distance.of(method="no-diversity"))
    more = int((ours > without).sum())
    text = f"{more} of {len(ours)} seeds ({np.mean(ours):.2g} against {np.mean(without):.2g})"
    return compare(more, len(ours), ours=text)


def sparser(rows: Rows, method: str) -> Judgement:
    """C6: sparsity at the end less that at first: test-time cost is (1 - sparsity) of full."""
    own = rows.of(task=HUNT, method=method)
    end, first = own.of(metric="final_sparsity"), own.of(metric="sparsity_at_first")
    ci = end.minus(first)
    return by_interval(ci, ours=f"{first.value():.2%} → {end.value():.2%}")


def races(rows: Rows, method: str) -> Judgement:
    """C9: above FuPS + ID on each race of SMACv2."""
    parts = {race: less(rows, method, "fups-id", race, "final_win_rate") for race in RACES}
    return all_of(parts)


def on_cheetah(rows: Rows, method: str) -> Judgement:
    """C8: MATD3's masked critics; the text says how far apart critics are."""
    judged = less(rows, method, "no-critic-masks", CHEETAH, "auc_return")
    spread = rows.of(task=CHEETAH, metric="final_critic_spread")
    mine, two = (spread.of(method=m).value() for m in (method, "no-critic-masks"))
    return replace(judged, ours=f"{judged.ours}; critics {mine:.2g} apart, two {two:.2g}")


CURVES, ABLATIONS = "Learning curves", "Ablation figure"
NO_NUMBER = "best curve; no number"


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, *tasks: str, **more: object
) -> Claim:
    """A claim of Kaleidoscope; ``shared`` says why it is not specific."""
    more = {"method": "kaleidoscope", "specific": "shared" not in more, **more}
    return Claim(name, statement, source, paper, judge, tasks=tasks, **more)  # type: ignore[arg-type]


CLAIMS = [
    claim(
        "C1",
        "Heterogeneity: on the same observations masks alone disagree more often than at first, "
        "and masks end farther apart in every seed",
        *("Sections 4.2 and 5", "distances grow", heterogeneous, HUNT),
        method="kaleidoscope-noid",
    ),
    claim(
        "C2",
        f"Masks tell agents apart: probe solved without numbers (greedy return ≥ {SOLVED}), by "
        "FuPS and equal frozen masks never",
        *("Figure 1, in kind", "sharing acts alike", probe_solved, PROBE),
        against=("fups", "frozen"),
        shared="each mask gets its own agent's gradient; every network that differs passes",
    ),
    claim(
        "C3",
        "Better than sharing: final return on the hunt for distinct preys above FuPS and above "
        "FuPS + ID",
        *(CURVES, NO_NUMBER, above(HUNT, "final_return", "fups", "fups-id"), HUNT),
        against=("fups", "fups-id"),
        headline=True,
    ),
    claim(
        "C4",
        "Sample efficiency: mean return over training on the hunt above NoPS",
        *(CURVES, NO_NUMBER, above(HUNT, "auc_return", "nops"), HUNT),
        against=("nops",),
    ),
    claim(
        "C5a",
        "Diversity helps: final return on the hunt above that without the diversity term",
        *(ABLATIONS, "hurts most", above(HUNT, "final_return", "no-diversity"), HUNT),
        against=("no-diversity",),
    ),
    claim(
        "C5b",
        "Diversity drives masks apart: their final distance above that without the term in every "
        "seed",
        *(ABLATIONS, "distances grow", farther_apart, HUNT),
        against=("no-diversity",),
        shared="any method with the diversity term has what is compared",
    ),
    claim(
        "C5c",
        "Resets help: final return on the hunt above that without resets",
        *(ABLATIONS, "late gains", above(HUNT, "final_return", "no-reset"), HUNT),
        against=("no-reset",),
        only=("study",),
    ),
    claim(
        "C6",
        "Lower test-time cost: the share of masked weights grows in training (hunt)",
        *("Cost table", "equal or lower", sparser, HUNT),
    ),
    claim(
        "C7",
        "Masks by unit type: final win rate on SMAX battles of random units above FuPS + ID",
        *(CURVES, "SMACv2, no number", above(UNITS, "final_win_rate", "fups-id"), UNITS),
        against=("fups-id",),
    ),
    claim(
        "C8",
        "Masked critics help: mean return over training above two critics (HalfCheetah 2x3, 60,000 "
        "steps)",
        *(ABLATIONS, "adds more, 10M steps", on_cheetah, CHEETAH),
        against=("no-critic-masks",),
        only=("study",),
    ),
    claim(
        "C9",
        "SMACv2, 10M steps: final win rate above FuPS + ID for terran, protoss and zerg",
        *(CURVES, NO_NUMBER, races, *RACES),
        against=("fups-id",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
