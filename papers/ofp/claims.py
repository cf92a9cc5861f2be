"""The claims of One-Step Flow Policy: what is said, and how rows of a policy decide it.

An interval is over training seeds, paired where methods share them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
from papers.ofp.methods import METHODS, T_W
from papers.ofp.reading import PAPER, A, B, Cell, at, cells, other_radii

MARGIN = 0.05  # of non-inferiority, fixed before the runs
FASTER = 70.0  # times that 100 calls have to cost more than one


def better(
    rival: Cell,
    calls: int = 1,
    *,
    metric: str = "success",
    task: str = A,
    margin: float = 0.0,
    smaller: bool = False,
) -> Judge:
    """A method's difference to a rival is above -margin (``smaller``: below 0), paired by seed."""

    def judge(rows: Rows, method: str) -> Judgement:
        ours, theirs = cells(rows, task, metric, (method, calls), rival)
        ci = ours.minus(theirs)
        text = f"{ours.value():.3f} against {theirs.value():.3f}: {ci}"
        judged = by_interval(ci, -margin, above=not smaller, ours=text)
        if task != A or metric != "success":
            return judged
        return replace(judged, details=text + other_radii(rows, (method, calls), rival))

    return judge


def together(**judges: Judge) -> Judge:
    """Several judges, all of which have to be met; "_" in a name is a blank."""

    def judge(rows: Rows, method: str) -> Judgement:
        return all_of({name.replace("_", " "): part(rows, method) for name, part in judges.items()})

    return judge


def more_calls_help(rows: Rows, method: str) -> Judgement:
    """OFP-4-more: four calls against one of the same weights, in W1 and in success."""
    parts = {}
    for metric, smaller in (("w1", True), ("success", False)):
        four, one = cells(rows, A, metric, (method, 4), (method, 1))
        parts[metric.replace("w1", "W1")] = by_interval(four.minus(one), above=not smaller)
    return all_of(parts)


def faster(rows: Rows, method: str) -> Judgement:
    """OFP-3: medians of interleaved calls, the smaller of the two networks' ratios."""
    ratios = {}
    for name, task in (("A", A), ("B", B)):
        hundred, one = cells(rows, task, "latency_ms", ("fm", 100), (method, 1))
        ratios[name] = hundred.value() / one.value()
    text = ", ".join(f"{ratio:.0f}× (network of {name})" for name, ratio in ratios.items())
    return compare(min(ratios.values()), FASTER, ours=text, **ratios)


def warm_start_helps(task: str) -> Judge:
    """OFP-6: the gap between chunks with the warm start against without; success not lower."""

    def judge(rows: Rows, method: str) -> Judgement:
        def change(metric: str) -> Any:
            warm, cold = (at(rows, task, metric, (method, 1), t_w=t) for t in (T_W, 0.0))
            return warm.minus(cold)

        gap = by_interval(change("gap"), above=False)
        return all_of({"gap": gap, "success": by_interval(change("success"), -MARGIN)})

    return judge


TABLE_1 = ("abstract; Table 1", "71.6 v 59.8 % (56 tasks)")
RIVALS = ("Table 1 (MP1)", "71.6 v 57.4 % (56 tasks)")
INTRO = ("introduction", "no loss of quality")
FEW_STEPS = ("few-step table", "OFP@1 64.5, OFP@4 66.2 %")
CARRIES = ("ablations", "it carries few-step quality")
GUIDANCE = ("ablations", "it carries the one-step gain")
WARM = ("ablations", "it always helps")
OURS = ("our addition", "–")
SPEED = "any policy of one call on this network is as fast"
KEPT = "ablations of other parts keep the warm start"
ON_A = "(A, r = .15, 5 seeds)"


def claim(
    id: str,
    statement: str,
    source: tuple[str, str],
    judge: Judge,
    against: str = "",
    task: str = A,
    shared: str = "",
    headline: bool = False,
) -> Claim:
    """A claim of OFP. The study's seeds chose the defaults, so that it decides none.

    Flow matching with another number of calls is a rival and a candidate at once: it stays out of
    ``against``, so that it is put into OFP's place as well.
    """
    return Claim(
        *(id, statement, *source, judge, "ofp", (task,), tuple(against.split())),
        specific=not shared,
        shared=shared,
        headline=headline,
        only=("paper",) if task == PAPER else ("default",),
    )


def as_good(name: str, where: str, task: str) -> Claim:
    """OFP-1 on a task."""
    text = "One call succeeds as often as 100 Euler steps of FM: difference above −.05"
    judge = better(("fm", 100), margin=MARGIN, task=task)
    return claim(
        f"OFP-1-{name}", f"{text} {where}", TABLE_1, judge, task=task, headline=name == "A"
    )


def beats_euler(n: int, word: str) -> Claim:
    """OFP-4: as many calls as Euler steps."""
    text = f"{word} calls beat as many Euler steps in success, on-mode share and W1 {ON_A}"
    judge = together(
        success=better(("fm", n), n),
        on_mode=better(("fm", n), n, metric="on_mode"),
        W1=better(("fm", n), n, metric="w1", smaller=True),
    )
    return claim(f"OFP-4-equal-{n}", text, OURS, judge, "fm")


def consistent(name: str, where: str, task: str) -> Claim:
    """OFP-6 on a task."""
    text = "The warm start lowers one call's gap between chunks; success falls by .05 at most"
    judge = warm_start_helps(task)
    return claim(f"OFP-6-{name}", f"{text} {where}", WARM, judge, task=task, shared=KEPT)


def beats_meanflow(name: str, where: str, task: str) -> Claim:
    """OFP-7 on a task."""
    judge = better(("meanflow", 1), task=task)
    text = f"One call succeeds more often than one of MeanFlow {where}"
    return claim(f"OFP-7-{name}", text, RIVALS, judge, "meanflow", task)


CLAIMS = [
    as_good("A", ON_A, A),
    as_good("B", "(B, 3 seeds)", B),
    as_good("56", "(the paper's tasks)", PAPER),
    claim(
        "OFP-2-success",
        f"One call succeeds more often than one Euler step {ON_A}",
        INTRO,
        better(("fm", 1)),
        "fm",
    ),
    claim(
        "OFP-2-modes",
        "One call's first chunks are on a mode of the expert more often than one Euler step's (A)",
        INTRO,
        better(("fm", 1), metric="on_mode"),
        "fm",
    ),
    claim(
        "OFP-2-BC",
        f"One call succeeds more often than regression {ON_A}",
        OURS,
        better(("bc", 1)),
        "bc",
    ),
    claim(
        "OFP-3",
        "100 Euler steps take at least 70 times as long as one call (batch 1, one thread)",
        ("abstract", "106× (flow), 183× (DP3)"),
        faster,
        shared=SPEED,
    ),
    claim(
        "OFP-4-more",
        f"Four calls of the same weights have a lower W1 and succeed more often than one {ON_A}",
        FEW_STEPS,
        more_calls_help,
    ),
    claim(
        "OFP-4-few",
        f"Four calls succeed as often as 100 Euler steps: difference above −.05 {ON_A}",
        FEW_STEPS,
        better(("fm", 100), 4, margin=MARGIN),
    ),
    beats_euler(2, "Two"),
    beats_euler(4, "Four"),
    claim(
        "OFP-5-SC",
        "One call's on-mode share is above that without self-consistency, and above one Euler "
        "step's (A)",
        CARRIES,
        together(
            ablated=better(("ofp-no-sc", 1), metric="on_mode"),
            Euler=better(("fm", 1), metric="on_mode"),
        ),
        "ofp-no-sc fm",
    ),
    claim(
        "OFP-5-ρ",
        "One call's on-mode share is above that without contraction, ρ = 1 (A)",
        OURS,
        better(("ofp-rho1", 1), metric="on_mode"),
        "ofp-rho1",
    ),
    claim(
        "OFP-5-SG",
        f"Self-guidance raises one call's success and on-mode share {ON_A}",
        GUIDANCE,
        together(
            success=better(("ofp-no-sg", 1)),
            on_mode=better(("ofp-no-sg", 1), metric="on_mode"),
        ),
        "ofp-no-sg",
    ),
    consistent("A", ON_A, A),
    consistent("B", "(B, 3 seeds)", B),
    claim(
        "OFP-6-level",
        "One warm call has a smaller gap between chunks than 100 Euler steps from noise (A)",
        OURS,
        better(("fm", 100), metric="gap", smaller=True),
    ),
    beats_meanflow("A", ON_A, A),
    beats_meanflow("B", "(B, 3 seeds)", B),
    beats_meanflow("56", "(the paper's tasks)", PAPER),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
