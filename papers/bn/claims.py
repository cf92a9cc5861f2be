"""The paper's claims: what is said, and how rows of a method decide it."""

from __future__ import annotations

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
    compare,
)
from papers.bn.methods import METHODS

GRIDS_AND_SETS = ("g1", "g2", "g3", "g4")
HARD = ("g3", "g4")
ENUMERATED = (*GRIDS_AND_SETS, "rna", "qed")
NO_NUMBER = "figure only"
EXACT = 1e-3  # bn1
NOT_SLOWER, AS_GOOD, AS_MANY = 1.1, 1.25, 0.95  # bn3a, bn4, bn5: fixed before the runs
JUDGED_AT = ("default", "paper")  # the tuning has several rates per method
CLEARLY = 3  # bn2: tasks whose interval has to lie above 0


def exact(rows: Rows, method: str) -> Judgement:
    """bn1: exact L1 and error of log Z of the solved equation, the worst start of each."""
    parts = {}
    for metric, name in (("l1_end", "L1"), ("log_Z_error_end", "|log F(s0) − log Z|")):
        found = rows.of(task="tabular", method=method, metric=metric).values(least=1)
        worst = float(found.max())
        parts[name] = compare(worst, EXACT, above=False, ours=f"{worst:.1e}")
    return all_of(parts)


def faster_than(other: str) -> Judge:
    """bn2: the judge of "area below that of ``other`` on G1-G4, clearly on three of them"."""

    def judge(rows: Rows, method: str) -> Judgement:
        area = {t: rows.of(task=t, metric="area") for t in GRIDS_AND_SETS}
        gaps = {
            task: of.of(method=other).minus(of.of(method=method), paired=False)
            for task, of in area.items()
        }
        ahead = sum(gap.value > 0 for gap in gaps.values())
        clearly = sum(gap.low > 0 for gap in gaps.values())
        if ahead == len(gaps) and clearly >= CLEARLY:
            verdict = REPRODUCED
        else:
            behind = any(gap.high < 0 for gap in gaps.values())
            verdict = CONTRADICTED if behind else INCONCLUSIVE
        text = ", ".join(f"{task.upper()} {gap}" for task, gap in gaps.items())
        evidence = {t: {"gap": g.value, "low": g.low, "high": g.high} for t, g in gaps.items()}
        return Judgement(
            verdict, text, {**evidence, "means_ahead": ahead, "intervals_above_0": clearly}
        )

    return judge


def not_slower(rows: Rows, method: str) -> Judgement:
    """bn3a: area over FM's, on G3 and on G4."""
    parts = {}
    for task in HARD:
        area = rows.of(task=task, metric="area")
        ratio = area.of(method=method).over(area.of(method="fm"), paired=False)
        parts[task.upper()] = by_interval(ratio, NOT_SLOWER, above=False, ours=f"× {ratio}")
    return all_of(parts)


def faster(rows: Rows, method: str) -> Judgement:
    """bn3b: FM's area minus the judged method's, on G3 and on G4."""
    parts = {}
    for task in HARD:
        area = rows.of(task=task, metric="area")
        gap = area.of(method="fm").minus(area.of(method=method), paired=False)
        parts[task.upper()] = by_interval(gap)
    return all_of(parts)


def fit(rows: Rows, method: str) -> Judgement:
    """bn4: final L1 over that of the best other method of the paper, on every task."""
    parts = {}
    for task in ENUMERATED:
        final = rows.of(task=task, metric="l1_final")
        best = best_of(final, method, largest=False)
        ratio = final.of(method=method).over(final.of(method=best), paired=False)
        text = f"{ratio} × {METHODS.label(best)}"
        parts[task.upper()] = by_interval(ratio, AS_GOOD, above=False, ours=text, best=best)
    return all_of(parts, spell_out=0)


def modes(rows: Rows, method: str) -> Judgement:
    """bn5: mean over training of the modes found, over that of the best rival."""
    found = rows.of(task="rna", metric="modes_area")
    rivals = found.of(method=METHODS.having("baseline"))
    best = best_of(rivals, method, largest=True)
    ours, theirs = found.of(method=method), found.of(method=best)
    ratio = ours.over(theirs, paired=False)
    text = f"{ours.value():.0f} against {theirs.value():.0f} ({METHODS.label(best)}): × {ratio}"
    return by_interval(ratio, AS_MANY, ours=text, best=best)


def best_of(rows: Rows, method: str, *, largest: bool) -> str:
    """The method of the paper with the best mean, the judged one apart.

    Raises:
        NoResults: if no other has rows.
    """
    means = {
        name: rows.of(method=name).value()
        for name in METHODS.of_the_paper
        if name != method and rows.of(method=name)
    }
    if not means:
        raise NoResults(f"nothing to compare {method} with")
    return (max if largest else min)(means, key=lambda name: means[name])


CLAIMS = [
    Claim(
        "bn1",
        "Zero loss samples in proportion to the reward: tabular BN (D=2, H=8) ends with exact L1 "
        "and error of log Z below 1e-3",
        "abstract; guarantee kept",
        "exact",
        exact,
        "bn",
        ("tabular",),
        specific=False,
        shared="every GFlowNet loss has this guarantee; it is claimed that factorising keeps it",
    ),
    Claim(
        "bn2a",
        "Converges faster than DB: smaller area under the L1 curve on G1–G4, clearly on three "
        "(2,000 or 1,500 steps, 5 seeds)",
        "abstract, figures",
        NO_NUMBER,
        faster_than("db"),
        "bn",
        GRIDS_AND_SETS,
        against=("db",),
        headline=True,
        only=JUDGED_AT,
    ),
    Claim(
        "bn2b",
        "…and than TB, in the same sense",
        "abstract, figures",
        NO_NUMBER,
        faster_than("tb"),
        "bn",
        GRIDS_AND_SETS,
        against=("tb",),
        only=JUDGED_AT,
    ),
    Claim(
        "bn3a",
        "Not slower than edge flows: area at most 1.1 × FM's on G3 and G4 (5 seeds)",
        "abstract, figures",
        NO_NUMBER,
        not_slower,
        "bn",
        HARD,
        against=("fm",),
        only=JUDGED_AT,
    ),
    Claim(
        "bn3b",
        "Faster than edge flows: area below FM's on G3 and G4 (5 seeds)",
        "abstract, figures",
        NO_NUMBER,
        faster,
        "bn",
        HARD,
        against=("fm",),
        only=JUDGED_AT,
    ),
    Claim(
        "bn4",
        "Fits the target as well: final L1 within 1.25 × the best method's on all six tasks "
        "(constant rates, chosen by area)",
        "abstract, figures",
        NO_NUMBER,
        fit,
        "bn",
        ENUMERATED,
        only=JUDGED_AT,
    ),
    Claim(
        "bn5",
        "Finds high-reward objects as early: RNA modes, mean count over 2,000 steps, at least "
        "0.95 × the best baseline's",
        "abstract, figures",
        NO_NUMBER,
        modes,
        "bn",
        ("rna",),
        only=JUDGED_AT,
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
