"""The methods that are compared: MEow, its ablations, and SAC at two rates of the slow copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.methods import Method, Methods


@dataclass(frozen=True)
class Learner(Method):
    """How a method is trained.

    Attributes:
        kind: a flow (MEow), soft actor-critic, or stable-baselines3's (trained by reference.py).
        changes: fields of ``method.MEowConfig`` that a variant sets.
        tau: its own step of the slow copy; None: the environment's, which is MEow's.
    """

    kind: Literal["flow", "sac", "peer"] = "flow"
    changes: Mapping[str, Any] = field(default_factory=dict)
    tau: float | None = None

    @property
    def has_value(self) -> bool:
        """Whether it has a soft value of its own, and with it determinants."""
        return self.kind == "flow"


USUAL = 0.005  # SAC's step of the slow critics on MuJoCo; ten times MEow's on multi-goal

METHODS = Methods(
    Learner("meow", "MEow", "method"),  # LRS and SCDQ
    Learner("meow-fast", "MEow, τ = .005", "variant", tau=USUAL),
    Learner("meow-lrs", "MEow, LRS only", "ablation", changes={"shifts": 1}),
    # without LRS there is nothing that SCDQ could clip
    Learner("meow-vanilla", "MEow, neither LRS nor SCDQ", "ablation", changes={"shifts": 0}),
    Learner("meow-affine", "MEow, affine", "variant", changes={"coupling": "affine"}),
    Learner(
        *("meow-vanilla-affine", "neither, affine", "ablation"),
        changes={"shifts": 0, "coupling": "affine"},
    ),
    Learner("sac", "SAC, τ = .005", "baseline", "sac", tau=USUAL),
    Learner("sac-slow", "SAC, MEow's τ", "baseline", "sac"),
    Learner("sb3-sac", "SAC (stable-baselines3)", "baseline", "peer", tau=USUAL),
)
