"""What is compared: MST, without its parts, other sparse trainings, smaller dense ones."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.mst.baselines import rigl, set_
from papers.mst.method import Evolve, mixed_growing


@dataclass(frozen=True)
class Scheme(Method):
    """How sparse a training is, and how its connections move.

    Attributes:
        sparsity: three phases ("varied"), the same without a restoration ("unrestored"), one
            level throughout ("constant"), or none ("dense").
        evolve: an update of the topology; None: the masks stay.
        gradient: it looks at dense gradients, which cost.
        cuts: attention is sparse in the ultra phase.
        search: share of the iterations that look for a lottery ticket, dense.
        cheaper: a dense training that costs as much as MST's: a narrower model, or fewer steps.
    """

    sparsity: Literal["varied", "unrestored", "constant", "dense"] = "dense"
    evolve: Evolve | None = None
    gradient: bool = False
    cuts: bool = False
    search: float = 0.0
    cheaper: Literal["", "narrow", "short"] = ""


def grows(ratio: float) -> Evolve:
    """Mixed growing with another share of gradient."""
    return functools.partial(mixed_growing, ratio=ratio)


MG = {"evolve": grows(3.0), "gradient": True}  # r = 3: three quarters by gradient
METHODS = Methods(
    Scheme("mst", "MST", "method", "varied", **MG, cuts=True),
    Scheme("mst-no-restore", "MST, no restoration", "ablation", "unrestored", **MG, cuts=True),
    Scheme("mst-no-hsa", "MST, full attention", "ablation", "varied", **MG),
    Scheme("mst-gradient", "MST, r = ∞", "ablation", "varied", grows(math.inf), True, True),
    Scheme("mst-random", "MST, r = 0", "ablation", "varied", grows(0.0), cuts=True),
    Scheme("mg", "mixed growing, constant", "ablation", "constant", **MG),
    Scheme("rigl", "RigL", "baseline", "constant", rigl, True),
    Scheme("set", "SET", "baseline", "constant", set_),
    Scheme("static", "static sparse", "baseline", "constant"),
    Scheme("lottery", "lottery ticket", "baseline", "constant", search=0.1),
    Scheme("dense-small", "dense, narrower", "baseline", cheaper="narrow"),
    Scheme("dense-short", "dense, shorter", "baseline", cheaper="short"),
    Scheme("dense", "dense", "reference"),
)

__all__ = ["METHODS", "Scheme"]
