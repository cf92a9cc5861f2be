"""The losses that are compared. A new one is a line here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from common.methods import Method, Methods
from papers.ne.baselines import squared
from papers.ne.method import huber


@dataclass(frozen=True)
class Loss(Method):
    """A loss of residuals, in the same network and loop."""

    loss: Callable[[Tensor], Tensor]


METHODS = Methods(
    Loss("huber", "Huber", "method", huber),
    Loss("squared", "Squared", "baseline", squared),
)
