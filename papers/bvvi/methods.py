"""The methods of BVVI's comparison: one table for training, claims, tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import NDArray

from common.methods import Method, Methods
from papers.bvvi import baselines, method
from papers.bvvi.method import MYOPIC, NEXT, SELF, Setup, iota, solve
from papers.bvvi.task import POMDP, Array


@dataclass(frozen=True)
class Learner(Method):
    """A learner, or a planner that is told the model (``learn`` is None).

    Attributes:
        learn: episodes first + 1 ... last, as :func:`method.learn`.
        new_state: what it counts, empty.
        current_policy: the policy that it would play next.
        q_bonus: what it judges an action by, see :func:`method.plan`.
        explores: has a bonus, hence a scale c.
        risk_neutral: plans with gamma -> 0.
        told_the_model: the exact value that its plan has where it is told the model ("" : none).
    """

    learn: Callable[..., None] | None = method.learn
    new_state: Callable[[POMDP], tuple[Array, ...]] = method.new_counts
    current_policy: Callable[[POMDP, Setup, tuple], NDArray] = method.current_policy
    q_bonus: int = NEXT
    explores: bool = True
    risk_neutral: bool = False
    told_the_model: str = "v_star"

    def scale(self, c: float) -> float:
        """The bonus scale that it runs with when ``c`` is asked for; 0 without a bonus."""
        return c if self.explores else 0.0

    def setup(
        self, env: POMDP, gamma: float, c: float, episodes: int, delta: float, exact_first: bool
    ) -> Setup:
        """What it is told on an environment."""
        return Setup(
            gamma=gamma,
            plan_gamma=baselines.RISK_NEUTRAL if self.risk_neutral else gamma,
            scale=self.scale(c),
            iota=iota(env, episodes, delta),
            v_star=solve(env, gamma).value,
            q_bonus=self.q_bonus,
            exact_first=exact_first,
        )


METHODS = Methods(
    Learner("bvvi_next", "BVVI (next)", "method"),
    Learner("bvvi_self", "BVVI (self)", "variant", q_bonus=SELF),
    Learner("greedy", "greedy plug-in", "ablation", explores=False),
    Learner(
        "risk_neutral",
        "risk-neutral BVVI",
        "ablation",
        risk_neutral=True,
        told_the_model="j_risk_neutral",
    ),
    Learner(
        "myopic",
        "myopic (β = 1)",
        "ablation",
        q_bonus=MYOPIC,
        explores=False,
        told_the_model="j_myopic",
    ),
    Learner(
        "rsvi2",
        "RSVI2, o as state",
        "baseline",
        learn=baselines.rsvi2_learn,
        new_state=baselines.new_sums,
        current_policy=baselines.rsvi2_policy,
        told_the_model="",
    ),
    Learner("planner", "planner", "reference", learn=None, told_the_model=""),
)
