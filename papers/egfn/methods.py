"""The methods that are compared: which objective, what population, what is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.egfn.method import Rule


@dataclass(frozen=True)
class Learner(Method):
    """The same loop with parts left out; nothing else differs between methods."""

    objective: Literal["db", "tb", "fm"] = "db"
    population: Literal["none", "evolved", "random", "noisy"] = "none"
    replay: Rule | None = None  # None: on-policy only
    mutation: bool = True
    crossover: bool = True
    feedback: bool = False  # the star's weights overwrite the worst agent
    polluted: bool = False  # fitness as the authors' code computes it
    ties: Literal["keep", "replace"] = "keep"
    same_calls: bool = False  # own batch as large as batch + K E: equal reward calls per step


EVOLVED = {"population": "evolved", "replay": "percentile"}
METHODS = Methods(
    Learner("egfn-db", "EGFN-DB", "method", "db", **EVOLVED),
    # the plain objective, replay without a population, the population's calls as a larger batch
    Learner("db", "DB", "baseline", "db"),
    Learner("db-prb", "DB + PRB", "baseline", "db", replay="percentile"),
    # populations without selection: fresh agents in every step, mutated once or untouched
    Learner("egfn-noise", "noise, no selection", "ablation", "db", "noisy", "percentile"),
    Learner("db-2.25x", "DB, 36 a step", "baseline", "db", same_calls=True),
    Learner("egfn-random", "random population", "ablation", "db", "random", "percentile"),
    Learner("egfn-no-mutation", "EGFN, no mutation", "ablation", **EVOLVED, mutation=False),
    # the other objectives
    Learner("egfn-tb", "EGFN-TB", "variant", "tb", **EVOLVED),
    Learner("tb", "TB", "baseline", "tb"),
    Learner("tb-prb", "TB + PRB", "baseline", "tb", replay="percentile"),
    Learner("egfn-fm", "EGFN-FM", "variant", "fm", **EVOLVED),
    Learner("fm", "FM", "baseline", "fm"),
    # the paper's further ablations
    Learner("egfn-no-crossover", "EGFN, no crossover", "ablation", **EVOLVED, crossover=False),
    Learner("egfn-plain", "EGFN, plain", "ablation", "db", "evolved", "newest", mutation=False),
    Learner("db-replay", "DB + plain replay", "baseline", "db", replay="newest"),
    # options of the text or the authors' code
    Learner("egfn-feedback", "EGFN, feedback", "variant", **EVOLVED, feedback=True),
    Learner("egfn-polluted", "EGFN, polluted fitness", "variant", **EVOLVED, polluted=True),
    Learner("egfn-ties", "EGFN, ties replace", "variant", **EVOLVED, ties="replace"),
    Learner("egfn-proportional", "EGFN, by reward", "variant", "db", "evolved", "reward"),
)
