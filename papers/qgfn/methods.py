"""The methods that are compared: which networks learn, which policy gathers the trajectories."""

from __future__ import annotations

from dataclasses import dataclass

from common.methods import Method, Methods

GFN_EPSILON = 5e-4  # random actions of a GFlowNet alone on strings [code]


@dataclass(frozen=True)
class Learner(Method):
    """The same loop with other networks, another behaviour or another exponent."""

    mixture: str | None = None  # name in method.MIXTURES; None: P_F (or uniform) alone
    p: float = 0.0  # greediness at the end of the ramp
    learns_pf: bool = True
    learns_q: bool = True
    beta_factor: float = 1.0  # the task's reward exponent times this
    beta: float | None = None  # the reward exponent itself
    epsilon: float = 0.0  # uniformly random actions; none while a mixture is active [code]
    n: int | None = None  # steps of the Q target; None: the trajectory's length
    one_step: str | None = None  # the same method with n = 1, which q5 compares with

    @property
    def ramps(self) -> bool:
        """Whether p rises from 0 (Q alone is greedy from the start)."""
        return self.mixture is not None and self.learns_pf

    @property
    def sweeps(self) -> bool:
        """Whether the trained pair can be sampled with every mixture at every p."""
        return self.learns_pf and self.learns_q


ONE_STEP = {"one_step": "p-of-max-n1"}
ALONE = {"learns_q": False, "epsilon": GFN_EPSILON}
METHODS = Methods(
    Learner("p-of-max", "p-of-max 0.9", "method", "p-of-max", 0.9, **ONE_STEP),  # no value given
    Learner("p-greedy", "p-greedy 0.4", "variant", "p-greedy", 0.4),  # [code: 0.4]
    Learner("p-quantile", "p-quantile 0.8", "variant", "p-quantile", 0.8),  # [code: 0.8]
    Learner("tb", "TB(β)", "baseline", **ALONE),
    Learner("tb-4beta", "TB(4β)", "baseline", **ALONE, beta_factor=4.0),
    # p-greedy at p = 1 with random actions: with n = T a regression on returns, no bootstrap
    Learner(
        *("dqn", "Q alone (Monte Carlo)", "baseline"),
        *("p-greedy", 1.0),
        learns_pf=False,
        epsilon=0.05,
    ),
    Learner("uniform", "uniform, untrained", "baseline", learns_pf=False, learns_q=False),
    Learner("tb-beta3", "TB(3)", "baseline", **ALONE, beta=3.0),  # the paper's beta on bits
    Learner("p-of-max-n1", "p-of-max, n=1", "variant", "p-of-max", 0.9, n=1),
    Learner("p-of-max-n3", "p-of-max, n=3", "variant", "p-of-max", 0.9, n=3, **ONE_STEP),
)
