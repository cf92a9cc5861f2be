"""What is compared: reconstructions of the same pruned models, and bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.liar import baselines, method
from papers.liar.method import ShrinkTo, Solver, Target

Kind = Literal["closed", "retrain", "dense", "untrained"]


@dataclass(frozen=True)
class Reconstruction(Method):
    """How a pruned model is put right.

    Attributes:
        solve: a module's weights from its moments.
        target: what its output is to be (see :class:`papers.liar.method.Recipe`).
        ridge: lambda, relative; "adaptive": chosen on a third of the texts.
        shrink_to: what the ridge pulls towards.
        way: what it does with single weights (see :mod:`papers.liar.sparse`); "": nothing.
        kind: closed form; gradient steps after pruning; the unpruned model; its layers with
            random weights.
    """

    solve: Solver = baselines.none
    target: Target = "local"
    ridge: str = "1e-4"
    shrink_to: ShrinkTo = "old"
    way: str = ""
    kind: Kind = "closed"


CHOSEN = "1e-2"  # ridge of LIAR, by the tuning; where three digits are equal: 1e-4

METHODS = Methods(
    Reconstruction("liar", "LIAR", "method", method.liar, ridge=CHOSEN, way="liar"),
    Reconstruction("liar-q", "LIAR-Q", "variant", method.liar_q),
    Reconstruction("liar-w", "LIAR, weights only", "variant", method.liar_weights, ridge=CHOSEN),
    Reconstruction("none", "no reconstruction", "ablation", way="none"),
    Reconstruction("mask", "mask tuning", "baseline", baselines.mask_tuning),
    Reconstruction(
        "bias", "bias compensation", "baseline", baselines.bias_compensation, way="bias"
    ),
    Reconstruction(
        "liar-dense", "LIAR, dense target", "variant", method.liar, "dense", ridge=CHOSEN
    ),
    Reconstruction(
        "liar-stream", "LIAR, residual target", "variant", method.liar, "stream", ridge=CHOSEN
    ),
    Reconstruction(
        "liar-zero", "LIAR, ridge to 0", "variant", method.liar, ridge=CHOSEN, shrink_to="zero"
    ),
    Reconstruction("liar-adaptive", "LIAR, λ chosen", "variant", method.liar, ridge="adaptive"),
    Reconstruction("sparsegpt", "SparseGPT", "baseline", way="sparsegpt"),
    Reconstruction("retrain", "retraining", "reference", kind="retrain"),
    Reconstruction("dense", "unpruned", "reference", kind="dense"),
    Reconstruction("untrained", "random layers", "reference", kind="untrained"),
)

__all__ = ["METHODS", "Kind", "Reconstruction"]
