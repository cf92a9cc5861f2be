"""The claims of DFAC as functions of the rows of eval.py and of the method that is judged."""

from __future__ import annotations

import numpy as np

from common.claims import (
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
from common.stats import mean_ci
from papers.dfac.methods import METHODS
from papers.dfac.task import SUPER_HARD

GAME, HARD, RANDOM = "game-m", "game-n", "digm"
MAP, NOISE, RELEASED = "smax-3m", "smax-3m-noise", "smax-3m-released"
MAPS = tuple(SUPER_HARD)
MEAN_ERROR = 0.5  # of E[Z_jt], in units of the pay-offs
LAW_ERROR = 0.4  # W1, mean over the cells; point masses at the exact means have 0.89
SOME = 0.01  # share of random networks
SAME = 1e-6  # difference of means in float64; C51's grid cuts off some 1e-8
PAIRS = ("dmix", "ddn")  # each with its rival (methods.METHODS)


def never_above(metric: str, threshold: float) -> Judge:
    """C1, C4: something of random networks, at most so large in the worst seed."""

    def judge(rows: Rows, method: str) -> Judgement:
        worst = rows.of(task=RANDOM, method=method, metric=metric).values(least=1).max()
        return compare(float(worst), threshold, above=False, ours=f"at most {worst:.2g}")

    return judge


def often(task: str, metric: str, limit: float = 0.5, *, above: bool = True, **at: float) -> Judge:
    """A quantity lies above (below) a limit in 4 of 5 seeds."""

    def judge(rows: Rows, method: str) -> Judgement:
        found = rows.of(task=task, method=method, metric=metric, **at).values()
        count = int(((found > limit) if above else (found <= limit)).sum())
        return compare(count, 0.8 * len(found), ours=f"{count} of {len(found)} seeds")

    return judge


def interval(task: str, metric: str, threshold: float, *, above: bool = False) -> Judge:
    """The mean of a quantity lies below (above) a threshold."""
    return lambda rows, method: by_interval(
        rows.of(task=task, method=method, metric=metric).ci(), threshold, above
    )


def optimal_and_exact(rows: Rows, method: str) -> Judgement:
    """C2a: the optimal play, and the worst cell's mean."""
    parts = {
        "optimal": often(GAME, "optimal")(rows, method),
        "worst mean": interval(GAME, "worst_mean_error", MEAN_ERROR)(rows, method),
    }
    return all_of(parts)


def better_than_points(rows: Rows, method: str) -> Judgement:
    """C3d: W1 over the harder game's cells below that of point masses at the exact means."""
    w1 = rows.of(task=HARD, metric="w1_mean")
    ci, points = w1.of(method=method).ci(), w1.of(method="true-means").value()
    return by_interval(ci, points, above=False, ours=f"{ci} against {points:.2f}")


def gains(rows: Rows, method: str, task: str, metric: str) -> dict[str, np.ndarray]:
    """Differences to the rivals of expectations by seed; of DMIX and DDN in DMIX's place."""
    of = rows.of(task=task, metric=metric)
    found = {}
    for name in PAIRS if method == "dmix" else (method,):
        rival = METHODS[name].rival
        if rival == name:
            raise NoResults(f"{METHODS.label(name)} extends no other method")
        ours, theirs = of.of(method=name).paired(of.of(method=rival))
        found[name] = ours - theirs
    return found


def higher_area(task: str) -> Judge:
    """C5: area under the win-rate curve, less that of the method of expectations, pooled."""

    def judge(rows: Rows, method: str) -> Judgement:
        found = np.concatenate(list(gains(rows, method, task, "auc").values()))
        return by_interval(mean_ci(found), ours=f"{mean_ci(found)}, {len(found)} pairs")

    return judge


def on_all_maps(rows: Rows, method: str) -> Judgement:
    """C5p: final win rate on every map, less that of the method of expectations."""
    parts = {}
    for task in MAPS:
        for name, found in gains(rows, method, task, "final_win_rate").items():
            parts[f"{task} {METHODS.label(name)}"] = by_interval(mean_ci(found))
    return all_of(parts)


def additive_leads(rows: Rows, method: str) -> Judgement:
    """C6: DDN's final win rate on every map, less DMIX's."""
    final = {task: rows.of(task=task, metric="final_win_rate") for task in MAPS}
    return all_of(
        {t: by_interval(f.of(method=method).minus(f.of(method="dmix"))) for t, f in final.items()}
    )


def nearer_than_a_point(rows: Rows, method: str) -> Judgement:
    """C7: W1 to the played returns, both with mean 0: the law's less that of its own means."""
    of = rows.of(task=NOISE, method=method)
    law, point = of.of(metric="w1_shape"), of.of(metric="w1_shape_point")
    text = f"{law.minus(point)} ({law.value():.2f} against {point.value():.2f})"
    return by_interval(law.minus(point), above=False, ours=text)


HARDER = "Harder matrix game (B)"
TWO_STEP = "Two-step game with random pay-offs"
PSI = "it is a property of the mean part, which DFAC takes over as it is"


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, *tasks: str, **more: object
) -> Claim:
    """A claim of DMIX unless told otherwise; ``shared`` says why it is not specific."""
    more = {"method": "dmix", "specific": "shared" not in more, **more}
    return Claim(name, statement, source, paper, judge, tasks=tasks, **more)  # type: ignore[arg-type]


CLAIMS = [
    claim(
        "C1",
        "DIGM: in none of 1,000 random networks (3 agents, 4 actions) are the agents' best "
        "actions not the best joint one",
        *("Theorem 2", "never", never_above("violations", 0), RANDOM),
    ),
    claim(
        "C1b",
        "QMIX's mixer on every quantile by itself breaks DIGM in over 1 % of 1,000 random networks",
        *("Theorem 1", "can happen", interval(RANDOM, "violations", SOME, above=True), RANDOM),
        method="naive",
    ),
    claim(
        "C2a",
        f"Two-step game: the optimal play in 4 of 5 seeds, worst error of a mean at most "
        f"{MEAN_ERROR} (5,000 updates)",
        *(TWO_STEP, "optimal; no number", optimal_and_exact, GAME),
        shared=PSI,
    ),
    claim(
        "C2b",
        f"Its laws are factorised: W1 to the exact ones at most {LAW_ERROR}, mean over four cells "
        "(point masses at exact means: 0.89)",
        *(TWO_STEP, "no number", interval(GAME, "w1_mean", LAW_ERROR), GAME),
        headline=True,
    ),
    claim(
        "C2c",
        "A sum cannot: DDN prefers the safe game (7) to the best play (8) in 4 of 5 seeds",
        *(TWO_STEP, "not optimal", often(GAME, "chooses_b", above=False, cvar=1.0), GAME),
        method="ddn",
        shared="VDN has the same mean part",
    ),
    claim(
        "C3a",
        "The harder game is not monotonic: DMIX misses its best joint action in 4 of 5 seeds",
        *(HARDER, "not found", often(HARD, "optimal", above=False), HARD),
        shared=PSI,
    ),
    claim(
        "C3b",
        "DPLEX finds the best joint action there in 4 of 5 seeds (5,000 updates)",
        *(HARDER, "found", often(HARD, "optimal"), HARD),
        method="dplex",
        shared=PSI,
    ),
    claim(
        "C3c",
        "… with the mean of the best cell within 1 of 8 in 4 of 5 seeds",
        *(HARDER, "no number", often(HARD, "best_cell_error", 1.0, above=False), HARD),
        method="dplex",
        shared=PSI,
    ),
    claim(
        "C3d",
        "… and with laws nearer to the exact ones than point masses at the exact means (W1, mean "
        "over nine cells)",
        *(HARDER, "no number", better_than_points, HARD),
        method="dplex",
        against=("true-means",),
    ),
    claim(
        "C4",
        f"The mean part is kept: E[Z_jt] = Ψ(Q) within {SAME:g} in 1,000 random networks (float64)",
        *("Mean-shape decomposition", "exact", never_above("mean_gap", SAME), RANDOM),
    ),
    claim(
        "C5",
        "SMAX-3m, 120,000 steps, same optimiser: win-rate area of DMIX above QMIX's and DDN's "
        "above VDN's, pooled over seeds",
        *("Super Hard maps of SMAC", "+1 to +84 points after 8M steps", higher_area(MAP), MAP),
        against=("qmix", "ddn", "vdn"),
    ),
    claim(
        "C5r",
        "The same as released: Adam for DFAC, RMSprop and double Q for the others",
        *("released configurations", "+1 to +84 points", higher_area(RELEASED), RELEASED),
        against=("qmix", "ddn", "vdn"),
        only=("study",),
    ),
    claim(
        "C5p",
        "Final win rate of DMIX above QMIX's and DDN's above VDN's on all five Super Hard maps",
        *("Table of Super Hard maps (A)", "yes; +1 to +84 points", on_all_maps, *MAPS),
        against=("qmix", "ddn", "vdn"),
        only=("paper",),
    ),
    claim(
        "C6",
        "DDN above DMIX on all five Super Hard maps",
        *("Table of Super Hard maps (A)", "yes; +2 to +34 points", additive_leads, *MAPS),
        method="ddn",
        against=("dmix",),
        only=("paper",),
    ),
    claim(
        "C7",
        "SMAX-3m, noise at the end: the law of the return from the first state is nearer to 512 "
        "played returns than its mean",
        *("laws of returns", "no number", nearer_than_a_point, NOISE),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
