"""Every number of every experiment: the paper's table (from the authors' code) and ours.

A task is a data set with a model; losses may differ from the task in a few numbers, as theirs do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from common.errors import choose

LOSSES = ("ml", "sml", "ssm", "dsm", "fdssm")
NO_MAP = ("ssm-nomap", "dsm-nomap", "fdssm-nomap")  # the score of pixels: the paper's ablation
METHODS = (*LOSSES, *NO_MAP)


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of one task and loss."""

    data: str  # digits, mnist, cifar10; sine, swirl, checkerboard
    model: Literal["fc", "cnn", "glow", "toy"]
    optimiser: Literal["adam", "adamw", "rmsprop"] = "rmsprop"  # PyTorch's defaults otherwise
    lr: float = 1e-4  # learning rate
    drop: float = 1.0  # share of the steps after which lr is divided by 10 (ours, digits)
    decay: float = 1.0  # factor on lr per epoch …
    decay_epochs: int = 0  # … for the first so many epochs, then constant
    weight_decay: float = 0.0  # of the optimiser
    batch: int = 100  # samples per step and seed
    steps: int = 0  # optimiser steps; 0: epochs
    epochs: int = 0  # passes over the training data
    sigma: float = 1.0  # DSM's noise; for points, the smoothing of the data for all losses
    xi: float = 1.0  # FDSSM's radius
    clip: float = math.inf  # largest gradient norm, per seed
    energy_weight: float = 0.0  # lambda_E of the energy regulariser (score-matching losses)
    ema: float = 0.999  # decay of the averaged weights, which are evaluated
    a: float = 0.5  # smoothing of the logit
    flips: bool = False  # random flips and shifts of training images
    blocks: int = 10  # points: [linear, coupling, ActNorm] blocks
    hidden: int = 64  # points: width of the coupling nets

    @property
    def is_image(self) -> bool:
        """Images are dequantised and go through the logit; losses are means over D."""
        return self.model != "toy"


_CLIP5 = {"fdssm": {"clip": 5.0}, "fdssm-nomap": {"clip": 5.0}}
_TOY_RATES = {  # of {3e-4, 1e-3, 3e-3}, by pilots
    **{m: {"lr": 3e-3} for m in ("ml", "sml")},
    **{m: {"lr": 3e-4} for m in ("ssm", "fdssm")},
}
_DECAYED = {m: {"weight_decay": 1e-5} for m in ("ml", "sml", "dsm", "dsm-nomap")}

SETTINGS: dict[str, Setting] = {
    # scale default: digits of 8 x 8 pixels, and points with smaller networks and fewer steps
    "digits-fc": Setting("digits", "fc", lr=1e-3, drop=0.7, steps=4_000),
    "digits-cnn": Setting("digits", "cnn", lr=1e-3, drop=0.7, steps=1_500, sigma=0.1, xi=0.1),
    **{
        name: Setting(
            name,
            "toy",
            "adam",
            lr=1e-3,
            drop=0.7,
            batch=512,
            steps=3_000,
            sigma=0.375,
            xi=0.1,
            clip=1.0,
            blocks=4,
            hidden=32,
        )
        for name in ("sine", "swirl")
    },
    # scale paper
    **{
        f"paper-{name}": Setting(
            name, "toy", "adam", lr=1e-4, batch=2_048, steps=50_000, sigma=0.375, xi=0.1, clip=1.0
        )
        for name in ("sine", "swirl")
    },
    "paper-checkerboard": Setting(
        "checkerboard",
        "toy",
        "adam",
        lr=1e-4,
        batch=10_000,
        steps=100_000,
        sigma=0.375,
        xi=0.1,
        clip=10.0,
    ),
    "mnist-fc": Setting("mnist", "fc", decay=0.95, decay_epochs=49, epochs=1_000),
    "mnist-cnn": Setting(
        "mnist", "cnn", decay=0.95, decay_epochs=49, epochs=1_000, sigma=0.1, xi=0.1, a=0.75
    ),
    "cifar-fc": Setting(
        "cifar10",
        "fc",
        decay=0.85,
        decay_epochs=29,
        epochs=1_000,
        sigma=0.1,
        xi=0.1,
        energy_weight=1e-3,
        flips=True,
    ),
    "cifar-cnn": Setting(
        "cifar10",
        "cnn",
        decay=0.9,
        decay_epochs=49,
        epochs=1_000,
        sigma=0.1,
        xi=0.1,
        energy_weight=1e-3,
        a=0.75,
        flips=True,
    ),
    "mnist-glow": Setting(
        "mnist",
        "glow",
        "adam",
        lr=1e-5,
        weight_decay=0.1,
        epochs=80,
        sigma=0.1,
        xi=0.1,
        energy_weight=0.1,
        clip=500.0,
        a=1.0,
    ),
}

OVERRIDES: dict[str, dict[str, dict[str, Any]]] = {  # task -> method -> what differs
    **dict.fromkeys(("sine", "swirl"), _TOY_RATES),
    "mnist-fc": _CLIP5,
    "mnist-cnn": {**_CLIP5, **_DECAYED},
    "paper-sine": {
        "ml": {"lr": 5e-4},
        "sml": {"lr": 5e-4, "optimiser": "adamw", "clip": math.inf},
    },
    "paper-swirl": {"ml": {"lr": 5e-3}},
}


def setting_of(task: str, method: str, **changes: Any) -> Setting:
    """The hyperparameters of a task and method; ``changes`` that are None are left out.

    Raises:
        UserError: for an unknown task or method.
    """
    choose("task", task, SETTINGS)
    choose("method", method, METHODS)
    asked = {name: value for name, value in changes.items() if value is not None}
    return replace(SETTINGS[task], **{**OVERRIDES.get(task, {}).get(method, {}), **asked})
