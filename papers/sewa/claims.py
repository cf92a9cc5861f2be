"""The claims of the paper: a learnt choice of snapshots beats rules and the last iterate.

Scores are returns or accuracies in percent, larger is better, paired by seed: the same training,
the same snapshots, the same test. K = 10.
"""

from __future__ import annotations

from fnmatch import fnmatch

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
from common.stats import mean_ci
from papers.sewa.methods import METHODS

K = 10
CLONING, IMAGES = ("bc-*",), ("digits", "cifar100-*")
TEXT = ("text", "ag-news")
MARGIN, POINT, FEW = 0.03, 1.0, 0.10  # of the expert's return; of accuracy; of the picks
ALIKE = 1e-4  # spread below which snapshots do not differ


def named(rows: Rows, patterns: tuple[str, ...]) -> list[str]:
    """The tasks of the patterns that have rows.

    Raises:
        NoResults: if there is none.
    """
    found = [t for t in rows.unique("task") if any(fnmatch(t, p) for p in patterns)]
    if not found:
        raise NoResults(f"no rows of {' or '.join(patterns)}")
    return found


def own(rows: Rows, task: str, method: str, metric: str = "score") -> Rows:
    """Rows of a task and method for K = 10."""
    return rows.of(task=task, K=K, method=method, metric=metric)


def differ(rows: Rows, task: str, method: str) -> Judgement | None:
    """Where snapshots do not differ every average is the same: nothing can be compared.

    Their spread is the same for all methods of a task.
    """
    spread = own(rows, task, method, "spread").value()
    if spread > ALIKE:
        return None
    return Judgement(INCONCLUSIVE, f"the snapshots of {task} do not differ ({spread:.1e})")


def gain(rows: Rows, task: str, method: str, rival: str, margin: float | None = None) -> Judgement:
    """Score less a rival's; with a margin: not worse by more."""
    if (alike := differ(rows, task, method)) is not None:
        return alike
    diff = own(rows, task, method).minus(own(rows, task, rival))
    return by_interval(diff) if margin is None else not_worse(diff, margin)


def parts_of(tasks: list[str], parts: dict[str, dict[str, Judgement]], note: str = "") -> Judgement:
    """All parts of all tasks; a task is named where there are several."""
    flat = {
        (f"{task}, {name}" if len(tasks) > 1 else name): part
        for task in tasks
        for name, part in parts[task].items()
    }
    return all_of(flat, note, spell_out=3)


def better_policy(rows: Rows, method: str) -> Judgement:
    """c1: return above the last iterate's, a random choice's, LAWA's."""
    tasks = named(rows, CLONING)
    rivals = ("last", "random", "lawa")
    return parts_of(
        tasks,
        {t: {METHODS.label(r): gain(rows, t, method, r) for r in rivals} for t in tasks},
    )


def few_are_enough(rows: Rows, method: str) -> Judgement:
    """c2: K = 10 against the mean of the window."""
    tasks = named(rows, CLONING)
    parts: dict[str, dict[str, Judgement]] = {}
    beside = []
    for task in tasks:
        margin = MARGIN * rows.of(task=task, metric="expert", method=method, K=K).value()
        parts[task] = {f"margin {margin:.0f}": gain(rows, task, method, "all", margin)}
        beside.append(str(own(rows, task, "lawa").minus(own(rows, task, "all"))))
    return parts_of(tasks, parts, note=f"LAWA's: {', '.join(beside)}")


def lower_objective(rows: Rows, method: str) -> Judgement:
    """c3: log of the training loss, random less own, over tasks and seeds."""
    tasks = named(rows, (*CLONING, *IMAGES, *TEXT))

    def less(rival: str) -> dict[str, np.ndarray]:
        pairs = {
            t: own(rows, t, rival, "log_train_loss").paired(own(rows, t, method, "log_train_loss"))
            for t in tasks
        }
        return {t: theirs - ours for t, (theirs, ours) in pairs.items()}

    each = less("random")
    beside = {r: mean_ci(np.concatenate(list(less(r).values()))) for r in ("lawa", "swa")}
    by_task = ", ".join(f"{t} {mean_ci(d)}" for t, d in each.items())
    others = ", ".join(f"{METHODS.label(r)} {ci}" for r, ci in beside.items())
    found = by_interval(mean_ci(np.concatenate(list(each.values()))))
    return Judgement(
        found.verdict, found.ours, found.evidence, f"{found.ours}; {by_task}; less {others}"
    )


def classifies(rows: Rows, method: str) -> Judgement:
    """c4: accuracy above the last iterate's, and not a point below LAWA's or random's."""
    tasks = [*named(rows, IMAGES), *named(rows, TEXT)]
    parts = {}
    for t in tasks:
        parts[t] = {"last": gain(rows, t, method, "last")}
        parts[t] |= {METHODS.label(r): gain(rows, t, method, r, POINT) for r in ("lawa", "random")}
    return parts_of(tasks, parts)


def avoids(rows: Rows, method: str) -> Judgement:
    """c5: few spoiled snapshots are picked, and accuracy is above LAWA's and random's."""
    task = "digits-spoiled"
    picked = own(rows, task, method, "picked")
    whole = own(rows, task, "lawa").minus(own(rows, "digits", "lawa"))
    if whole.high >= 0:
        return Judgement(INCONCLUSIVE, f"spoiling does LAWA no harm: {whole}")
    share = by_interval(picked.ci(), FEW, above=False)
    parts = {"picked": share}
    parts |= {METHODS.label(r): gain(rows, task, method, r) for r in ("lawa", "random")}
    return all_of(parts, spell_out=3)


def stable(rows: Rows, method: str) -> Judgement:
    """c6: distance of two trainings: last less own, with the same mask in both."""
    own = rows.of(task="neighbours", of="last")
    last = own.of(method="last", metric="same")
    diff = last.minus(own.of(method=method, metric="same"))
    masks = last.minus(own.of(method=method, metric="apart"))
    judged = by_interval(diff)
    return Judgement(judged.verdict, f"{diff}; own mask each: {masks}", judged.evidence)


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, tasks: tuple[str, ...],
    against: tuple[str, ...], only: tuple[str, ...] = ("default", "paper"), **more: object,
) -> Claim:  # fmt: skip
    """A claim of SeWA."""
    fields = {"specific": "shared" not in more, **more}
    return Claim(
        name, statement, source, paper, judge, "sewa", tasks, against, only=only,
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


CLAIMS = [
    claim(
        "sewa-c1",
        "Behaviour cloning, K = 10: SeWA's return is above the last iterate's, a random "
        "choice's and LAWA's, each (default: Hopper, 10 seeds)",
        *("Behaviour cloning", "3334.9 against LAWA's 3288.2", better_policy, CLONING),
        ("last", "random", "lawa"),
        headline=True,
    ),
    claim(
        "sewa-c2",
        "A few points suffice: the return of K = 10 is not below the mean of all 100 by 3 % of "
        "the expert's",
        *("Abstract", "a few points", few_are_enough, CLONING, ("all",)),
        shared="any few snapshots of a window may do; LAWA's stand beside it",
    ),
    claim(
        "sewa-c3",
        "The mask minimises what it is asked to: at K = 10 SeWA's training loss is below random "
        "choices' (log, mean of 50)",
        *("Method", "no number", lower_objective, (*CLONING, "*"), ("random",)),
    ),
    claim(
        "sewa-c4",
        "Images and text: accuracy above the last iterate's, and not a point below LAWA's or "
        "random choices' (digits: 20 seeds)",
        *("Classification", "curves", classifies, ("*",), ("last", "lawa", "random")),
        shared="a plain average passes as well: it is better than SGD, as the paper says",
    ),
    claim(
        "sewa-c5",
        "With a quarter of the snapshots spoiled at most 10 % of the chosen are, and accuracy is "
        "above LAWA's and random choices'",
        *("Method", "no experiment", avoids, ("digits-spoiled", "digits"), ("lawa", "random")),
        only=("default",),
    ),
    claim(
        "sewa-c6",
        "Stability: trainings on two sets that differ in one example end nearer with SeWA than "
        "with their last iterates (same mask)",
        *("Theory", "smaller bound", stable, ("neighbours",), ("last",)),
        only=("default",),
        shared="the bound of an average is smaller than SGD's for every average",
    ),
]

__all__ = ["CLAIMS", "METHODS", "NoResults"]

if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
