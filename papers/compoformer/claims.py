"""The claims of CompoFormer as functions of the rows of eval.py and of the method that is judged.

A cell is a place of the stream and a seed. Differences are paired by cell: all methods of a seed
have the same data, pools of windows and first weights, and meet the same goals.
"""

from __future__ import annotations

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
from common.stats import mean_ci, paired_diff
from papers.compoformer.methods import METHODS
from papers.compoformer.task import STREAMS

SWEPT = ("lr", "strength", "give_back", "eta")  # labels of a sweep's rows, which no claim reads
ANY = "ocw[127]*"  # streams of seven, ten and twenty tasks
LEFT_OUT = ("ocw3", "ocw3-tune")  # streams of smoke and tuning
MARGIN = 0.05  # success that "not worse" may lack
LEARNED = 0.2  # success below which equal says nothing
FORGETS = 0.3  # F from which on a method forgets
RECOGNISED = 0.8  # share of the repeats
SUCCESS, LOSS = "place_success", "place_action_error"


def plain(rows: Rows) -> Rows:
    """Rows of runs with the methods' own settings."""
    return rows.of(**dict.fromkeys(SWEPT))


def streams(rows: Rows) -> list[str]:
    """The streams that were run, the shortest first."""
    there = set(rows.unique("task")).difference(LEFT_OUT)
    return sorted(there, key=lambda task: (len(STREAMS[task].tasks), task))


def cells(
    rows: Rows, metric: str, one: str, other: str, places: list[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Values of two methods on the cells (place, seed) of one stream that both have.

    Raises:
        NoResults: if there are fewer than two.
    """
    own = plain(rows).of(metric=metric)
    there = own.of(method=one).unique("place") if places is None else places
    pairs = [
        own.of(method=one, place=p).paired(own.of(method=other, place=p), least=0) for p in there
    ]
    if sum(len(a) for a, _ in pairs) < 2:
        raise NoResults(f"cells of {metric} that {one} and {other} share")
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def differences(
    rows: Rows, metric: str, one: str, other: str, places: list[int] | None = None
) -> np.ndarray:
    """Of success after the last task, or log ratios of held-out action errors; per cell."""
    ours, theirs = cells(rows, metric, one, other, places)
    return np.log(ours) - np.log(theirs) if metric == LOSS else ours - theirs


def in_each(judge: Judge) -> Judge:
    """A judge of one stream, required of every stream in which it finds what it needs."""

    def judged(rows: Rows, method: str) -> Judgement:
        parts: dict[str, Judgement] = {}
        missing = "streams of tasks"
        for task in streams(rows):
            try:
                parts[task] = judge(rows.of(task=task), method)
            except NoResults as lacking:
                missing = str(lacking)
        if not parts:
            raise NoResults(missing)
        return next(iter(parts.values())) if len(parts) == 1 else all_of(parts)

    return judged


def stays(rows: Rows, method: str) -> Judgement:
    """Finetuning forgets, the method does not: neither success nor a single action has changed."""
    own = plain(rows)
    theirs = own.of(method="finetune", metric="forgetting").ci()
    ours = own.of(method=method, metric="forgetting").values()
    moved = own.of(method=method, metric="place_drift")
    drift = max(moved.of(place=p).values(least=1).max() for p in moved.unique("place") or [1])
    worst = max(float(np.abs(ours).max()), float(drift))
    text = f"F {np.mean(ours):.2f}, actions moved by at most {drift:.2g}"
    parts = {
        "finetuning": by_interval(theirs, FORGETS, ours=f"F {theirs}"),
        "the method": compare(worst, 0.0, above=False, ours=text),
    }
    return all_of(parts)


def beats(rows: Rows, method: str) -> Judgement:
    """P above finetuning's and EWC's."""
    found = {r: mean_ci(differences(rows, SUCCESS, method, r)) for r in ("finetune", "ewc")}
    return all_of({METHODS.label(r): by_interval(ci) for r, ci in found.items()})


def ahead(rival: str, error: bool = False) -> Judge:
    """P above a rival's, or held-out action error below; repeats, which may be reused, apart."""
    metric = LOSS if error else SUCCESS

    def judge(rows: Rows, method: str) -> Judgement:
        ci = mean_ci(differences(rows, metric, method, rival))
        stream, text, parts = STREAMS[rows.unique("task")[0]], str(ci), {}
        places = range(1, len(stream.tasks) + 1)
        again = [p for p in places if stream.earlier(p - 1) is not None]
        if again:
            for name, of in (("new", [p for p in places if p not in again]), ("again", again)):
                parts[name] = float(differences(rows, metric, method, rival, of).mean())
            text += f" (new tasks {parts['new']:.3f}, again {parts['again']:.3f})"
        return by_interval(ci, above=not error, ours=text, **parts)

    return judge


def recognises(rows: Rows, method: str) -> Judgement:
    """Share of the repeats, over seeds, in which the task's earlier self has the largest weight."""
    own = plain(rows).of(method=method)
    places = own.of(metric="place_recognised").unique("place")
    if not places:
        raise NoResults(f"repeats that {method} could recognise")

    def of(metric: str) -> np.ndarray:
        return np.concatenate([own.of(metric=metric, place=p).values(least=1) for p in places])

    right, reused = of("place_recognised"), of("place_reused")
    text = f"{right.sum():.0f} of {len(right)}; {reused.sum():.0f} good enough to be reused"
    return compare(float(right.mean()), RECOGNISED, ours=text, reused=float(reused.mean()))


def grown_places(rows: Rows, *methods: str) -> list[int]:
    """Places with two sources or more at which none of the methods, in any seed, has reused."""
    own, found = plain(rows), []
    for place in own.of(metric="place_success", method=methods[0]).unique("place"):
        reused = [own.of(metric="place_reused", method=m, place=place) for m in methods]
        if place > 2 and not any(part and part.values(least=1).any() for part in reused):
            found.append(int(place))
    return found


def mixes_better(rival: str) -> Judge:
    """Action error below that with another mixture, where both have learned with two sources."""

    def judge(rows: Rows, method: str) -> Judgement:
        places = grown_places(rows, method, rival)
        ci = mean_ci(differences(rows, LOSS, method, rival, places))
        return by_interval(ci, above=False, ours=f"{ci} (places {str(places)[1:-1]})")

    return judge


def upper(rows: Rows, method: str) -> Judgement:
    """P not below Prune's by more than the margin, where Prune has learned something."""
    ours, theirs = cells(rows, "place_success", method, "compo_prune")
    ci = paired_diff(ours, theirs)
    text = f"{ci} ({ours.mean():.2f} against {theirs.mean():.2f})"
    if theirs.mean() < LEARNED:
        return Judgement(INCONCLUSIVE, f"{text}; Prune has not learned enough")
    return not_worse(ci, MARGIN, ours=text)


def longer(rows: Rows, method: str) -> Judgement:
    """The lead over PackNet on twenty tasks: above 0, and above that on ten of the same data."""
    own = plain(rows).of(metric="performance")
    leads, growth = list[float](), list[float]()
    for twenty in (t for t in streams(rows) if t.startswith("ocw20")):
        pair = [own.of(task=twenty.replace("20", n, 1)) for n in ("20", "10")]
        a, b = (np.subtract(*p.of(method=method).paired(p.of(method="packnet"))) for p in pair)
        if len(a) != len(b):
            raise NoResults("seeds of ten and of twenty tasks")
        leads, growth = [*leads, *a], [*growth, *(a - b)]
    if not leads:
        raise NoResults("streams of twenty tasks")
    return all_of({"lead": by_interval(mean_ci(leads)), "growth": by_interval(mean_ci(growth))})


def claim(name: str, statement: str, source: str, paper: str, judge: Judge, **more: Any) -> Claim:
    """A claim of CompoFormer-Prune about every stream unless told otherwise."""
    more = {"method": "compo_prune", "specific": "shared" not in more, "tasks": (ANY,), **more}
    judge = judge if judge is longer else in_each(judge)
    return Claim(f"compo.{name}", statement, source, paper, judge, **more)


TABLE, ABLATION, ERROR = "Main table", "Ablation (figure)", "held-out action error"

PAPER = {"packnet": "+0.05 (OCW10), +0.16 (OCW20)", "lora": "+0.06 (OCW10), +0.07 (OCW20)"}


def pair(method: str, rival: str, error: bool = False) -> Claim:
    """A variant of CompoFormer is ahead of its rival, which owns weights in the same way."""
    names = METHODS.label(method), METHODS.label(rival)
    success = "{} outperforms {}: success after the last task, paired over places and seeds"
    fit = "{} fits better than {}: log ratio of held-out action errors after the last task (ours)"
    return claim(
        f"vs_{rival}_error" if error else f"vs_{rival}",
        (fit if error else success).format(*names),
        *(("Not in the paper", "–") if error else (TABLE, PAPER[rival])),
        ahead(rival, error),
        method=method,
        against=(rival,),
        headline=rival == "packnet" and not error,
    )


CLAIMS = [
    pair("compo_prune", "packnet"),
    pair("compo_grow", "lora"),
    pair("compo_prune", "packnet", error=True),
    pair("compo_grow", "lora", error=True),
    claim(
        "forgetting",
        f"Finetuning forgets (F above {FORGETS}); CompoFormer forgets nothing, its earlier "
        "policies stay bit for bit",
        *(TABLE, "F 0.73 and −0.01 (OCW10)", stays),
        against=("finetune",),
        shared="by construction of whatever leaves earlier tasks' weights alone",
    ),
    claim(
        "beats_finetune",
        "CompoFormer-Prune outperforms finetuning and EWC: success after the last task",
        *(TABLE, "+0.58 and +0.53 (OCW10)", beats),
        against=("finetune", "ewc"),
        shared="whatever does not forget meets it",
    ),
    claim(
        "reuse",
        f"Tasks that come again are recognised: their earlier selves have the largest weight in "
        f"{RECOGNISED} of the repeats",
        *("Section on reuse", "no number", recognises),
        shared="picking the source that errs least on the task's data does without attention",
    ),
    claim(
        "attention",
        f"Attentive composition beats a uniform one: log ratio of {ERROR}s where both have learned "
        "on two or more sources",
        *(ABLATION, "no number", mixes_better("compo_uniform")),
        method="compo_grow",
        against=("compo_uniform",),
    ),
    claim(
        "sources",
        f"Sources help beyond the wider head: log ratio of {ERROR}s to the same with zeros in "
        "their place (ours)",
        *("Not in the paper", "–", mixes_better("compo_own")),
        method="compo_grow",
        against=("compo_own",),
        shared="another mixture of the same sources may help as well",
    ),
    claim(
        "upper",
        f"Training on all tasks at once is an upper reference: its success at most {MARGIN} below "
        f"Prune's, which is {LEARNED} or more",
        *(TABLE, "+0.06 (OCW10), +0.07 (OCW20)", upper),
        method="multitask",
        against=("compo_prune",),
        shared="whatever is as good as Prune meets it",
    ),
    claim(
        "longer",
        "CompoFormer-Prune's lead over PackNet grows with the stream: twenty tasks against ten",
        *(TABLE, "+0.16 against +0.05", longer),
        tasks=("ocw10*", "ocw20*"),
        against=("packnet",),
        shared="whatever loses less with length than PackNet meets it",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
