"""The claims of EGFN: what is said, and how rows of a method decide it.

Most are judged twice: after 1,000 steps and after the paper's 2,500.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from common.claims import (
    INCONCLUSIVE,
    Claim,
    Judgement,
    NoResults,
    Rows,
    by_interval,
    claims_cli,
    not_worse,
)
from common.stats import mean_ci
from papers.egfn.methods import METHODS
from papers.egfn.reading import area, curve, difference, late_l1, regions, regions_at_calls
from papers.egfn.task import GRIDS

EARLY, LATE = 1000, 2500  # steps: planned for two cores; the paper's
SAME = 1e-9  # "at most": the interval of the difference does not reach below zero
Judge = Callable[[Rows, str], Judgement]


def compared(ours: pd.Series, theirs: pd.Series, digits: int = 1) -> Judgement:
    """Ours above theirs, paired by seed."""
    ci = mean_ci(difference(ours, theirs))
    text = f"{ours.mean():.{digits}f} against {theirs.mean():.{digits}f}; difference {ci}"
    return by_interval(ci, ours=text)


# -- judges -------------------------------------------------------------------------------------


def more_regions_than(baseline: str, until: int) -> Judge:
    """e1, e2: regions in the star's own samples on L, the judged method minus a baseline."""

    def judge(rows: Rows, method: str) -> Judgement:
        return compared(*(regions(rows, "grid-l", m, until) for m in (method, baseline)))

    return judge


def gain(rows: Rows, task: str, method: str, until: int) -> np.ndarray:
    """The judged method's regions minus DB's, as a share of all."""
    found = (regions(rows, task, m, until) for m in (method, "db"))
    return difference(*found) / 2 ** GRIDS[task].ndim


def larger_gain(here: str, there: str, until: int) -> Judge:
    """e3, e4: the gain over DB on one grid minus that on another."""

    def judge(rows: Rows, method: str) -> Judgement:
        gains = [gain(rows, task, method, until) for task in (here, there)]
        if len(gains[0]) != len(gains[1]):
            raise NoResults("the two grids have different seeds")
        ci = mean_ci(gains[0] - gains[1])
        text = f"gains {gains[0].mean():.3f} and {gains[1].mean():.3f}; difference {ci}"
        return by_interval(ci, ours=text)

    return judge


def lower_l1(objective: str, until: int) -> Judge:
    """e5: late exact L1 on S, the plain objective minus the judged method."""

    def judge(rows: Rows, method: str) -> Judgement:
        ours, plain = (late_l1(rows, "grid-s", m, until) for m in (method, objective))
        ci = mean_ci(difference(plain, ours))
        text = f"{ours.mean():.3f} against {plain.mean():.3f}; plain − EGFN {ci}"
        stuck = (regions(rows, "grid-s", objective, until) <= 1).all()
        judged = not_worse(ci, SAME, ours=text, rival_is_stuck=bool(stuck))
        if stuck:  # a rival that never leaves its first region decides nothing
            text = f"{text}; the plain objective has 1 region of 8 on every seed"
            return Judgement(INCONCLUSIVE, text, judged.evidence)
        return judged

    return judge


def at_equal_calls(task: str) -> Judge:
    """e6: regions found by as many reward calls as DB's whole run makes."""

    def judge(rows: Rows, method: str) -> Judgement:
        calls = rows.of(task=task, method="db", metric="reward_calls").value()
        return compared(*(regions_at_calls(rows, task, m, calls) for m in (method, "db")))

    return judge


def ahead_of_larger_batches(rows: Rows, method: str) -> Judgement:
    """e7: area under regions found on L, the judged method minus DB with 36 trajectories."""
    return compared(*(area(rows, "grid-l", m, LATE) for m in (method, "db-2.25x")), digits=3)


def population_finds(rows: Rows, method: str) -> Judgement:
    """e8: regions that all samples have found and the star's have not, mean over evaluations."""
    tables = [curve(rows, "grid-l", method, f"regions_{who}") for who in ("all", "star")]
    missed = (tables[0] - tables[1]).mean(axis=1).to_numpy(dtype=float)
    if len(missed) < 2:
        raise NoResults(f"one seed of {method} on grid-l")
    ci = mean_ci(missed)
    return by_interval(ci, 1.0, ours=f"{ci} of 32 regions")


def better_score(task: str, metric: str, baseline: str) -> Judge:
    """e9, e10: molecules, a last value of the judged method minus that of the plain objective."""

    def judge(rows: Rows, method: str) -> Judgement:
        last = [curve(rows, task, m, metric).iloc[:, -1] for m in (method, baseline)]
        return compared(*last, digits=2)

    return judge


#: id, statement, source, paper, judge of a horizon, tasks, rival: judged after 1,000 steps (a) and
#: after 2,500 (b).
_AT_BOTH: list[tuple[str, str, str, str, Callable[[int], Judge], tuple[str, ...], str]] = [
    (
        "e1",
        "On a long, sparse hypergrid (L) EGFN-DB's star finds more regions than DB",
        "Section 4, hypergrid (figures only)",
        "more",
        lambda until: more_regions_than("db", until),
        ("grid-l",),
        "db",
    ),
    (
        "e2",
        "Evolution adds to replay: there it finds more regions than DB with the same replay",
        "Section 4, ablation",
        "more",
        lambda until: more_regions_than("db-prb", until),
        ("grid-l",),
        "db-prb",
    ),
    (
        "e3",
        "Sparsity: the gain over DB on L is larger at R0 = 1e-5 than at 1e-3",
        "Section 4, sparsity study",
        "larger",
        lambda until: larger_gain("grid-l", "grid-l3", until),
        ("grid-l", "grid-l3"),
        "db",
    ),
    (
        "e4",
        "Horizon: the gain over DB is larger on L (D=5) than on S (D=3)",
        "Section 4, horizon study",
        "larger",
        lambda until: larger_gain("grid-l", "grid-s", until),
        ("grid-l", "grid-s"),
        "db",
    ),
]
OURS, REVIEWERS = "not in the paper, which compares per step", "not in the paper (asked in review)"
#: id, statement, source, paper, judge, method, task, rival.
_ONCE: list[tuple[str, str, str, str, Judge, str, str, str]] = [
    (
        "e5-DB",
        "Whatever the objective: on S the exact L1 of EGFN-DB is at most DB's (2,500 steps)",
        "Section 4, objective study",
        "better with each",
        lower_l1("db", LATE),
        *("egfn-db", "grid-s", "db"),
    ),
    (
        "e5-TB",
        "…and that of EGFN-TB at most TB's (S, 2,500 steps)",
        "Section 4, objective study",
        "better with each",
        lower_l1("tb", LATE),
        *("egfn-tb", "grid-s", "tb"),
    ),
    (
        "e6-L",
        "At equal reward calls (40,000) EGFN-DB finds more regions than DB on L",
        *(OURS, "–", at_equal_calls("grid-l"), "egfn-db", "grid-l", "db"),
    ),
    (
        "e6-M",
        "At equal reward calls (40,000) EGFN-DB finds more regions than DB on M",
        *(OURS, "–", at_equal_calls("grid-m"), "egfn-db", "grid-m", "db"),
    ),
    (
        "e7",
        "…and finds them sooner than DB with 36 trajectories a step (L, area under regions found)",
        *(REVIEWERS, "–", ahead_of_larger_batches, "egfn-db", "grid-l", "db-2.25x"),
    ),
    (
        "e8",
        "The population knows at least one region before the star does (L; our addition)",
        *("Section 3, motivation", "finds modes", population_finds, "egfn-db", "grid-l", "db"),
    ),
    (
        "e9",
        "QM9 strings: EGFN-TB's star finds more modes than TB's",
        *("Section 4, QM9", "343 to 406 modes", better_score("qm9str", "modes", "tb")),
        *("egfn-tb", "qm9str", "tb"),
    ),
    (
        "e10",
        "sEH fragments: EGFN-DB's best molecules score higher than DB's",
        *("Section 4, sEH", "higher (figure)", better_score("seh", "top_score", "db")),
        *("egfn-db", "seh", "db"),
    ),
]
CLAIMS = [
    Claim(
        f"{name}{letter}",
        f"{text} ({until:,} steps)",
        source,
        paper,
        judge(until),
        "egfn-db",
        tasks,
        against=(rival,),
        headline=(name, until) == ("e1", LATE),
    )
    for name, text, source, paper, judge, tasks, rival in _AT_BOTH
    for letter, until in (("a", EARLY), ("b", LATE))
] + [
    Claim(name, text, source, paper, judge, method, (task,), against=(rival,))
    for name, text, source, paper, judge, method, task, rival in _ONCE
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
