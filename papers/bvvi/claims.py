"""The claims of BVVI as functions of the rows and of the method that is judged.

A threshold on a learning curve is met when the whole 95 % bootstrap interval over seeds lies on its
right side. Regret is counted from exact values, so there is no other noise. A method that has no
bonus is judged by its only run, whatever the bonus scale c of the claim.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
from papers.bvvi.methods import METHODS
from papers.bvvi.reading import at_K, exact, final_J, growth, lengths, optimum, regret

SLOPE = 0.75  # C2: exponent 1/2 and 0.25 for a power of the logarithm
RATIO = 0.6  # C2: average regret at K over that at K/4; 0.5 for a square root
FINAL = {-3.0: 1.42, 1.0: 2.58}  # C5: least J on E-gamble, where more than risk-neutral planning's


def planning(rows: Rows, method: str) -> Judgement:
    """The value of the method's plan, told the model, is that of the best of all policy trees."""
    if not (metric := METHODS[method].told_the_model):
        raise NoResults(f"{METHODS[method].label} does not plan on a model")
    told = rows.of(method="planner", task="rand")
    cells = [
        (told.of(gamma=gamma, metric=metric), told.of(gamma=gamma, metric="v_enumerated"))
        for gamma in told.unique("gamma")
    ]
    off = [np.abs(np.subtract(*a.paired(b, least=1))) for a, b in cells]
    if not off:
        raise NoResults("the policy trees of E-rand were not enumerated")
    worst, n = float(np.concatenate(off).max()), sum(map(len, off))
    return compare(worst, 1e-10, above=False, ours=f"off by {worst:.1g} in {n} cells", cells=n)


def sublinear(task: str, c: float, *, longest: bool = False) -> Judge:
    """Exponent and average regret fall as those of a square root, at gamma = -1 and 1."""

    def judge(rows: Rows, method: str) -> Judgement:
        K = lengths(rows)
        if longest and len(K) < 2:
            raise NoResults("no runs beyond the main K")
        parts = {}
        for gamma in (-1.0, 1.0):
            slope, ratio = growth(regret(rows, method, task, gamma, c, K[-1 if longest else 0]))
            parts[f"γ={gamma:g} exponent"] = by_interval(slope, SLOPE, above=False)
            parts[f"γ={gamma:g} ratio"] = by_interval(ratio, RATIO, above=False)
        averse, seeking = (parts[f"γ={gamma} exponent"].ours for gamma in (-1, 1))
        return replace(all_of(parts), ours=f"{averse} at γ=−1, {seeking} at 1")

    return judge


def beats_greedy(rows: Rows, method: str) -> Judgement:
    """Greedy has more regret on the gamble."""
    ours, greedy = (at_K(rows, m, "gamble", -1.0, 0.02) for m in (method, "greedy"))
    difference = greedy.minus(ours)
    return by_interval(difference, ours=f"{ours.value():.3g} vs {greedy.value():.3g}: {difference}")


def hidden_costs(rows: Rows, method: str) -> Judgement:
    """More regret and a lower optimum when the state is hidden."""
    hidden, seen = (at_K(rows, method, task, 1.0, 1.0) for task in ("off", "off-full"))
    difference = hidden.minus(seen, paired=False)
    best, best_seen = optimum(rows, "off", 1.0), optimum(rows, "off-full", 1.0)
    text = f"{hidden.value():.3g} vs {seen.value():.3g}: {difference}"
    return all_of(
        {
            "regret": by_interval(difference, ours=text),
            "V*": compare(best_seen - best, 1e-9, ours=f"{best:.3f} < {best_seen:.3f}"),
        }
    )


def learns_risk(*gammas: float) -> Judge:
    """What is learnt at each gamma is better there than the risk-neutral optimum."""

    def judge(rows: Rows, method: str) -> Judgement:
        parts = {}
        for gamma in gammas:
            best = optimum(rows, "gamble", gamma)
            neutral = exact(rows, "gamble", gamma, "j_risk_neutral")
            J = mean_ci(final_J(regret(rows, method, "gamble", gamma, 0.02), best))
            threshold = max(FINAL.get(gamma, neutral), neutral)
            text = f"{J} vs {threshold:.3f}"
            parts[f"γ={gamma:g}"] = by_interval(J, threshold, ours=text, neutral=neutral, best=best)
        return all_of(parts)

    return judge


def grows_with(*gammas: float) -> Judge:
    """Regret at K on the authors' environment grows from each gamma to the next."""

    def judge(rows: Rows, method: str) -> Judgement:
        at = [at_K(rows, method, "off", gamma, 1.0) for gamma in gammas]
        parts = {
            f"γ={first:g} to {second:g}": by_interval(harsher.minus(milder))
            for first, second, milder, harsher in zip(gammas, gammas[1:], at, at[1:], strict=False)
        }
        return replace(all_of(parts), ours=", ".join(f"{one.value():.3g}" for one in at))

    return judge


THEOREM, FIGURES = "Theorem 6.1", "Experiments of the authors' repository"
RISK = "Motivation of the entropic risk measure"
PROBLEM = "it is a property of the problem, which every learner meets"
BONUS = "it is about optimism, and every learner with a bonus is optimistic"
SAME = "greedy and BVVI (self) plan with the same beta vectors, with no bonus on a known model"
AUTHORS = ("default", "paper")  # the scales with the authors' K


def claim(
    name: str, statement: str, source: str, paper: str, judge: Judge, *tasks: str, **more: Any
) -> Claim:
    """A claim of the paper's method; at the scales that have the K of its statement."""
    more = {"only": ("default",), **more}
    return Claim(name, statement, source, paper, judge, "bvvi_next", tasks, **more)


CLAIMS = [
    claim(
        "C1",
        "Told the model, planning with beta vectors is the best of all 16,384 policy trees "
        "(five random POMDPs, γ=±0.5, ±2; to 1e-10)",
        *("Bellman equations with risk beliefs and beta vectors", "equal", planning, "rand"),
        **{"specific": False, "shared": SAME},
    ),
    claim(
        "C2",
        "With the paper's constant (c=1) regret is sublinear on the authors' E-off: γ=±1, "
        "K=2,000, 20 seeds; exponent at most 0.75",
        *(THEOREM, "0.5 (√K)", sublinear("off", 1.0), "off"),
        **{"headline": True, "only": AUTHORS},
    ),
    claim(
        "C2b",
        "With the paper's constant (c=1) regret is sublinear on E-gamble: γ=±1, K=100,000, "
        "10 seeds; exponent at most 0.75",
        *(THEOREM, "0.5 (√K)", sublinear("gamble", 1.0, longest=True), "gamble"),
    ),
    claim(
        "C2c",
        "With c=0.02 (no theorem) regret is sublinear on E-gamble: γ=±1, K=2,000, 20 seeds; "
        "exponent at most 0.75",
        *(THEOREM, "0.5 (√K)", sublinear("gamble", 0.02), "gamble"),
    ),
    claim(
        "C3",
        "Optimism beats greedy where exploration matters: regret on E-gamble, γ=−1, c=0.02, "
        "K=2,000, 20 seeds",
        *("Optimism by the bonus", "√K < no bound", beats_greedy, "gamble"),
        **{"against": ("greedy",), "specific": False, "shared": BONUS},
    ),
    claim(
        "C4",
        "Partial observability costs (E-off, γ=1, c=1, K=2,000, 20 seeds): more regret than with "
        "the state seen, a lower optimum",
        *(FIGURES, "≈ 90, ≈ 48", hidden_costs, "off", "off-full"),
        **{"specific": False, "shared": PROBLEM, "only": AUTHORS},
    ),
    claim(
        "C5",
        "BVVI learns risk sensitivity: its last policies beat risk-neutral planning (E-gamble, "
        "γ=±1, c=0.02, K=2,000, 20 seeds)",
        *(RISK, "–", learns_risk(-1.0, 1.0), "gamble"),
    ),
    claim(
        "C5b",
        "The same at γ=−3, J at least 1.42: the optimum is the safe action that is tried first",
        *(RISK, "–", learns_risk(-3.0), "gamble"),
    ),
    claim(
        "C6",
        "Regret grows with risk aversion: E-off, c=1, K=2,000, 20 seeds, γ=−1, −3, −5",
        f"{THEOREM}, factor (e^{{abs(γ)H}} − 1)/(abs(γ)H)",
        *("≈ 400, 460 at −3, −5", grows_with(-1.0, -3.0, -5.0), "off"),
        **{"specific": False, "shared": PROBLEM, "only": AUTHORS},
    ),
    claim(
        "C6b",
        "Regret grows with risk seeking: E-off, c=1, K=2,000, 20 seeds, γ=1, 3, 5",
        f"{THEOREM}, the same factor; the authors' figures",
        *("≈ 87 at 1, then more", grows_with(1.0, 3.0, 5.0), "off"),
        **{"specific": False, "shared": PROBLEM, "only": AUTHORS},
    ),
]


if __name__ == "__main__":
    claims_cli(CLAIMS, METHODS)
