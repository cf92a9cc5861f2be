"""The agents that are compared, and what each changes of the task's TDIL.

The contribution is the reward of a transition discriminator, with its hard negatives. A method
that keeps it and lacks one of the agent's additions is a variant; one that lacks a part of it, an
ablation; one that has another reward or none, a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.methods import Method, Methods


@dataclass(frozen=True)
class Imitator(Method):
    """An agent.

    Attributes:
        changes: fields of ``method.TDILConfig`` that differ from the task's.
        rewarded: acts and is paid; else it clones the demonstration and does nothing more.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    rewarded: bool = True


METHODS = Methods(
    Imitator("tdil", "TDIL", "method"),
    Imitator("tdil-no-bc", "TDIL without BC", "variant", {"bc": False}),
    Imitator("tdil-no-filter", "TDIL without threshold", "variant", {"filtered": False}),
    Imitator("tdil-no-expert", "TDIL, no expert critic step", "variant", {"expert_critic": False}),
    Imitator("tdil-hard", "TDIL with hard negatives", "variant", {"hard_negatives": True}),
    Imitator("tdil-no-hard", "TDIL, no hard negatives", "ablation", {"hard_negatives": False}),
    # the authors' TDIL+IRL
    Imitator("tdil-irl", "TDIL + IRL, no BC", "variant", {"beta": 0.9, "bc": False}),
    Imitator("gail", "GAIL-style", "baseline", {"beta": 1.0, "bc": False}),
    Imitator("gail-bc", "GAIL-style + BC", "baseline", {"beta": 1.0}),
    Imitator("bc", "BC", "baseline", rewarded=False),
)
