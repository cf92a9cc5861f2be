"""The methods that are compared: MAST, its parts taken away, sparse training, small and dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.mast.method import Growth

Operator = Literal["double", "max", "sm"]
Target = Literal["one-step", "lambda", "hybrid", "n-step"]


@dataclass(frozen=True)
class Sparse(Method):
    """How a method is trained.

    Attributes:
        size: all connections, as many as the sparse ones have in a smaller dense network, or an
            Erdős–Rényi share of them.
        growth: how connections move.
        target: one-step; TD(lambda) throughout; one-step at first, then TD(lambda) (``hybrid``) or
            n steps (``n-step``).
        operator: value of a next state: the target's of the online network's best action, the
            target's maximum, or Soft Mellowmax.
        dual: whether a batch holds a share of the latest episodes.
        dynamic: whether the buffer forgets episodes that the policy would no longer play.
    """

    size: Literal["dense", "tiny", "sparse"] = "sparse"
    growth: Growth = "none"
    target: Target = "one-step"
    operator: Operator = "double"
    dual: bool = False
    dynamic: bool = False


MAST = {"growth": "gradient", "target": "hybrid", "operator": "sm", "dual": True}

METHODS = Methods(
    Sparse("mast", "MAST", "method", **MAST),  # type: ignore[arg-type]
    Sparse("dense", "dense", "reference", size="dense"),
    Sparse("dense-lambda", "dense, TD(λ)", "reference", size="dense", target="lambda"),
    Sparse("mast-td", "MAST, one-step", "ablation", **{**MAST, "target": "one-step"}),  # type: ignore[arg-type]
    Sparse("mast-sm", "MAST, double Q", "ablation", **{**MAST, "operator": "double"}),  # type: ignore[arg-type]
    Sparse("mast-dual", "MAST, one buffer", "ablation", **{**MAST, "dual": False}),  # type: ignore[arg-type]
    Sparse("rigl", "RigL", "baseline", growth="gradient"),
    Sparse("set", "SET", "baseline", growth="random"),
    Sparse("ss", "static sparse", "baseline"),
    Sparse("rlx2", "RLx2", "baseline", growth="gradient", target="n-step", dynamic=True),
    Sparse("tiny", "tiny dense", "baseline", size="tiny"),
    Sparse("dense-dual", "dense, two buffers", "reference", size="dense", dual=True),
    Sparse("ss-lambda", "static sparse, TD(λ)", "baseline", target="lambda"),
    Sparse("rigl-lambda", "RigL, TD(λ)", "baseline", growth="gradient", target="lambda"),
)

__all__ = ["METHODS", "Operator", "Sparse", "Target"]
