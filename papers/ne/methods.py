"""The methods that are compared. A name says what is done to the network; the task says in what:
TD3 (cycle, MuJoCo), DrQ (pixels), a classifier (probe)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.methods import Method, Methods

Review = Literal["none", "change", "fau"]
Remedy = Literal["none", "redo", "reset"]

_DENSE = {"growth": "none", "prune": "none", "start_sparsity": 0.0, "end_sparsity": 0.0}
_STATIC = {"growth": "none", "prune": "none"}


@dataclass(frozen=True)
class Plastic(Method):
    """What is done to the networks.

    Attributes:
        changes: fields of ``method.NEConfig`` that differ from the task's.
        review: when batches come from the early part of the buffer: once the dormant ratio calms
            down, while few units are activated (authors' code), or never.
        remedy: what is done to a dense network instead.
        actor: whether the actor grows, too; else its first topology stays.
        narrow: dense layers so narrow that a network has as many weights as a sparse one at first.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    review: Review = "none"
    remedy: Remedy = "none"
    actor: bool = True
    narrow: bool = False


METHODS = Methods(
    Plastic("ne", "NE", "method", review="change"),
    Plastic("ne-fau", "NE, gate by FAU", "variant", review="fau"),
    Plastic("ne-critic", "NE, critic alone", "variant", review="change", actor=False),
    Plastic("ne-no-review", "NE without review", "ablation"),
    Plastic("ne-no-prune", "NE without pruning", "ablation", {"prune": "none"}, "change"),
    Plastic("ne-random", "NE, random growth", "ablation", {"growth": "random"}, "change"),
    Plastic("ne-zero-bias", "NE, no revival", "ablation", {"prune": "zero-bias"}, "change"),
    Plastic("dense", "dense", "baseline", _DENSE),
    Plastic("static", "static sparse", "baseline", _STATIC),
    Plastic("small", "small dense", "baseline", _DENSE, narrow=True),
    Plastic("redo", "dense, ReDo", "baseline", _DENSE, remedy="redo"),
    Plastic("reset", "dense, resets", "baseline", _DENSE, remedy="reset"),
)

__all__ = ["METHODS", "Plastic", "Remedy", "Review"]
