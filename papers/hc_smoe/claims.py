"""The claims of HC-SMoE as functions of the rows of eval.py and of the method that is judged.

d is the difference of two methods' mean loss per token, the difference of log-perplexities, on the
same mixtures and texts, seed by seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
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
from common.stats import Interval, paired_diff, ratio_of_means
from papers.hc_smoe.methods import METHODS
from papers.hc_smoe.task import PRETRAINED

MODELS = ("mixtral", "qwen")
SCRATCH = "mixtral-scratch"
SEARCH_MARGIN = 0.01  # c3: nats per token
ACCURACY_MARGIN = 0.05  # c6
SOLVABLE = 0.35  # c6: accuracy of the original that makes a loss visible; chance is .25
SHARE = 0.6  # c7: of the loss increase of mixtures from scratch
NAMES = {"mixtral": "Mixtral", "qwen": "Qwen", SCRATCH: "from scratch"}


def losses(rows: Rows, method: str, task: str, kept: float) -> Rows:
    """Loss per token, one per seed."""
    if method == "original":
        kept = 1.0
    return rows.of(task=task, method=method, kept=kept, metric="nll")


def cell(task: str, kept: float) -> str:
    """What a cell is called."""
    return f"{NAMES[task]} {kept:.0%}"


def any_grouping_would_do(rows: Rows, method: str, task: str, kept: float) -> str:
    """The assay: "" where a method is better than random groups, else the reason."""
    ours, chance = (losses(rows, name, task, kept) for name in (method, "random"))
    d = ours.minus(chance)
    return "" if d.high < 0 else f"no better than random groups ({d})"


def below(
    rows: Rows, method: str, rival: str, task: str, kept: float, margin: float = 0.0
) -> Judgement:
    """d against a rival lies below a margin; what random groups do as well is left open."""
    d = losses(rows, method, task, kept).minus(losses(rows, rival, task, kept))
    found = by_interval(d, margin, above=False)
    if found.verdict == REPRODUCED and (why := any_grouping_would_do(rows, method, task, kept)):
        return Judgement(INCONCLUSIVE, f"{d}, but {why}", found.evidence)
    return found


def better_than(rivals: Sequence[str], kept: Sequence[float], margin: float = 0.0) -> Judge:
    """A judge: in every cell d against every rival lies below a margin."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for task in MODELS:
            for share in kept:
                for rival in rivals:
                    name = f"{cell(task, share)}, {METHODS.label(rival)}"
                    name = name if len(rivals) > 1 else cell(task, share)
                    parts[name] = below(rows, method, rival, task, share, margin)
        return counted(parts)

    return judge


def counted(parts: dict[str, Judgement]) -> Judgement:
    """All parts, with a short text: how many hold, how many are contradicted, the extremes."""
    whole = all_of(parts)
    of = {v: [n for n, p in parts.items() if p.verdict == v] for v in (REPRODUCED, CONTRADICTED)}
    values = [float(p.evidence["value"]) for p in parts.values()]
    text = (
        f"d from {min(values):.3f} to {max(values):.3f}; {len(of[REPRODUCED])} of {len(parts)} "
        f"cells hold, {len(of[CONTRADICTED])} contradict"
    )
    return Judgement(whole.verdict, text, whole.evidence, whole.details)


def keeps_accuracy(rows: Rows, method: str) -> Judgement:
    """c6: accuracy at 75 % less the original's, above a margin."""
    parts = {}
    for task in MODELS:
        of = rows.of(task=task, metric="accuracy")
        whole, ours = of.of(method="original"), of.of(method=method, kept=0.75)
        d = ours.minus(whole)
        text = f"{d} ({whole.value():.3f} to {ours.value():.3f})"
        if whole.value() < SOLVABLE:
            why = f"the original's {whole.value():.3f} is below {SOLVABLE}"
            parts[NAMES[task]] = Judgement(INCONCLUSIVE, why)
        else:
            parts[NAMES[task]] = not_worse(d, ACCURACY_MARGIN, ours=text)
    return all_of(parts)


def increases(rows: Rows, method: str, task: str) -> np.ndarray:
    """Loss at 50 % less the original's, one per seed."""
    ours, whole = losses(rows, method, task, 0.5), losses(rows, "original", task, 1.0)
    mine, theirs = ours.paired(whole)
    return np.asarray(mine - theirs)


def aligned_merges_better(rows: Rows, method: str) -> Judgement:
    """c7: loss increase on the upcycled mixture over that on the one from scratch."""
    ours, theirs = (increases(rows, method, task) for task in ("mixtral", SCRATCH))
    if theirs.mean() <= 0:
        return Judgement(INCONCLUSIVE, f"merging from scratch costs nothing: {theirs.mean():.3f}")
    ci = ratio_of_means(ours, theirs, paired=len(ours) == len(theirs))
    text = f"{ci} ({ours.mean():.3f} against {theirs.mean():.3f})"
    return by_interval(ci, SHARE, above=False, ours=text)


def best_on_tasks(rows: Rows, method: str) -> Judgement:
    """c8: mean accuracy over zero-shot tasks above every rival's; the tasks are the sample."""
    parts = {}
    for task in PRETRAINED:
        for kept in (0.75, 0.5):
            for rival in ("oprune", "fprune", "sprune", "msmoe"):
                d = over_tasks(rows, method, rival, task, kept)
                if d is not None:
                    parts[f"{task} {kept:.0%}, {METHODS.label(rival)}"] = by_interval(d)
    if not parts:
        raise NoResults("accuracies of zero-shot tasks")
    return counted(parts)


def over_tasks(rows: Rows, method: str, rival: str, task: str, kept: float) -> Interval | None:
    """Interval of the mean difference over zero-shot tasks; None where rows are missing."""
    at = rows.of(task=task, kept=kept)
    pairs = []
    for metric in at.unique("metric"):
        of = at.of(metric=metric)
        both = of.of(method=method), of.of(method=rival)
        if metric.startswith("accuracy_") and all(both):
            pairs.append([part.value() for part in both])
    if len(pairs) < 2:
        return None
    ours, theirs = np.array(pairs).T
    return paired_diff(ours, theirs)


CLAIMS = [
    Claim(
        "c1",
        "Better than one-shot groups by router logits (M-SMoE's kind, same r and merge) with 75 % "
        "and 50 % of the experts: loss, 5 seeds",
        *(
            "Tables 2-3",
            "+.227 and +.248 accuracy (Mixtral)",
            better_than(["oneshot"], (0.75, 0.5)),
        ),
        method="hc-avg",
        tasks=MODELS,
        against=("oneshot", "random"),
    ),
    Claim(
        "c2",
        "Better than pruning by frequency and by router score with 75 % and 50 % of the experts: "
        "loss, both models, 5 seeds",
        *("Tables 2-3", "+.021 to +.167 accuracy", better_than(["fprune", "sprune"], (0.75, 0.5))),
        method="hc-avg",
        tasks=MODELS,
        against=("fprune", "sprune", "random"),
        headline=True,
    ),
    Claim(
        "c3",
        "Not worse than O-prune's search with 50 % of the experts: loss at most .01 above, both "
        "models",
        *("Tables 2-3", ".5729 v .5728; .5223 v .4279"),
        better_than(["oprune"], (0.5,), SEARCH_MARGIN),
        method="hc-avg",
        tasks=MODELS,
        against=("oprune", "random"),
    ),
    Claim(
        "c4",
        "Experts compared by outputs merge better than by weights and by router logits: loss, "
        "50 %, both models",
        *("Ablations", "no number", better_than(["hc-weight", "hc-router"], (0.5,))),
        method="hc-avg",
        tasks=MODELS,
        against=("hc-weight", "hc-router", "random"),
    ),
    Claim(
        "c5",
        "Hierarchical clustering beats K-means on the same outputs (mean of 3 starts): loss, 50 %, "
        "both models",
        *("Ablations", "no number", better_than(["kmeans"], (0.5,))),
        method="hc-avg",
        tasks=MODELS,
        against=("kmeans", "random"),
    ),
    Claim(
        "c6",
        "With 75 % of the experts accuracy stays within 5 points of the original's: 400 four-way "
        "questions per seed",
        *("Tables 2-3", ".601 to .572; .675 to .643", keeps_accuracy),
        method="hc-avg",
        tasks=MODELS,
        against=("original",),
    ),
    Claim(
        "c7",
        "Ours: merged by half, upcycled experts lose at most .6 of what experts from scratch lose "
        "(Mixtral, equal tokens)",
        *("not the paper's", "–", aligned_merges_better),
        method="hc-avg",
        tasks=("mixtral", SCRATCH),
        against=("original",),
        specific=False,
        shared="aligned neurons help whatever averages them",
    ),
    Claim(
        "c8",
        "Higher accuracy than O-, F-, S-prune and M-SMoE with 75 % and 50 % of the experts, over "
        "eight zero-shot tasks",
        *("Tables 2-3", "highest averages", best_on_tasks),
        method="hc-avg",
        tasks=tuple(PRETRAINED),
        against=("oprune", "fprune", "sprune", "msmoe"),
        only=("paper",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
