"""The claims of MAST as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

from dataclasses import replace

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
)
from common.stats import Interval, diff, ratio_of_means
from papers.mast.config import Config
from papers.mast.methods import METHODS

MAP = "smax-3m"
PLAIN = ("ss", "set", "rigl")  # sparse training as it is, one-step targets
DENSE = ("dense", "dense-lambda")  # the better one is what sparse networks are held against
LEARNED = 0.6  # win rate of the dense networks below which ratios say nothing
KEPT = 0.9  # share of the dense win rate (the paper: .97 and more)
FINAL = "final_win_rate"


def final(rows: Rows, method: str) -> np.ndarray:
    """Win rate per seed, mean of the last three evaluations."""
    return rows.of(task=MAP, method=method, metric=FINAL).values()


def better_dense(rows: Rows) -> str:
    """Of the two dense references, the one with the higher mean."""
    there = [m for m in DENSE if rows.of(task=MAP, method=m, metric=FINAL)]
    if not there:
        raise NoResults("final win rate of a dense network")
    return max(there, key=lambda m: final(rows, m).mean())


def small(rows: Rows, method: str) -> Judgement:
    """C1: ratios of operations and size to the dense networks', and connections that stay."""
    own = rows.of(task=MAP, method=method)
    share = 1 - Config().sparsity
    limits = {"act_ratio": 1.1 * share + 0.01, "train_ratio": 1.1 * share + 0.01}
    limits["size_ratio"] = share + 0.03
    found = {name: own.of(metric=name).values(least=1).max() for name in limits}
    parts = {name: compare(float(found[name]), limits[name], above=False) for name in limits}
    changed = own.of(metric="layers_changed").values(least=1).max()
    parts["layers whose size changed"] = compare(float(changed), 0.0, above=False)
    text = ", ".join(f"{name.split('_')[0]} {value:.3f}×" for name, value in found.items())
    return replace(all_of(parts), ours=text)


def near_dense(rows: Rows, method: str) -> Judgement:
    """C2: ratio of mean final win rates to the better dense one's."""
    best = better_dense(rows)
    ours, dense = final(rows, method), final(rows, best)
    ci = ratio_of_means(ours, dense)
    text = f"{ci} ({ours.mean():.2f} against {dense.mean():.2f}, {METHODS.label(best)})"
    if dense.mean() < LEARNED:
        return Judgement(INCONCLUSIVE, text + "; dense networks have not learned enough")
    return by_interval(ci, KEPT, ours=text)


def less(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Interval of the difference of means of independent runs."""
    return diff(ours, theirs)


def above_plain(rows: Rows, method: str) -> Judgement:
    """C3: final win rate less that of static, SET and RigL: pooled decides, each is printed."""
    ours = final(rows, method)
    each = {m: final(rows, m) for m in PLAIN if m != method}
    ci = less(ours, np.concatenate(list(each.values())))
    parts = [f"{METHODS.label(m)} {less(ours, values)}" for m, values in each.items()]
    return by_interval(ci, ours=f"{ci} pooled ({', '.join(parts)})")


def above(rival: str) -> Judge:
    """Final win rate less that of another method."""

    def judge(rows: Rows, method: str) -> Judgement:
        ours, theirs = final(rows, method), final(rows, rival)
        ci = less(ours, theirs)
        return by_interval(ci, ours=f"{ci} ({ours.mean():.2f} against {theirs.mean():.2f})")

    return judge


def less_biased(rows: Rows, method: str) -> Judgement:
    """C5: |mean(V - return)| without Soft Mellowmax less that with it."""
    of = rows.of(task=MAP, metric="absolute_bias")
    without, ours = of.of(method="mast-sm").values(), of.of(method=method).values()
    signed = rows.of(task=MAP, metric="bias")
    means = [signed.of(method=m).value() for m in (method, "mast-sm")]
    ci = less(without, ours)
    return by_interval(ci, ours=f"{ci} (bias {means[0]:+.3f} against {means[1]:+.3f})")


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, **more: object
) -> Claim:
    """A claim of MAST unless told otherwise; ``shared`` says why it is not specific."""
    more = {"method": "mast", "specific": "shared" not in more, "tasks": (MAP,), **more}
    return Claim(name, statement, source, paper, judge, **more)  # type: ignore[arg-type]


TABLE, SETTING = "Table 1", "(S = .95)"

CLAIMS = [
    claim(
        "C1",
        "Operations of training and acting, and size, are the share of connections "
        "(1.1 (1 − S) + .01; size + .03); layers keep theirs",
        *(TABLE, "size .066×, training .051×", small),
        only=("default", "paper"),
        shared="every way to train this sparsely does",
    ),
    claim(
        "C2",
        f"Little is lost: final win rate above {KEPT} of the better dense network's "
        "(SMAX-3m, QMIX, S = .95, 120,000 steps)",
        *(TABLE, "97 to 101 %", near_dense),
        against=DENSE,
        headline=True,
    ),
    claim(
        "C3",
        f"Better than static, SET and RigL as they are: final win rate, pooled {SETTING}",
        *(TABLE, "101 against 92, 96, 95 %", above_plain),
        against=PLAIN,
    ),
    claim(
        "C3b",
        f"Better than RLx2, multi-step and dynamic buffer: final win rate {SETTING}",
        *(TABLE, "101 against 12 %", above("rlx2")),
        against=("rlx2",),
    ),
    claim(
        "C4",
        f"Better than a dense network of equal size: final win rate {SETTING}",
        *(TABLE, "101 against 98 %", above("tiny")),
        against=("tiny",),
    ),
    claim(
        "C5",
        "Soft Mellowmax brings values closer to returns: |mean(V − return)| of greedy episodes "
        f"below double Q's {SETTING}",
        *("Figure on overestimation", "lower estimates", less_biased),
        against=("mast-sm",),
        shared="one-step methods are judged by their own operator",
    ),
    claim(
        "C6",
        f"Two buffers help sparse networks: final win rate above one buffer's {SETTING}",
        *("Figure of the dual buffer", "helps", above("mast-dual")),
        against=("mast-dual",),
        shared="a method with more than this may be better than one buffer, too",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
