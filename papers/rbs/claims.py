"""The claims of RBS: what is said, and how rows of a method decide it."""

from __future__ import annotations

from collections.abc import Callable

from common.claims import (
    CONTRADICTED,
    Claim,
    Judgement,
    Rows,
    all_of,
    by_interval,
    claims_cli,
    not_worse,
)
from common.stats import Interval
from papers.rbs.methods import METHODS

FASTER = 0.7  # r1: at most so much of HER's updates
SOLVED = 0.9  # r3: "near 100 %"
MARGIN = 0.05  # r5: success that the regulariser may cost
SUCCESS = "final_success"
Judge = Callable[[Rows, str], Judgement]


def of(rows: Rows, task: str, method: str, metric: str = SUCCESS) -> Rows:
    """A metric of a method on a task, one number per seed."""
    return rows.of(task=task, method=method, metric=metric)


def difference(ours: Rows, theirs: Rows) -> tuple[Interval, str]:
    """Ours minus theirs, paired by seed, and the text of the cell."""
    ci = ours.minus(theirs)
    return ci, f"{ours.value():.3f} against {theirs.value():.3f}; difference {ci}"


def above(task: str, rival: str, metric: str = SUCCESS) -> Judge:
    """The judged method's metric minus a rival's lies above 0."""

    def judge(rows: Rows, method: str) -> Judgement:
        ci, text = difference(of(rows, task, method, metric), of(rows, task, rival, metric))
        return by_interval(ci, ours=text)

    return judge


def at_least(task: str, rival: str, metric: str = SUCCESS, margin: float = 0.0) -> Judge:
    """The judged method's metric is not below a rival's by more than ``margin``."""

    def judge(rows: Rows, method: str) -> Judgement:
        ci, text = difference(of(rows, task, method, metric), of(rows, task, rival, metric))
        return not_worse(ci, margin, ours=text)

    return judge


def sooner(rows: Rows, method: str) -> Judgement:
    """r1: updates to 50 % success on G16 over HER's; one that is not reached counts as the cap."""
    ours, theirs = (of(rows, "g16", m, "updates_to_half") for m in (method, "her-db"))
    ci = ours.over(theirs)
    capped = [
        int((of(rows, "g16", m, "reached_half").values() == 0).sum()) for m in (method, "her-db")
    ]
    text = f"{ours.value():.0f} against {theirs.value():.0f} updates; ratio {ci}"
    if capped[1]:
        text += f" (HER: {capped[1]} seeds not within the run)"
    judged = by_interval(ci, FASTER, above=False, ours=text, capped=capped)
    if capped[0]:
        return Judgement(CONTRADICTED, f"not reached by {capped[0]} seeds; {text}", judged.evidence)
    return judged


def ladder(rows: Rows, method: str) -> Judgement:
    """r2: on G32 above HER, and HER above forward only."""
    return all_of(
        {
            "above HER": above("g32", "her-db")(rows, method),
            "HER above forward only": above("g32", "gc-db")(rows, "her-db"),
        }
    )


def solves(rows: Rows, method: str) -> Judgement:
    """r3: success on G16."""
    return by_interval(of(rows, "g16", method).ci(), SOLVED)


def regularised(rows: Rows, method: str) -> Judgement:
    """r5: entropy of P_B and success against RBS without the regulariser."""
    return all_of(
        {
            "entropy": at_least("g16", "rbs-noreg", "final_entropy")(rows, method),
            "success": at_least("g16", "rbs-noreg", margin=MARGIN)(rows, method),
        }
    )


def words(rows: Rows, method: str) -> Judgement:
    """r7: success on B20 above HER's and above forward only's."""
    return all_of(
        {
            "HER": above("b20", "her-db")(rows, method),
            "forward only": above("b20", "gc-db")(rows, method),
        }
    )


ABLATION, ADDED = "Section 5, ablations", "not in the paper"
CLAIMS = [
    Claim(
        "r1",
        "Sample efficiency: on G16 RBS-DB reaches 50 % success in at most 0.7 of HER-DB's updates",
        "Section 5, success curves",
        "large gain",
        sooner,
        "rbs-db",
        ("g16",),
        against=("her-db",),
        headline=True,
    ),
    Claim(
        "r2",
        "Larger grid (G32, 1,200 updates): success of RBS-DB > HER-DB > forward only",
        "Section 5, success curves",
        "near 100 % where others fail",
        ladder,
        "rbs-db",
        ("g32",),
        against=("her-db", "gc-db"),
    ),
    Claim(
        "r3",
        "RBS-DB's success is at least 0.9 (G16, 1,000 updates)",
        "Section 5",
        "near 100 %",
        solves,
        "rbs-db",
        ("g16",),
    ),
    Claim(
        "r4",
        "Unseen goals (G16, 20 % of cells held out): success of RBS-DB above HER-DB's",
        "Section 5, unseen goals",
        "better",
        above("g16-unseen", "her-db", "final_unseen"),
        "rbs-db",
        ("g16-unseen",),
        against=("her-db",),
    ),
    Claim(
        "r5",
        "Regulariser (G16): P_B's entropy is not lower with it, and success at most 0.05 lower",
        ABLATION,
        "needed",
        regularised,
        "rbs-db",
        ("g16",),
        against=("rbs-noreg",),
    ),
    Claim(
        "r6",
        "Other objectives (G16, 1,000 updates): RBS with SubTB has at least the success of HER "
        "with DB",
        "Section 5, SubTB version",
        "holds",
        at_least("g16", "her-db"),
        "rbs-subtb",
        ("g16",),
        against=("her-db",),
    ),
    Claim(
        "r6s",
        "…and at least that of HER with SubTB as well (G16, 1,000 updates)",
        ADDED,
        "–",
        at_least("g16", "her-subtb"),
        "rbs-subtb",
        ("g16",),
        against=("her-subtb",),
    ),
    Claim(
        "r7",
        "Words of 20 bits (1,200 updates, 512 goals): success of RBS-DB above HER-DB's and "
        "forward only's",
        "Section 5, bit sequences",
        "near 100 % where others fail",
        words,
        "rbs-db",
        ("b20",),
        against=("her-db", "gc-db"),
    ),
    Claim(
        "r7p",
        "…and above that of RBS with a uniform P_B (words of 20 bits, 1,200 updates)",
        ADDED,
        "–",
        above("b20", "rbs-uniform"),
        "rbs-db",
        ("b20",),
        against=("rbs-uniform",),
        specific=False,
        shared="any learned P_B is expected to, with the regulariser or without",
    ),
    Claim(
        "r8",
        "Intensified reward (words of 20 bits): success with C = 1,000 above that with C = 1",
        ABLATION,
        "needed",
        above("b20", "rbs-plain"),
        "rbs-db",
        ("b20",),
        against=("rbs-plain",),
        specific=False,
        shared="every method here but the rival has the intensified reward",
    ),
    Claim(
        "r9",
        "Age-based replay (words of 20 bits): success above that with uniform replay",
        ABLATION,
        "needed",
        above("b20", "rbs-noage"),
        "rbs-db",
        ("b20",),
        against=("rbs-noage",),
        specific=False,
        shared="every method here but the rival replays by age",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
