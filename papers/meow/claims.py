"""The claims of MEow as functions of the rows of eval.py and of the method that is judged."""

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
from common.stats import Interval, diff, paired_diff
from papers.meow.methods import METHODS

GOALS, LONG, CHEETAH = "multigoal", "multigoal-long", "HalfCheetah-v5"
EXACT = 1e-2  # largest |V - quadrature| / (1 + |V|)
RAREST = 0.05  # smallest share of a goal that counts as found
SHARE_OF_SAC = 0.7  # M7 at few steps
SETTLED = 2_000  # steps; what the determinants do afterwards is drift, before it is the start
PUBLISHED_ERROR = 20.0  # of both estimates of V at the start state, M = 2,000 to 10,000
LINEAR, NON_LINEAR = "log_det_linear", "log_det_nonlinear"
START = "0 0"  # the start state of multi-goal


def exact(rows: Rows, method: str) -> Judgement:
    """M1: the worst state of the worst seed, after 4,000 and after 12,000 steps."""
    own = rows.of(method=method, metric="exactness")
    found = np.concatenate([own.of(task=task).values(least=1) for task in (GOALS, LONG)])
    text = f"at most {found.max():.1e} (1 + |V|), {len(found)} networks"
    return compare(float(found.max()), EXACT, above=False, ours=text)


def over_states(rows: Rows, states: list[str]) -> np.ndarray:
    """Absolute values, mean over the states, per seed."""
    return np.mean([np.abs(rows.of(state=s).values()) for s in states or [START]], axis=0)


def less(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Interval of the difference of means, paired by seed where there are as many."""
    return paired_diff(ours, theirs) if len(ours) == len(theirs) else diff(ours, theirs)


def monte_carlo_errs(rows: Rows, method: str) -> Judgement:
    """M2a: error(M = 100) > error(M = 10,000) > the error of the flow's own V."""
    own = rows.of(task=GOALS, method=method)
    errors = own.of(metric="mc_error")
    states = errors.unique("state")
    few, many = (over_states(errors.of(samples=m), states) for m in (100.0, 10_000.0))
    exactly = over_states(own.of(metric="quadrature_error"), states)
    parts = {
        "M = 100 less M = 10,000": by_interval(less(few, many)),
        "M = 10,000 less the flow's own": by_interval(less(many, exactly)),
    }
    text = f"{few.mean():.2f} at M = 100, {many.mean():.3f} at M = 10,000"
    return replace(all_of(parts), ours=text)


def as_large_as_published(rows: Rows, method: str) -> Judgement:
    """M2b: at the start state, half the published error or more, and flat in M."""
    errors = rows.of(task=GOALS, method=method, metric="mc_error", state=START)
    few, many = (errors.of(samples=m) for m in (1_000.0, 10_000.0))
    parts = {
        "error": by_interval(many.ci(), PUBLISHED_ERROR / 2),
        "of that at 1,000": by_interval(many.over(few), 0.5),
    }
    return all_of(parts)


def every_goal(rows: Rows, method: str) -> Judgement:
    """M3a: in all seeds but one the rarest goal has a share that counts as found."""
    rarest = rows.of(task=GOALS, method=method, metric="rarest_goal")
    enough = int((rarest.values() >= RAREST).sum())
    text = f"{enough} of {len(rarest)} seeds; rarest goal's share {rarest.ci()}"
    return compare(enough, len(rarest) - 1, ours=text)


def more_evenly(rows: Rows, method: str) -> Judgement:
    """M3b: entropy of the goals less that of the SAC with the same rate of the slow copy."""
    rate = METHODS[method].tau
    rival = next(m.name for m in METHODS.values() if m.kind == "sac" and m.tau == rate)
    entropy = rows.of(task=GOALS, metric="goal_entropy")
    ours, sac = entropy.of(method=method), entropy.of(method=rival)
    ci = ours.minus(sac)
    text = f"{ci} nats ({ours.value():.2f} against {sac.value():.2f})"
    return by_interval(ci, ours=text)


def shifts_needed(rows: Rows, method: str) -> Judgement:
    """M4: final return less vanilla's."""
    final = rows.of(task=CHEETAH, metric="final_return")
    ours, without = final.of(method=method), final.of(method="meow-vanilla")
    ci = ours.minus(without)
    return by_interval(ci, ours=f"{ci} ({ours.value():.0f} against {without.value():.0f})")


def moved(rows: Rows, since: int) -> np.ndarray:
    """|end - value at the first point from ``since`` on| of a curve, per seed."""
    steps, values = rows.curve(least=2)
    if steps[-1] <= since:
        raise NoResults(f"{rows} after step {since}")
    return np.abs(values[:, -1] - values[:, np.argmax(steps >= since)])


def moves_more(metric: str, vanilla: str, since: int = 0) -> Judge:
    """M5: how far the log of a product of determinants moves, vanilla's less the method's."""

    def judge(rows: Rows, method: str) -> Judgement:
        of = rows.of(task=CHEETAH, metric=metric)
        without, ours = (moved(of.of(method=name), since) for name in (vanilla, method))
        ci = less(without, ours)
        return by_interval(ci, ours=f"{ci} ({without.mean():.2f} against {ours.mean():.2f})")

    return judge


def clipping_helps(rows: Rows, method: str) -> Judgement:
    """M6: area under the curve, less LRS alone."""
    area = rows.of(task=CHEETAH, metric="auc")
    return by_interval(area.of(method=method).minus(area.of(method="meow-lrs")))


def near_sac(rows: Rows, method: str) -> Judgement:
    """M7: final return at equal steps above 0.7 times SAC's."""
    final = rows.of(task=CHEETAH, metric="final_return")
    ours, sac = final.of(method=method).values(), final.of(method="sac").values()
    ci = diff(ours, SHARE_OF_SAC * sac)
    text = f"{ci} ({ours.mean():.0f} against {SHARE_OF_SAC} × {sac.mean():.0f})"
    if sac.mean() <= 0:  # the margin would be on the wrong side
        return Judgement(INCONCLUSIVE, text + "; SAC itself has no positive return")
    return by_interval(ci, ours=text)


ABLATION, FIGURE_1 = "Ablation figure", "Figure 1 (Hopper, 1e5 steps)"
HAS_SHIFTS = "LRS alone has the shift in question"


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, *tasks: str, **more: object
) -> Claim:
    """A claim of MEow unless told otherwise; ``shared`` says why it is not specific."""
    more = {"method": "meow", "specific": "shared" not in more, **more}
    return Claim(name, statement, source, paper, judge, tasks=tasks, **more)  # type: ignore[arg-type]


CLAIMS = [
    claim(
        "M1",
        f"V is exact: |V − α log ∫ exp(Q/α)| ≤ {EXACT:g} (1 + |V|) by quadrature at five states of "
        "every multi-goal network",
        *("Section 3, one flow", "exact", exact, GOALS, LONG),
        headline=True,
    ),
    claim(
        "M2a",
        "Monte-Carlo estimates of V err more than the flow's V and improve with M (uniform "
        "proposals, M = 100 and 10,000)",
        *("Figure of soft value estimates", "errs", monte_carlo_errs, GOALS),
        shared="any Monte-Carlo estimate of any exact value does",
        only=("default", "paper"),
    ),
    claim(
        "M2b",
        "The published error at the start state: 10 or more at M = 10,000, and at least half of "
        "that at M = 1,000",
        *("Figure of soft value estimates", "20 to 22, flat in M", as_large_as_published, GOALS),
        only=("default", "paper"),
    ),
    claim(
        "M3a",
        "Every goal is visited: each in 5 % or more of the episodes in 4 of 5 seeds (multi-goal, "
        "4,000 steps)",
        *("Multi-goal experiment", "all four goals", every_goal, GOALS),
        only=("study",),
    ),
    claim(
        "M3b",
        "More evenly than SAC at equal rate of the slow copy, τ = .0005: entropy of the goals "
        "(4,000 steps, 5 seeds)",
        *("Multi-goal experiment", "no number", more_evenly, GOALS),
        against=("sac-slow",),
        only=("study",),
    ),
    claim(
        "M4",
        "Reward shifting is necessary: final return on HalfCheetah above that without (30,000 "
        "steps, 5 seeds)",
        *(ABLATION, "11,500 against −100 after 1.5M steps", shifts_needed, CHEETAH),
        against=("meow-vanilla",),
        shared=HAS_SHIFTS + "; SAC needs none",
    ),
    claim(
        "M5a",
        "Without LRS the linear determinants move farther from their start: |Δ Σ log σ| "
        "(HalfCheetah, 30,000 steps, 5 seeds)",
        *(FIGURE_1, "product 1.7e-5 without, 2 with", moves_more(LINEAR, "meow-vanilla"), CHEETAH),
        against=("meow-vanilla",),
        shared=HAS_SHIFTS,
    ),
    claim(
        "M5b",
        f"They go on drifting: the same counted from step {SETTLED:,}",
        *(FIGURE_1, "grows over 1e5 steps", moves_more(LINEAR, "meow-vanilla", SETTLED), CHEETAH),
        against=("meow-vanilla",),
        shared=HAS_SHIFTS,
    ),
    claim(
        "M5c",
        "With affine couplings the non-linear log-product moves farther without LRS (HalfCheetah, "
        "2,000 steps, 5 seeds)",
        *(
            FIGURE_1,
            "5e13 (e^31.5) without",
            moves_more(NON_LINEAR, "meow-vanilla-affine"),
            CHEETAH,
        ),
        method="meow-affine",
        against=("meow-vanilla-affine",),
        only=("study",),
    ),
    claim(
        "M6",
        "SCDQ helps: area under the HalfCheetah curve above LRS alone (30,000 steps, 5 seeds)",
        *(ABLATION, "11,500 against 8,800 after 1.5M steps", clipping_helps, CHEETAH),
        against=("meow-lrs",),
    ),
    claim(
        "M7",
        f"Comparable to SAC: final return above {SHARE_OF_SAC} of SAC's (HalfCheetah, 30,000 "
        "steps; lr 1e-3 against 3e-4, α .25 against learned)",
        *("MuJoCo figure", "11,500 against 12,500 after 1.5M steps", near_sac, CHEETAH),
        against=("sac",),
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
