"""The claims of DiSF as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

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
from common.stats import mean_ci
from papers.disf.config import VARIED
from papers.disf.methods import METHODS

LIBRARY, LARGE, PAPER = "library", "library-large", "tinyllama-120m"
RIVALS = ("uniform", "dsir", "d4", "facility", "kcenter")
LEARNT = 1.0  # nats below its first weights that a model has to be, for losses to be compared
MARGIN = 0.02  # C4: nats
HALF, NEAR = 0.5, 1.5  # C5: of random sets' J, of the best set's
FASTER = 10.0  # C6
EFFICIENT = 1.5  # C8
PLAIN = dict.fromkeys(VARIED)  # no setting of the run was changed


def task_in(rows: Rows) -> str:
    """The task on text that was run: the default's, or that of the scale gpu."""
    there = rows.unique("task")
    return next((name for name in (LIBRARY, LARGE) if name in there), LIBRARY)


def of(rows: Rows, metric: str, method: str, task: str = "", **labels: object) -> Rows:
    """One number per seed, where nothing was varied."""
    task = task or task_in(rows)
    return rows.of(task=task, metric=metric, method=method, **PLAIN, **labels)


def less(rows: Rows, metric: str, one: str, other: str, task: str = "") -> Judgement:
    """One method's number less another's, paired by seed, is below 0."""
    ours, theirs = (of(rows, metric, name, task) for name in (one, other))
    return by_interval(ours.minus(theirs), above=False)


# -- spectra ---------------------------------------------------------------------------------------


def flattens(rows: Rows, method: str) -> Judgement:
    """C1: dominance of the method below uniform's, and that of DSIR above."""
    return all_of(
        {
            f"{METHODS.label(method)} − uniform": less(rows, "mean_dominance", method, "uniform"),
            "uniform − DSIR": less(rows, "mean_dominance", "uniform", "dsir"),
        }
    )


def flattest(rows: Rows, method: str) -> Judgement:
    """C1b: dominance of the method below that of every rival that was run."""
    there = [r for r in RIVALS if r != method and of(rows, "mean_dominance", r)]
    parts = {METHODS.label(r): less(rows, "mean_dominance", method, r) for r in there}
    if not parts:
        raise NoResults(f"spectra of {method}'s rivals")
    return all_of(parts, f"{len(parts)} rivals")


# -- losses ----------------------------------------------------------------------------------------


def unlearnt(rows: Rows) -> str:
    """The assay: "" where training on files drawn at random teaches, else why nothing is judged."""
    task = task_in(rows)
    start, end = (of(rows, "curve", "uniform", task).curve()[1][:, i] for i in (0, -1))
    learnt = float((start - end).mean())
    if learnt >= LEARNT:
        return ""
    return f"models learn only {learnt:.2f} nats, {LEARNT:g} are needed"


def assayed(judge: Judge) -> Judge:
    """A judge that leaves a claim open where models learn nothing."""

    def judged(rows: Rows, method: str) -> Judgement:
        why = unlearnt(rows)
        return Judgement(INCONCLUSIVE, why) if why else judge(rows, method)

    return judged


def dilemma(rows: Rows, method: str) -> Judgement:
    """C2: the targeted selection is better on its target, the method on the other domains."""
    return all_of(
        {
            "on target, DSIR − ours": less(rows, "on_target", "dsir", method),
            "elsewhere, ours − DSIR": less(rows, "off_target", method, "dsir"),
        }
    )


def better(rows: Rows, method: str) -> Judgement:
    """C3: macro loss of the method below uniform's."""
    return less(rows, "macro", method, "uniform")


def enough(rows: Rows, method: str) -> Judgement:
    """C4: full's macro loss less the method's is above minus the margin, on 1/16 of the files."""
    full, ours = (of(rows, "macro", name) for name in ("full", method))
    share = of(rows, "files", method).value() / of(rows, "files", "full").value()
    if share > 0.5:
        raise NoResults(f"{method} takes {share:.0%} of the files")
    difference = full.minus(ours)
    return not_worse(difference, MARGIN, ours=f"{difference} on {share:.1%} of the files")


# -- greedy, time ----------------------------------------------------------------------------------


def approximates(rows: Rows, method: str) -> Judgement:
    """C5: mean J from all starts over that of all sets; the best start's over the best set's."""

    def J(which: str) -> Rows:
        return of(rows, f"J_{which}", method, "normals")

    return all_of(
        {
            "of random sets": by_interval(J("mean").over(J("random")), HALF, above=False),
            "best start, of the best set": by_interval(
                J("best").over(J("optimum")), NEAR, above=False
            ),
        }
    )


def quick(rows: Rows, method: str) -> Judgement:
    """C6: seconds of the loop over those of the products, and that picks are the same."""
    same = of(rows, "same", method, "timing").values(least=1)
    return all_of(
        {
            "times as fast": by_interval(of(rows, "seconds_ratio", method, "timing").ci(), FASTER),
            "same picks": compare(float(same.min()), 1.0, ours=f"{same.mean():.0%} of batches"),
        }
    )


# -- the paper's scale -----------------------------------------------------------------------------


def best_of_harness(rows: Rows, method: str) -> Judgement:
    """C7: mean accuracy above that of all files and of every rival."""
    parts = {}
    for rival in ("full", "uniform", "dsir"):
        if rival != method:
            ours, theirs = (of(rows, "harness", name, PAPER) for name in (method, rival))
            parts[METHODS.label(rival)] = by_interval(ours.minus(theirs))
    return all_of(parts)


def tokens_saved(rows: Rows, method: str) -> list[float]:
    """By seed: the budget over the tokens after which the method is where all files end."""
    ours, full = (of(rows, "curve", name, PAPER) for name in (method, "full"))
    steps, curves = ours.curve(2)
    ends = full.curve(2)[1][:, -1]
    found = []
    for curve, end in zip(curves, ends, strict=False):
        below = np.flatnonzero(curve <= end)
        if not len(below):
            found.append(0.0)
            continue
        i = int(below[0])
        after = steps[i]
        if i and curve[i - 1] > curve[i]:
            share = (curve[i - 1] - end) / (curve[i - 1] - curve[i])
            after = steps[i - 1] + share * (steps[i] - steps[i - 1])
        found.append(float(steps[-1] / after) if after else float(steps[-1]))
    return found


def efficient(rows: Rows, method: str) -> Judgement:
    """C8: tokens saved on the way to the loss at which training on all files ends."""
    return by_interval(mean_ci(tokens_saved(rows, method)), EFFICIENT)


TEXT = ("library*",)
CLAIMS = [
    Claim(
        "C1",
        "The ten dominance scores of 128 selected files are lower in the mean than a uniform "
        "selection's, DSIR's are higher (20 selections, 8 domains)",
        *("Abstract; dominance scores", "DiSF least, DSIR most (figure)", flattens),
        method="disf",
        tasks=TEXT,
        against=("uniform", "dsir"),
        headline=True,
    ),
    Claim(
        "C1b",
        "No rival's spectrum is as flat: mean dominance below uniform, DSIR, D4, facility location "
        "and farthest first",
        *("Dominance scores", "DiSF least (figure)", flattest),
        method="disf",
        tasks=TEXT,
        against=("uniform", "dsir", "facility", "kcenter"),
    ),
    Claim(
        "C2",
        "Diversity dilemma: DSIR towards a domain is better there than DiSF, and worse in the mean "
        "over the other domains (validation loss)",
        *("Abstract", "targeted selection hurts generic ability", assayed(dilemma)),
        method="disf",
        tasks=TEXT,
        against=("dsir",),
        specific=False,
        shared="any selection that spares no domain",
    ),
    Claim(
        "C3",
        "Lower validation loss than a uniform selection of as many files, mean over domains, at "
        "equal tokens",
        *("Abstract; main table", "clear overall gain", assayed(better)),
        method="disf",
        tasks=TEXT,
        against=("uniform",),
    ),
    Claim(
        "C4",
        "At equal tokens a small share of the files is not worse than all of them: mean validation "
        "loss at most .02 nats higher",
        *("Abstract", "better with 1.5 % of files (50 B tokens)", assayed(enough)),
        method="disf",
        tasks=TEXT,
        against=("full",),
    ),
    Claim(
        "C5",
        "Greedy comes near: J at most half of random sets', from the best start at most 1.5 times "
        "the best set's (5 of 12 normals)",
        *("Analysis; γ-weak submodularity", "(1 − exp(−γ)) of the best", approximates),
        method="disf",
        tasks=("normals",),
    ),
    Claim(
        "C6",
        "Ours, not the paper's: a batch is selected 10 times faster than by d × d matrices, same "
        "picks (b = 1024, d = 384)",
        *("none: the public code's loop", "–", quick),
        method="disf",
        tasks=("timing",),
        specific=False,
        shared="it is about the implementation",
    ),
    Claim(
        "C7",
        "TinyLlama-120M, 50 B tokens: higher mean accuracy over nine tasks than all files, uniform "
        "and DSIR",
        *("Main table", "clear overall gain", best_of_harness),
        method="disf",
        tasks=(PAPER,),
        against=("full", "uniform", "dsir"),
        only=("paper",),
    ),
    Claim(
        "C8",
        "TinyLlama-120M: the loss of training on all files is reached with 1.5 times fewer tokens",
        *("Abstract", "1.5x training efficiency", efficient),
        method="disf",
        tasks=(PAPER,),
        against=("full",),
        only=("paper",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
