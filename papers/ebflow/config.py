"""Every number of every experiment: the paper's table (from the authors' code) and ours.

A task is a data set with a model; losses may differ from the task in a few numbers, as theirs do:
those stand in their entries in methods.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import choose
from papers.ebflow.methods import trained


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


def setting_of(task: str, method: str, **changes: Any) -> Setting:
    """The hyperparameters of a task and loss; ``changes`` that are None are left out.

    Raises:
        UserError: for an unknown task, an unknown loss or one that is not trained.
    """
    choose("task", task, SETTINGS)
    asked = {name: value for name, value in changes.items() if value is not None}
    return replace(SETTINGS[task], **{**trained(method).changes.get(task, {}), **asked})


@dataclass
class Config:
    """One training run. What is left at None is the task's own."""

    method: str = "ssm"  # see methods.METHODS
    task: str = "digits-fc"  # see SETTINGS
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    seed_offset: int = 0  # added to each seed; pilots use 100
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # optimiser steps
    epochs: int | None = None  # passes over the training data (scale paper)
    batch: int | None = None  # samples per step and seed
    lr: float | None = None  # learning rate
    sigma: float | None = None  # DSM's noise; points: smoothing of the data
    xi: float | None = None  # FDSSM's radius
    clip: float | None = None  # largest gradient norm, per seed
    evaluations: int = 20  # validation likelihoods along the run (images)
    langevin: int = 2_000  # evaluation: iterations of the imputation (digits)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the random numbers."""
        return tuple(s + self.seed_offset for s in self.seed)

    @property
    def setting(self) -> Setting:
        """The hyperparameters of this run."""
        names = ("steps", "epochs", "batch", "lr", "sigma", "xi", "clip")
        return setting_of(self.task, self.method, **{name: getattr(self, name) for name in names})
