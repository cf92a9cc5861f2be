"""The claims of VQ-CD as functions of the rows of eval.py and of the method that is judged.

P is the mean over tasks of the score after the last one. Differences are paired by seed: all
methods of a seed have the same latents, masks and episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import numpy as np

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
    not_worse,
)
from common.stats import Interval, paired_diff
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import SEQUENCES

SPACES, SAME, ALONE = "spaces-*", "same-*", "alone-swimmer"
SWEPT = ("lr", "elastic")  # labels of a tuning's rows, which no claim reads
GATE, GATE_SHARE = 50.0, 2 / 3  # score that so many tasks have to reach once they are learned
GATE_ERROR = 0.05  # of the latents, over the variance
MARGIN = 10.0  # points that "multitask level" may lack
STEPS_MARGIN, CHEAPER = 5.0, 15.0  # points that fewer steps may lack; ratio of times


def plain(rows: Rows) -> Rows:
    """Rows of runs with the methods' own settings."""
    return rows.of(**dict.fromkeys(SWEPT))


def sequences(rows: Rows, pattern: str) -> list[str]:
    """The sequences of a kind that were run, the shortest first.

    Raises:
        NoResults: if there is none.
    """
    found = [t for t in rows.of(metric="score").unique("task") if fnmatch(t, pattern)]
    if not found:
        raise NoResults(f"tasks {pattern}")
    return sorted(found, key=lambda task: (len(SEQUENCES[task]), task))


def in_each(pattern: str, judge: Judge) -> Judge:
    """A judge of one sequence, required of every one of its kind that was run."""

    def judged(rows: Rows, method: str) -> Judgement:
        own = plain(rows)
        there = sequences(own, pattern)
        parts = {task: judge(own.of(task=task), method) for task in there}
        return parts[there[0]] if len(parts) == 1 else all_of(parts)

    return judged


def below_the_gate(rows: Rows, method: str) -> str:
    """Why a comparison would say nothing: tasks or latents that are not learned; else nothing."""
    own = rows.of(method=method, metric="task_own") or rows.of(method=method, metric="task_end")
    scores = {task: own.of(subtask=task).value() for task in own.unique("subtask")}
    if not scores:
        raise NoResults(f"scores of {method} by task")
    if sum(s >= GATE for s in scores.values()) < math.ceil(GATE_SHARE * len(scores) - 1e-9):
        low = ", ".join(f"{task} {score:.0f}" for task, score in scores.items())
        return f"not learned well enough to compare ({low})"
    for metric in ("task_state_error", "task_action_error"):
        errors = rows.of(method=method, metric=metric)
        for task in errors.unique("subtask"):
            if (error := errors.of(subtask=task).value()) > GATE_ERROR:
                return f"latents of {task} lose {error:.2f} of the variance"
    return ""


def gained(rows: Rows, method: str, rival: str) -> Interval:
    """P of a method less a rival's, paired by seed."""
    own = rows.of(metric="score")
    return paired_diff(*own.of(method=method).paired(own.of(method=rival)))


def beats(*rivals: str, beside: str = "") -> Judge:
    """P above that of each rival, if the method has passed the gate.

    Args:
        rivals: all of them.
        beside: another one, whose difference is printed and decides nothing.
    """

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for rival in rivals:
            ci = gained(rows, method, rival)
            lost = [rows.of(method=m, metric="forgetting") for m in (method, rival)]
            forgotten = " against ".join(f"{own.value():.1f}" if own else "–" for own in lost)
            parts[METHODS.label(rival)] = by_interval(ci, ours=f"{ci}, F {forgotten}")
        note = f"{METHODS.label(beside)}: {gained(rows, method, beside)}" if beside else ""
        found = all_of(parts, note) if len(parts) > 1 or note else next(iter(parts.values()))
        if why := below_the_gate(rows, method):
            return Judgement(INCONCLUSIVE, f"{found.ours}; {why}", found.evidence)
        return found

    return judge


def at_level(rival: str) -> Judge:
    """P not below a rival's by more than the margin, if the rival has passed the gate."""

    def judge(rows: Rows, method: str) -> Judgement:
        ci = gained(rows, method, rival)
        if why := below_the_gate(rows, rival):
            return Judgement(INCONCLUSIVE, f"{ci}; {METHODS.label(rival)}: {why}")
        return not_worse(ci, MARGIN, ours=str(ci))

    return judge


def keeps_everything(rows: Rows, method: str) -> Judgement:
    """Assembled, outputs on no task have moved; by the last checkpoint's weights they have."""
    changes = ("output_change", "unassembled_change")
    moved, without = (rows.of(method=method, metric=m).values(least=1) for m in changes)
    return all_of(
        {
            "assembled": compare(float(moved.max()), 0.0, above=False),
            "last checkpoint": compare(float(without.min()), 1e-12),
        }
    )


def cheap_steps(rows: Rows, method: str) -> Judgement:
    """Twenty times fewer calls, as much less time, no lower score; open if nothing is reached."""
    own = plain(rows).of(method=method, task=ALONE)
    steps = own.of(metric="calls").unique("steps")
    if len(steps) < 2:
        raise NoResults(f"two numbers of steps of {method}")
    few, many = (own.of(steps=s) for s in (steps[0], steps[-1]))
    calls, seconds = (
        many.of(metric=m).value() / few.of(metric=m).value() for m in ("calls", "seconds_action")
    )
    cells = [
        part.of(metric="episode_score", episode=e).values(least=1)
        for part in (few, many)
        for e in part.of(metric="episode_score").unique("episode")
    ]
    ours, theirs = np.concatenate(cells).reshape(2, -1)
    ci = paired_diff(ours, theirs)
    why = below_the_gate(own, method)
    found = all_of(
        {
            "calls": compare(-abs(calls - 20), 0.0, ours=f"{calls:g} x"),
            "time": compare(seconds, CHEAPER, ours=f"{seconds:.1f} x"),
            "score": not_worse(ci, STEPS_MARGIN, ours=f"{ci}, {len(ours)} episodes"),
        },
        spell_out=3,
    )
    return Judgement(INCONCLUSIVE, f"{found.ours}; {why}", found.evidence) if why else found


def claim(name: str, statement: str, source: str, paper: str, judge: Judge, **more: Any) -> Claim:
    """A claim of VQ-CD about sequences of different spaces unless told otherwise."""
    more = {"method": "vq_cd", "specific": "shared" not in more, "tasks": (SPACES,), **more}
    pattern = more["tasks"][0]
    judged: Callable[[Rows, str], Judgement] = judge
    if pattern != ALONE:
        judged = in_each(pattern, judge)
    return Claim(f"vqcd.{name}", statement, source, paper, judged, **more)


CLAIMS = [
    claim(
        "beats_finetune",
        "VQ-CD outperforms sequential fine-tuning on tasks with different spaces: mean score "
        "after the last task",
        *("Figures and tables, D4RL", "no fine-tuning there; CuGRO 27.6, VQ-CD 45.4 (medium)"),
        beats("finetune"),
        against=("finetune",),
        headline=True,
    ),
    claim(
        "beats_ewc",
        "VQ-CD outperforms sequential fine-tuning and EWC on tasks of one space: mean success "
        "after the last task",
        *("Figures, CW10 and Ant-dir", "Ant-dir: VQ-CD 558, best continual rival 478"),
        beats("finetune", "ewc"),
        tasks=(SAME,),
        against=("finetune", "ewc"),
    ),
    claim(
        "no_forgetting",
        "Assembled, the network computes on every task bit for bit what its checkpoint did; the "
        "last checkpoint's weights do not",
        *("Section on selective weights activation", "no loss", keeps_everything),
        shared="it is so by construction; a network for each task keeps everything as well",
    ),
    *(
        claim(
            f"small_networks_{name}",
            "Shares of one network serve better than a small network for each task, with as many "
            f"weights: mean score, {said} (ours)",
            *("Not in the paper", "–", beats("single")),
            tasks=(pattern,),
            against=("single",),
        )
        for pattern, name, said in ((SPACES, "spaces", "own spaces"), (SAME, "same", "one space"))
    ),
    claim(
        "assembling",
        "Under the same masks, assembled checkpoints outperform the last one's weights: mean "
        "success, one space",
        *("Section on selective weights activation", "assembled", beats("not_assembled")),
        tasks=(SAME,),
        against=("not_assembled",),
    ),
    claim(
        "padding",
        "Quantised latents outperform padding with zeros, under the same masks: mean score, "
        "different spaces (ours)",
        *("Not in the paper (AE, VAE there)", "–", beats("padding")),
        against=("padding",),
    ),
    claim(
        "multitask_level",
        f"VQ-CD reaches the level of multitask training with returns, as many updates: mean score "
        f"at most {MARGIN:g} points below",
        *("Abstract; Ant-dir", "558 against 485", at_level("multitask")),
        against=("multitask",),
        only=("gpu", "paper"),
    ),
    claim(
        "quantised",
        "Quantised alignment outperforms a VAE's and a standardised autoencoder's: mean score "
        "after the last task",
        *("Figure on alignments (against AE, unscaled)", "VQ > AE > VAE"),
        beats("vae", "ae_std", beside="ae"),
        against=("vae", "ae_std", "ae"),
        only=("gpu", "paper"),
    ),
    claim(
        "inverse_dynamics",
        "Acting by inverse dynamics outperforms diffusing actions with states: mean score after "
        "the last task",
        *("Table on inverse dynamics", "45.4 against 39.5 (D4RL), 524 against 498 (Ant-dir)"),
        beats("diffused_actions"),
        against=("diffused_actions",),
        only=("gpu", "paper"),
    ),
    claim(
        "few_steps",
        f"10 steps of DDIM take 20 times fewer calls than 200 and a {CHEAPER:g}th of the time, for "
        f"at most {STEPS_MARGIN:g} points (Swimmer)",
        *("Table on acceleration", "5.73 s to 0.29 s, 19.8 x", cheap_steps),
        tasks=(ALONE,),
        shared="it is DDIM's property, whatever is diffused",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
