"""The learners that are compared: what each learns and how. A new one is added here only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.rpe.baselines import MUNCHAUSEN_ALPHA
from papers.rpe.method import LossSpace

Kind = Literal["rpe", "gflownet", "dqn", "tables"]


@dataclass(frozen=True)
class Learner(Method):
    """A ``--method``.

    Attributes:
        kind: which loss: policy evaluation (of the uniform policy, rolled out), a GFlowNet's, soft
            Q-learning's (on-policy both), or none: the tables of a task.
        rectified: rpe: R' = R g; else R' = R.
        loss_space: rpe: the paper's squared error of values, or of their logarithms.
        objective: gflownet: name in ``common.gfn.objectives``.
        alpha: dqn: Munchausen's alpha.
    """

    kind: Kind = "rpe"
    rectified: bool = True
    loss_space: LossSpace = "value"
    objective: str = ""
    alpha: float = 0.0

    @property
    def own_log_Z(self) -> bool:
        """log Z is a parameter of its own."""
        return self.objective == "tb"

    def n_outputs(self, n_actions: int, n_backward: int) -> int:
        """v(s), or forward logits (Q, log edge flows), backward logits, log F."""
        return 1 if self.kind == "rpe" else n_actions + n_backward + 1


METHODS = Methods(
    Learner("rpe", "RPE", "method"),
    Learner("rpe-unrectified", "unrectified", "ablation", rectified=False),
    Learner("fm", "FM", "baseline", "gflownet", objective="fm"),
    Learner("db", "DB", "baseline", "gflownet", objective="db"),
    Learner("tb", "TB", "baseline", "gflownet", objective="tb"),
    Learner("subtb", "SubTB(0.9)", "baseline", "gflownet", objective="stb"),
    Learner("soft-dqn", "soft DQN", "baseline", "dqn"),
    Learner("rpe-log", "RPE, log loss", "variant", loss_space="log"),
    Learner(
        "rpe-log-unrectified",
        "unrectified, log loss",
        "ablation",
        rectified=False,
        loss_space="log",
    ),
    Learner("munchausen-dqn", "Munchausen DQN", "baseline", "dqn", alpha=MUNCHAUSEN_ALPHA),
    Learner("exact", "exact tables", "reference", "tables"),
)
