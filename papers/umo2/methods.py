"""The table of policies, and of AdaPFOL alone: what training, evaluation, claims and tables read.

A reference is told what a scheduler cannot know: the capacities of the slot, their means over the
horizon, or the utility.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.methods import Method, Methods

# rules for the links
NSO, CURRENT, LAST, MEAN, UCB, WINDOW, FIXED, OGD = range(8)
# rules for the arrivals
EXOGENOUS, ADABGD, CONSTANT_BGD, DRIFT_PLUS_PENALTY, STATIC = range(5)

LEARNERS = (NSO, OGD)  # rules that descend on the losses of the links
OLO = "olo"  # task of AdaPFOL alone (see ``olo.py``)
UTILITY = "utility"  # task in which the arrivals are chosen as well


@dataclass(frozen=True)
class Policy(Method):
    """A policy of the tables.

    Attributes:
        links: a rule for the links; None where there is no network (AdaPFOL alone).
        arrivals: a rule for the arrivals.
        activated: one entry of a group is served, drawn from the allocation, and it alone is seen.
        rate: of STATIC arrivals.
        copies: of AdaBGD.
        fixed: of FIXED: "uniform" or "lp".
    """

    links: int | None = None
    arrivals: int = EXOGENOUS
    activated: bool = False
    rate: float = 0.0
    copies: int = 1
    fixed: str = ""

    def plays(self, task: str) -> bool:
        """Whether it is a policy of that task."""
        if self.links is None or task == OLO:
            return self.links is None and task == OLO
        return (self.arrivals != EXOGENOUS) == (task == UTILITY)


METHODS: Methods[Policy] = Methods(
    Policy("nso", "NSO", "method", NSO),
    Policy("nso_activated", "NSO (one entry seen)", "variant", NSO, activated=True),
    Policy("ogd", "OGD (one step-size)", "baseline", OGD),
    Policy("window", "backpressure (window UCB)", "baseline", WINDOW),
    Policy("ucb", "backpressure (UCB)", "baseline", UCB),
    Policy("mean", "backpressure (mean)", "baseline", MEAN),
    Policy("last", "backpressure (last seen)", "baseline", LAST),
    Policy("uniform", "uniform allocation", "baseline", FIXED, fixed="uniform"),
    Policy("fixed", "best fixed allocation", "reference", FIXED, fixed="lp"),
    Policy("current", "backpressure (current C)", "reference", CURRENT),
    Policy("umo2", "UMO²", "method", NSO, ADABGD),
    Policy("umo2_dynamic", "UMO² (4 copies)", "variant", NSO, ADABGD, copies=4),
    Policy("umo2_activated", "UMO² (one entry seen)", "variant", NSO, ADABGD, activated=True),
    Policy("bgd", "one-point BGD (constants)", "baseline", NSO, CONSTANT_BGD),
    Policy("static30", "static λ = 0.3", "baseline", NSO, STATIC, rate=0.3),
    Policy("static55", "static λ = 0.55", "baseline", NSO, STATIC, rate=0.55),
    Policy("dpp_nso", "drift-plus-penalty (known g)", "reference", NSO, DRIFT_PLUS_PENALTY),
    Policy("dpp", "drift-plus-penalty (known g, C)", "reference", CURRENT, DRIFT_PLUS_PENALTY),
    Policy("adapfol", "AdaPFOL", "method"),
    Policy("single", "one step-size of AdaPFOL's", "ablation"),
)


def policies(task: str) -> Methods[Policy]:
    """The policies of a task, in order."""
    return Methods(*(policy for policy in METHODS.values() if policy.plays(task)))
