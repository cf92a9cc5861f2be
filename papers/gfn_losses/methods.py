"""The losses that are compared: names, labels, roles. A new one is added here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from common.methods import Method, Methods
from papers.gfn_losses.method import LOSSES, RegressionLoss


@dataclass(frozen=True)
class LossMethod(Method):
    """A regression loss in the same training loop."""

    loss: RegressionLoss


METHODS = Methods(
    LossMethod("linex1", "Linex(1)", "method", LOSSES["linex1"]),
    LossMethod("linex05", "Linex(1/2)", "variant", LOSSES["linex05"]),
    LossMethod("shifted-cosh", "Shifted-Cosh", "variant", LOSSES["shifted-cosh"]),
    LossMethod("quadratic", "Quadratic", "baseline", LOSSES["quadratic"]),
    kind="method",
)
