"""The claims of QGFN: what is said, and how rows of a method decide it, on the tasks run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import spearmanr

from common.claims import (
    Claim,
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
from papers.qgfn.methods import METHODS
from papers.qgfn.reading import matched, own_sweep

SPEARMAN, KEPT = 0.9, 0.7  # thresholds of q3
SAME = 1e-9  # "at least": the interval of the difference does not reach below zero

TITLES = {"bits": "bits", "rna": "RNA8", "qed": "QED4", "seh": "sEH", "qm9str": "QM9 strings"}
REWARD = ("bits", "qed", "seh", "qm9str")  # tasks of q1, where they were run
MODES = ("bits", "seh")  # q2
CONTROL = ("bits", "rna", "qed", "seh", "qm9str")  # q3
DIVERSITY = ("bits", "qed", "seh")  # q4


def where(
    rows: Rows, tasks: Sequence[str], one: Callable[[Rows], Judgement], **labels: str
) -> Judgement:
    """A judgement on each of ``tasks`` that has rows with ``labels``; all are required."""
    parts = {TITLES[t]: one(rows.of(task=t)) for t in tasks if rows.of(task=t, **labels)}
    if not parts:
        raise NoResults(f"none of the tasks {', '.join(tasks)}")
    return all_of(parts, spell_out=len(parts))


def higher_reward(rows: Rows, method: str) -> Judgement:
    """q1: mean raw R of the last training samples, the judged method minus TB at the same beta."""

    def one(rows: Rows) -> Judgement:
        reward = rows.of(metric="mean_reward_last")
        ours, base = reward.of(method=method), reward.of(method="tb")
        gap = ours.minus(base)
        share = 100 * gap.value / base.value()
        text = f"{ours.value():.3f} − {base.value():.3f} = {gap} ({share:+.1f} %)"
        return by_interval(gap, ours=text, percent=share)

    return where(rows, REWARD, one, method="tb")


def more_modes(rows: Rows, method: str) -> Judgement:
    """q2a: modes found by the end of training: more than TB, and at least as many as Q alone."""

    def one(rows: Rows) -> Judgement:
        found = rows.of(metric="modes_found")
        ours = found.of(method=method)
        gaps = {name: ours.minus(found.of(method=name)) for name in ("tb", "dqn")}
        parts = {
            f"{ours.value():.1f} − TB": by_interval(gaps["tb"]),
            "− Q alone": not_worse(gaps["dqn"], SAME),
        }
        strong = found.of(method="tb-4beta")
        return all_of(parts, f"TB(4β) finds {strong.value():.1f}" if strong else "")

    return where(rows, MODES, one, method="tb")


def modes_sooner(rows: Rows, method: str) -> Judgement:
    """q2b: modes found, mean over training, the judged method minus TB at 4 beta."""

    def one(rows: Rows) -> Judgement:
        both = {}
        for name in (method, "tb-4beta"):
            both[name] = rows.of(method=name, metric="modes").curve(least=2)[1].mean(1)
        if len(both[method]) != len(both["tb-4beta"]):
            raise NoResults("the methods have different seeds")
        gap = mean_ci(both[method] - both["tb-4beta"])
        text = f"{both[method].mean():.1f} against {both['tb-4beta'].mean():.1f}; difference {gap}"
        return by_interval(gap, ours=text)

    return where(rows, MODES, one, method="tb-4beta")


def rises(rows: Rows, method: str) -> Judgement:
    """q3a: Spearman of mean R and p over the sweep, mean over seeds; equal rewards are ties."""

    def one(rows: Rows) -> Judgement:
        p, reward = own_sweep(rows, method, "reward")
        ranks = [spearmanr(p, r).statistic if np.ptp(r) else 0.0 for r in reward]
        return by_interval(mean_ci(ranks), SPEARMAN)

    return where(rows, CONTROL, one, metric="sweep_reward", method=method)


def stays_diverse(rows: Rows, method: str) -> Judgement:
    """q3b: mean pairwise distance at the method's own p, as a share of that at p = 0."""

    def one(rows: Rows) -> Judgement:
        own_sweep(rows, method, "distance")
        distance = rows.of(method=method, metric="sweep_distance", mixture=METHODS[method].mixture)
        chosen, at_zero = (distance.of(step=p) for p in (METHODS[method].p, 0.0))
        return by_interval(chosen.over(at_zero), KEPT)

    return where(rows, CONTROL, one, metric="sweep_distance", method=method)


def more_diverse_than_q(rows: Rows, method: str) -> Judgement:
    """q4a: mean pairwise distance of the final model's samples, minus that of Q alone."""

    def one(rows: Rows) -> Judgement:
        distance = rows.of(metric="final_distance")
        ours, base = distance.of(method=method), distance.of(method="dqn")
        gap = ours.minus(base)
        return not_worse(gap, SAME, ours=f"{ours.value():.3f} − {base.value():.3f} = {gap}")

    return where(rows, DIVERSITY, one, method="dqn")


def diverse_at_equal_reward(rows: Rows, method: str) -> Judgement:
    """q4b: mean pairwise distance at TB(4 beta)'s mean reward, minus TB(4 beta)'s."""

    def one(rows: Rows) -> Judgement:
        at = matched(rows, method, "tb-4beta")
        gap, most = mean_ci(at.ours - at.theirs), mean_ci(at.before - at.theirs)
        text = f"{at.ours.mean():.3f} − {at.theirs.mean():.3f} = {gap}"
        if missed := int((~at.reached).sum()):
            text += f" ({missed} of {len(at.reached)} seeds never reach it)"
        judged = not_worse(gap, SAME, ours=text, at_the_last_p_below=most.value)
        details = f"{text}; at the last p of the sweep below that reward {most}"
        return Judgement(judged.verdict, text, judged.evidence, details)

    return where(rows, DIVERSITY, one, method="tb-4beta")


def many_steps(rows: Rows, method: str) -> Judgement:
    """q5: mean raw R of the last training samples on bits, minus that of the same with n = 1."""
    rival = METHODS[method].one_step
    if rival is None:
        raise NoResults(f"{method} has no form with n = 1")
    reward = rows.of(task="bits", metric="mean_reward_last")
    ours, near = reward.of(method=method), reward.of(method=rival)
    gap = ours.minus(near)
    return not_worse(gap, SAME, ours=f"{ours.value():.3f} − {near.value():.3f} = {gap}")


def nothing_at_zero(rows: Rows, method: str) -> Judgement:
    """q6: the largest difference of probabilities between a trained mixture at p = 0 and P_F."""
    gaps = rows.of(method=method, metric="p0_gap").frame
    if gaps.empty:
        raise NoResults(f"no mixture of {method} at p = 0")
    worst = float(gaps.value.max())
    return compare(worst, 0.0, above=False, ours=f"largest difference {worst:g} ({len(gaps)} runs)")


CLAIMS = [
    Claim(
        "q1",
        "p-of-max samples higher mean reward than TB at the same β (last tenth of training; bits, "
        "QED4)",
        *("Section 4", "fragments, recalled: 0.78 → 0.97 (+24 %)"),
        *(higher_reward, "p-of-max", ("bits",), ("tb",)),
        headline=True,
    ),
    Claim(
        "q2a",
        "p-greedy finds more modes of bits than TB, and no fewer than Q alone, in equal "
        "trajectories (64,000)",
        *("Section 4", "curves only"),
        *(more_modes, "p-greedy", ("bits",), ("tb", "dqn")),
    ),
    Claim(
        "q2b",
        "…and finds them sooner than TB(4β): modes of bits, mean over training (our addition)",
        *("Section 1, against a larger β", "–"),
        *(modes_sooner, "p-greedy", ("bits",), ("tb-4beta",)),
    ),
    Claim(
        "q3a",
        "Control at inference: one trained pair's mean reward rises with p (Spearman ≥ 0.9; bits, "
        "RNA8, QED4)",
        *("Section 5", "curves only", rises, "p-of-max", ("bits",)),
    ),
    Claim(
        "q3b",
        "…and diversity at the trained p is at least 0.7 of that at p = 0 (bits, RNA8, QED4)",
        *("Section 5", "curves only", stays_diverse, "p-of-max", ("bits",)),
    ),
    Claim(
        "q4a",
        "p-of-max is at least as diverse as Q alone (pairwise distance of 1,000 samples; bits, "
        "QED4)",
        *("Section 4", "similarity, recalled: 0.545 → 0.51"),
        *(more_diverse_than_q, "p-of-max", ("bits",), ("dqn",)),
    ),
    Claim(
        "q4b",
        "…and at TB(4β)'s mean reward (p interpolated per seed) at least as diverse as TB(4β)",
        *("Section 4", "–"),
        *(diverse_at_equal_reward, "p-of-max", ("bits",), ("tb-4beta",)),
    ),
    Claim(
        "q5",
        "Many-step targets: p-of-max 0.9 with n = T reaches at least the mean reward of n = 1 "
        "(bits)",
        *("Section 5", "n near the length is best"),
        *(many_steps, "p-of-max", ("bits",), ("p-of-max-n1",)),
    ),
    Claim(
        "q6",
        "p = 0 gives the trained P_F bit for bit (states of rollouts)",
        *("Section 3.2", "exact", nothing_at_zero, "p-of-max", ("*",)),
        specific=False,
        shared="each mixture's formula says so; p-quantile alone is not continuous there",
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
