"""The methods that are compared: what accompanies a rollout, the loss, and P_B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods

Backward = Literal["learned", "uniform", "fixed"]  # P_B; fixed: one order for all goals


@dataclass(frozen=True)
class Learner(Method):
    """One loop for all; these are the lines that differ."""

    companion: Literal["rbs", "her"] | None = None  # beside each rollout in the replay buffer
    objective: Literal["db", "stb", "q"] = "db"  # detailed balance, SubTB, Q-learning
    backward: Backward = "learned"  # P_B
    regularised: bool = False  # KL(U || P_B)
    by_age: bool = True  # used items are drawn less
    log_C: float | None = None  # log C instead of the task's

    @property
    def greedy(self) -> bool:
        """The policy takes the best action instead of sampling one (Q-learning)."""
        return self.objective == "q"

    @property
    def has_backward_policy(self) -> bool:
        """There is a P_B (not in Q-learning)."""
        return self.objective != "q"


RBS = {"companion": "rbs", "regularised": True}
METHODS = Methods(
    Learner("rbs-db", "RBS-DB", "method", **RBS),
    Learner("her-db", "HER-DB", "baseline", "her"),
    Learner("gc-db", "GC-DB (forward only)", "baseline"),
    Learner("dqn-her", "DQN + HER", "baseline", "her", "q"),
    Learner("rbs-subtb", "RBS-SubTB(0.9)", "variant", objective="stb", **RBS),
    Learner("rbs-noreg", "RBS, no regulariser", "ablation", "rbs"),
    Learner("rbs-uniform", "RBS, uniform P_B", "ablation", "rbs", backward="uniform"),
    Learner("her-subtb", "HER-SubTB(0.9)", "baseline", "her", "stb"),
    # the other two techniques that the paper adds
    Learner("rbs-plain", "RBS, C = 1", "ablation", log_C=0.0, **RBS),
    Learner("rbs-noage", "RBS, uniform replay", "ablation", by_age=False, **RBS),
    # not of the paper: is it the order that P_B learns?
    Learner("rbs-fixed", "RBS, fixed order", "added", "rbs", backward="fixed"),
)
