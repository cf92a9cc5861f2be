"""The methods that are compared, stage by stage: behaviour, offline learners, online learners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods

Stage = Literal["data", "offline", "online"]
Penalty = Literal["none", "cfcql", "moderate", "macql"]
Explore = Literal["each", "sequential", "one"]

SMALL = 0.1  # epsilon at the start of the baselines that hardly explore
TUNED = 0.3  # the best of scale=tuning's grid for these methods (CFCQL kept: SMALL)


@dataclass(frozen=True)
class Learner(Method):
    """How a method is trained.

    Attributes:
        stage: it makes data, learns from them, or goes on from what was learnt of them.
        penalty: offline: the conservative term.
        clones: offline: it imitates the behaviour instead of learning values.
        pretrained: online: it begins with the offline value function.
        memory: online: lambda_m is 0, falls to 0, or stays at lambda_0.
        explore: online: epsilon for each agent, epsilon / n, or one agent with epsilon.
        epsilon: online: at the start.
        conserve: online: share of the offline conservative term that is kept.
        from_data: online: share of each batch that comes from the data set.
    """

    stage: Stage = "online"
    penalty: Penalty = "none"
    clones: bool = False
    pretrained: bool = True
    memory: Literal["none", "annealed", "fixed"] = "none"
    explore: Explore = "each"
    epsilon: float = 1.0
    conserve: float = 0.0
    from_data: float = 0.0

    @property
    def explores(self) -> tuple[str, float]:
        """Methods with the same explore alike."""
        return self.explore, self.epsilon


METHODS = Methods(
    Learner("ovmse", "OVMSE", "method", memory="annealed", explore="sequential"),
    Learner("ovm-only", "OVM only", "ablation", memory="annealed"),
    Learner("se-only", "SE only", "ablation", explore="sequential"),
    # the negative control: over-estimated memory can't be corrected
    Learner("ovmse-fixed", "OVMSE, λ fixed", "variant", memory="fixed", explore="sequential"),
    Learner("ovmse-one", "OVMSE, centralised SE", "variant", memory="annealed", explore="one"),
    # not of the paper: is it the sequence that helps, or just less noise?
    Learner("ovm-small", "OVM, small ε", "variant", memory="annealed", epsilon=SMALL),
    Learner("finetune-eps", "fine-tuning, ε", "baseline"),
    Learner("finetune-small", "fine-tuning, small ε", "baseline", epsilon=SMALL),
    Learner("keep-cql", "CFCQL kept", "baseline", epsilon=SMALL, penalty="cfcql", conserve=0.1),
    Learner("mix-50", "half offline data", "baseline", epsilon=SMALL, from_data=0.5),
    Learner("scratch", "from scratch", "baseline", pretrained=False),
    Learner(
        *("ovmse-tuned", "OVMSE, tuned ε", "variant"),
        **{"memory": "annealed", "explore": "sequential", "epsilon": TUNED},  # type: ignore[arg-type]
    ),
    Learner("se-tuned", "SE only, tuned ε", "ablation", explore="sequential", epsilon=TUNED),
    Learner("finetune-tuned", "fine-tuning, tuned ε", "baseline", epsilon=TUNED),
    Learner("mix-tuned", "half offline, tuned ε", "baseline", epsilon=TUNED, from_data=0.5),
    Learner("scratch-tuned", "scratch, tuned ε", "baseline", pretrained=False, epsilon=TUNED),
    Learner("qmix", "QMIX (behaviour)", "reference", stage="data"),
    Learner("cfcql", "CFCQL, offline", "reference", stage="offline", penalty="cfcql"),
    Learner("cfcql-moderate", "CFCQL, moderate", "reference", stage="offline", penalty="moderate"),
    Learner("macql", "MACQL, offline", "reference", stage="offline", penalty="macql"),
    Learner("bc", "behaviour cloning", "reference", stage="offline", clones=True),
)

__all__ = ["METHODS", "SMALL", "Explore", "Learner", "Penalty", "Stage"]
