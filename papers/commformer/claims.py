"""The claims of CommFormer as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

from fnmatch import fnmatch

import numpy as np
import scipy.stats

from common.claims import (
    INCONCLUSIVE,
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
from common.stats import paired_diff
from papers.commformer.methods import METHODS

PURSUIT, CAPTURE = "pp-5", "pcp-1-3"
GATED = "commformer-gate"
NEAR = 1.15  # C1: ratio of mean steps to the full graph's
HALF = 0.5  # C1: k = 2 of the 4 others at most
GATE_NEAR = 1.1  # C5
GATE_SHARE = 0.8  # C5: of the ungated graph's communication
LEVEL = 0.05  # C3: chance of as many right rows by luck
WIN_MARGIN = 0.05  # C6


#: Most probable actions, but where agents are blind: without a message such an agent would always
#: move or always capture in a cell, never both, and could not finish. Drawn ones can.
STEPS = {PURSUIT: "steps", CAPTURE: "drawn_steps"}


def steps_of(rows: Rows, task: str, method: str) -> Rows:
    """Mean steps of the last evaluations, one per seed."""
    return rows.of(task=task, metric=STEPS[task], method=method)


def does_not_matter(rows: Rows, task: str) -> str:
    """The assay: "" where the full graph beats silence, else why nothing can be judged here."""
    full, none = steps_of(rows, task, "full"), steps_of(rows, task, "none")
    gain = full.minus(none)
    if gain.high < 0 and none.value() / full.value() > NEAR:
        return ""
    return (
        f"communication does not matter on {task}: full graph {full.value():.2f} steps, "
        f"none {none.value():.2f}"
    )


def where_it_matters(task: str, judge: Judge) -> Judge:
    """A judge behind the assay."""

    def judged(rows: Rows, method: str) -> Judgement:
        why = does_not_matter(rows, task)
        return Judgement(INCONCLUSIVE, why) if why else judge(rows, method)

    return judged


def near_full(rows: Rows, method: str) -> Judgement:
    """C1: mean steps over the full graph's, with half of its edges or fewer."""
    ours, full = (steps_of(rows, PURSUIT, name) for name in (method, "full"))
    ci = ours.over(full)
    text = f"{ci} ({ours.value():.2f} against {full.value():.2f} steps)"
    used = rows.of(task=PURSUIT, method=method, metric="used").value()
    return all_of(
        {
            "ratio": by_interval(ci, NEAR, above=False, ours=text),
            "edges": compare(used, HALF, above=False, ours=f"{used:.2f} of them"),
        }
    )


def beats_silence(task: str) -> Judge:
    """C2: mean steps without communication less the method's."""

    def judge(rows: Rows, method: str) -> Judgement:
        ours, none = (steps_of(rows, task, name) for name in (method, "none"))
        ci = none.minus(ours)
        return by_interval(ci, ours=f"{ci} ({none.value():.2f} against {ours.value():.2f})")

    return where_it_matters(task, judge)


def helps(rows: Rows, method: str) -> Judgement:
    """C2 on both tasks."""
    return all_of({task: beats_silence(task)(rows, method) for task in (PURSUIT, CAPTURE)})


def beats_chance(rows: Rows, method: str) -> Judgement:
    """C3a: mean steps of a random graph with as many edges less the method's."""
    rival = "random-others" if METHODS[method].exclude_diagonal else "random"
    ours, chance = (steps_of(rows, CAPTURE, name) for name in (method, rival))
    ci = chance.minus(ours)
    return by_interval(ci, ours=f"{ci} ({chance.value():.2f} against {ours.value():.2f})")


def finds_the_seeing(rows: Rows, method: str) -> Judgement:
    """C3b: blind agents' rows that point to the one that sees, against chance."""
    own = rows.of(task=CAPTURE, method=method)
    right, blind = (own.of(metric=name).values() for name in ("to_seeing", "blind"))
    n, of = int(blind.sum()), 3 if METHODS[method].exclude_diagonal else 4
    chance = 1.0 if METHODS[method].graph == "full" else 1 / of  # all edges hold the right one
    needed = int(scipy.stats.binom.isf(LEVEL, n, chance)) + 1
    text = f"{right.sum():.0f} of {n} rows, {needed} needed"
    return compare(float(right.sum()), needed, ours=text, rows=n)


def keeps_the_budget(rows: Rows, method: str) -> Judgement:
    """C4: every row has k edges at every evaluation; no episode uses more with gates."""
    wrong = rows.of(task=[PURSUIT, CAPTURE], method=method, metric="row_error")
    gates = rows.of(task=PURSUIT, method=GATED, metric="excess")
    found = [float(part.frame["value"].max()) for part in (wrong, gates) if part]
    if len(found) < 2:
        raise NoResults(f"{wrong} or {gates}")
    text = f"largest deviation of a row {found[0]:g}, of an episode with gates {found[1]:g}"
    return compare(max(found), 0.0, above=False, ours=text)


def gate_saves(rows: Rows, method: str) -> Judgement:
    """C5: few more steps than without gates, with less communication."""
    ours, plain = (steps_of(rows, PURSUIT, name) for name in (method, "commformer"))
    used = rows.of(task=PURSUIT, metric="used")
    mine, whole = used.of(method=method).value(), used.of(method="commformer").value()
    if whole == 0:
        return Judgement(INCONCLUSIVE, "the graph without gates has no edges")
    return all_of(
        {
            "steps": by_interval(ours.over(plain), GATE_NEAR, above=False),
            "communication": compare(
                mine / whole, GATE_SHARE, above=False, ours=f"{mine:.2f} of {whole:.2f}"
            ),
        }
    )


def wins_as_often(rows: Rows, method: str) -> Judgement:
    """C6: win rate less the full graph's, over maps and seeds."""
    won = rows.of(metric="success")
    pairs = [
        won.of(task=task, method=method).paired(won.of(task=task, method="full"), least=1)
        for task in won.unique("task")
        if fnmatch(task, "smac-*")
    ]
    ours, full = (np.concatenate([[], *(pair[i] for pair in pairs)]) for i in (0, 1))
    if len(ours) < 2:
        raise NoResults(f"{len(ours)} pairs of runs on SMAC's maps")
    return by_interval(paired_diff(ours, full), -WIN_MARGIN)


CLAIMS = [
    Claim(
        "C1",
        "Near full communication with half of its edges or fewer: mean steps at S = 0.4 below 1.15 "
        "of its (5 predators, 61,000 steps)",
        *("Experiments, sparsity S", "S = 0.4 close to full", where_it_matters(PURSUIT, near_full)),
        method="commformer",
        tasks=(PURSUIT,),
        against=("full", "none"),
        headline=True,
    ),
    Claim(
        "C2",
        "Communication helps: fewer mean steps than without, with 5 predators and with 3 blind "
        "capture agents",
        *("Experiments, PP and PCP", "above baselines", helps),
        method="commformer",
        tasks=(PURSUIT, CAPTURE),
        against=("none", "full"),
        specific=False,
        shared="any graph over which something useful is heard helps",
    ),
    Claim(
        "C3a",
        "The learned graph beats a random one with as many edges: mean steps, 3 blind capture "
        "agents (k = 1, 102,000 steps)",
        *("Method, learnable graph", "no number", beats_chance),
        method="commformer",
        tasks=(CAPTURE,),
        against=("random", "full", "none"),
    ),
    Claim(
        "C3b",
        "Blind agents' rows point to the agent that sees more often than by chance (one edge "
        "each, 5 seeds, p < .05)",
        *("Method, learnable graph", "no number", finds_the_seeing),
        method="commformer",
        tasks=(CAPTURE,),
    ),
    Claim(
        "C4",
        "Budget: exactly k ones per row at execution; with gates no episode uses more edges than "
        "without",
        *("Method; extension", "by construction", keeps_the_budget),
        method="commformer",
        tasks=(PURSUIT,),
        against=(GATED,),
        specific=False,
        shared="so has every graph with k edges per row",
    ),
    Claim(
        "C5",
        "Gates save communication: at most 0.8 of the ungated graph's, mean steps below 1.1 of "
        "its (5 predators, λ = .01)",
        *("Extension", "less communication, little loss", where_it_matters(PURSUIT, gate_saves)),
        method=GATED,
        tasks=(PURSUIT,),
        against=("commformer", "full", "none"),
    ),
    Claim(
        "C6",
        "StarCraft: win rate no more than .05 below the full graph's, over maps and seeds",
        *("Experiments, SMAC", "close to full", wins_as_often),
        method="commformer",
        tasks=("smac-*",),
        against=("full",),
        only=("paper",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
