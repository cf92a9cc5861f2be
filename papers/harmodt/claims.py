"""The claims of HarmoDT as functions of the rows of eval.py and of the method that is judged.

A cell is a task and a seed. Differences are paired by cell: all methods of a seed have the same
data, batches and first masks, and meet the same goals.
"""

from __future__ import annotations

from collections.abc import Callable
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
    not_worse,
)
from common.stats import Interval, paired_diff
from papers.harmodt.methods import METHODS
from papers.harmodt.task import SUITES

SUB, NEAR, UNSEEN = "mt*-sub", "mt*-near", "mt8-*"
SWEPT = ("lr", "flip_share", "sparsity", "lam")  # labels of a sweep's rows, which no claim reads
MARGIN = 0.05  # success that "not worse" may lack
LEARNED = 0.2  # success of MTDT below which equal says nothing


def plain(rows: Rows) -> Rows:
    """Rows of runs with the methods' own settings."""
    return rows.of(**dict.fromkeys(SWEPT))


def suites(rows: Rows, pattern: str) -> list[str]:
    """The suites that were run with these data, the smallest first.

    Raises:
        NoResults: if there is none.
    """
    start, end = pattern.split("*")
    unseen = pattern == UNSEEN
    there = [
        task
        for task in rows.unique("task")
        if task.startswith(start) and task.endswith(end) and bool(SUITES[task].unseen) == unseen
    ]
    if not there:
        raise NoResults(f"tasks {pattern}")
    return sorted(there, key=lambda task: len(SUITES[task].tasks))


def cells(rows: Rows, metric: str, one: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of two methods on the cells (task, seed) of one suite that both have.

    Raises:
        NoResults: if there are fewer than two.
    """
    own = plain(rows).of(metric=metric)
    pairs = [
        own.of(method=one, subtask=s).paired(own.of(method=other, subtask=s), least=1)
        for s in own.of(method=one).unique("subtask")
    ]
    if sum(len(a) for a, _ in pairs) < 2:
        raise NoResults(f"cells of {metric} that {one} and {other} share")
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def success_less(rows: Rows, one: str, other: str, prefix: str = "") -> Interval:
    """Difference of success rates, over cells."""
    return paired_diff(*cells(rows, f"task_{prefix}success", one, other))


def error_ratio(rows: Rows, one: str, other: str) -> Interval:
    """Log ratio of held-out action errors, over cells."""
    ours, theirs = cells(rows, "task_action_error", one, other)
    return paired_diff(np.log(ours), np.log(theirs))


def beside(compute: Callable[[], Interval], name: str) -> str:
    """A number that decides nothing; empty where its rows are missing."""
    try:
        return f"; {name} {compute()}"
    except NoResults:
        return ""


def in_each(pattern: str, judge: Judge) -> Judge:
    """A judge of one suite, required of every suite that was run with these data."""

    def judged(rows: Rows, method: str) -> Judgement:
        there = suites(rows, pattern)
        parts = {task: judge(rows.of(task=task), method) for task in there}
        return parts[there[0]] if len(parts) == 1 else all_of(parts)

    return judged


def more_success(rival: str, prefix: str = "") -> Judge:
    """Success above a rival's; the ratio of action errors is printed beside it."""

    def judge(rows: Rows, method: str) -> Judgement:
        ci = success_less(rows, method, rival, prefix)
        text = beside(lambda: error_ratio(rows, method, rival), "log error ratio")
        return by_interval(ci, ours=f"{ci}{text}")

    return judge


def less_error(rival: str) -> Judge:
    """Held-out action error below a rival's; the difference of success is printed beside it."""

    def judge(rows: Rows, method: str) -> Judgement:
        ci = error_ratio(rows, method, rival)
        text = beside(lambda: success_less(rows, method, rival), "success")
        return by_interval(ci, above=False, ours=f"{ci}{text}")

    return judge


def as_good_as_mtdt(rows: Rows, method: str) -> Judgement:
    """Success not below MTDT's by more than the margin, where MTDT has learned something."""
    ours, theirs = cells(rows, "task_success", method, "mtdt")
    ci = paired_diff(ours, theirs)
    text = f"{ci} ({ours.mean():.2f} against {theirs.mean():.2f})"
    if theirs.mean() < LEARNED:
        return Judgement(INCONCLUSIVE, text + "; MTDT has not learned enough")
    return not_worse(ci, MARGIN, ours=text)


def less_conflict(rows: Rows, method: str) -> Judgement:
    """Share of pairs of tasks in conflict, under the masks, below that of random masks."""
    own = plain(rows).of(metric="conflict_masked")
    values = {name: own.of(method=name).curve(least=2) for name in (method, "harmo_r")}
    seeds = {name: own.of(method=name).unique("seed") for name in values}
    if seeds[method] != seeds["harmo_r"]:
        raise NoResults(f"seeds of conflict that {method} and harmo_r share")
    (_, ours), (_, theirs) = values[method], values["harmo_r"]
    ci = paired_diff(ours.ravel(), theirs.ravel())
    seeds_only = paired_diff(ours.mean(1), theirs.mean(1))
    means = f"{ours.mean():.2f} against {theirs.mean():.2f}; of seeds' means {seeds_only}"
    try:
        dense = own.of(method="prompt_dt").curve()[1].mean()
        means += f"; Prompt-DT {dense:.2f}"
    except NoResults:
        pass
    return by_interval(ci, above=False, ours=f"{ci} ({means})")


def more_without_being_told(rows: Rows, method: str) -> Judgement:
    """Success above a DT's that is told nothing; only methods that are told nothing can be asked.

    Raises:
        NoResults: for a method that is told its task.
    """
    if METHODS[method].told != "nothing":
        raise NoResults(f"{METHODS.label(method)} is told its task")
    ci = success_less(rows, method, "dt_agnostic")
    own = plain(rows).of(method=method)
    gate = [own.of(metric=f"gate_{when}") for when in ("first", "late")]
    text = ""
    if all(gate):
        first, late = (part.value() for part in gate)
        text = f"; gate right {first:.2f} at the first step, {late:.2f} after twenty"
    return by_interval(ci, ours=f"{ci}{text}")


def claim(name: str, statement: str, source: str, paper: str, judge: Judge, **more: Any) -> Claim:
    """A claim of HarmoDT-F about sub-optimal data unless told otherwise."""
    more = {"method": "harmo_f", "specific": "shared" not in more, "tasks": (SUB,), **more}
    pattern = more["tasks"][0]
    return Claim(f"harmo.{name}", statement, source, paper, in_each(pattern, judge), **more)


TABLE, WEB = "Main table", "restated by a later paper"
ERROR = "held-out action error"

CLAIMS = [
    claim(
        "beats_prompt",
        "HarmoDT-F outperforms Prompt-DT on sub-optimal data: success on unseen goals, paired over "
        "tasks and seeds",
        *(f"{TABLE} ({WEB})", "+8.0 % (MT5), +6.3 % (MT30), +6.1 % (MT50)"),
        more_success("prompt_dt"),
        against=("prompt_dt",),
        headline=True,
    ),
    claim(
        "beats_prompt_error",
        f"HarmoDT-F fits better than Prompt-DT: log ratio of {ERROR}s, sub-optimal data (ours)",
        *("Not in the paper", "–", less_error("prompt_dt")),
        against=("prompt_dt",),
    ),
    claim(
        "beats_prompt_near",
        "HarmoDT-F outperforms Prompt-DT on near-optimal data: success on unseen goals",
        *(f"{TABLE} ({WEB})", "0 (MT5), +10.3 % (MT30), +6.2 % (MT50)"),
        more_success("prompt_dt"),
        tasks=(NEAR,),
        against=("prompt_dt",),
    ),
    claim(
        "learned_masks",
        f"Learned masks are better than random ones: log ratio of {ERROR}s, HarmoDT-F to -R",
        *(f"{TABLE} ({WEB})", "success +7.0 % (MT5), +1.6 % (MT30), +5.1 % (MT50)"),
        less_error("harmo_r"),
        against=("harmo_r",),
    ),
    claim(
        "prompt_vs_mtdt",
        f"Prompts serve as well as one-hot identifiers: Prompt-DT's success at most {MARGIN} below "
        f"MTDT's, which is {LEARNED} or more",
        *(f"{TABLE} ({WEB})", "+2.3 % (MT5), +5.0 % (MT30), +9.1 % (MT50)", as_good_as_mtdt),
        method="prompt_dt",
        against=("mtdt",),
        shared="whatever is as good as MTDT meets it; it is no claim about masks",
    ),
    claim(
        "conflict",
        "Learned masks lessen conflict: share of task pairs with negative gradient cosine under "
        "masks, below random masks', at four quarters",
        *("Figure on conflict", "falls while training", less_conflict),
        against=("harmo_r",),
    ),
    claim(
        "dense_recovery",
        f"Dense gradients recover better than masked ones: log ratio of {ERROR}s (ours)",
        *("Authors' code", "–", less_error("harmo_f_code")),
        against=("harmo_f_code",),
        shared="a method may beat masked scores for another reason",
    ),
    claim(
        "agnostic",
        "G-HarmoDT outperforms a decision transformer that is told nothing: success on unseen "
        "goals, sub-optimal data",
        *("Abstract of the extension", "+5 %", more_without_being_told),
        method="g_harmo",
        against=("dt_agnostic",),
    ),
    claim(
        "unseen",
        "HarmoDT-F's vote of masks outperforms Prompt-DT on tasks that it was not trained on: "
        "success",
        *("Table of unseen tasks", "+10 % (abstract of the extension)"),
        more_success("prompt_dt", "unseen_"),
        tasks=(UNSEEN,),
        against=("prompt_dt",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
