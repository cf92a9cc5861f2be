"""The table of losses: what each minimises, of what, and what the paper says of it.

Training, evaluation, timing, claims, tables and figures read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from common.errors import UserError
from common.flows import Flow
from common.methods import Method, Methods
from common.stacked import rademacher, randn
from papers.ebflow import baselines, method
from papers.ebflow.method import Generators, Objective

UPDATE = "update"  # the part of a step that all losses share (rows of cost.py)


class Draw(Protocol):
    """An objective with its random directions drawn: x [S, B, D] -> losses and energies."""

    def __call__(
        self, flow: Flow, x: Tensor, generators: Generators, *, sigma: float, xi: float
    ) -> Objective:
        """See method.py."""


def _ml(flow: Flow, x: Tensor, generators: Generators, *, sigma: float, xi: float) -> Objective:
    return baselines.ml(flow, x)


def _sml(flow: Flow, x: Tensor, generators: Generators, *, sigma: float, xi: float) -> Objective:
    return method.sml(flow, x, generators)


def _ssm(flow: Flow, x: Tensor, generators: Generators, *, sigma: float, xi: float) -> Objective:
    return method.ssm(flow, x, rademacher(generators, *x.shape[1:], dtype=x.dtype))


def _dsm(flow: Flow, x: Tensor, generators: Generators, *, sigma: float, xi: float) -> Objective:
    return method.denoising(flow, x, randn(generators, *x.shape[1:], dtype=x.dtype), sigma)


def _fdssm(flow: Flow, x: Tensor, generators: Generators, *, sigma: float, xi: float) -> Objective:
    return method.fdssm(flow, x, method.sphere(generators, *x.shape[1:], xi).to(x.dtype), xi)


@dataclass(frozen=True)
class Loss(Method):
    """A loss, or a closed form that needs no training.

    Attributes:
        objective: what is minimised; None for what evaluation computes in closed form.
        matches: it matches scores: on images divided by D, with the energy regulariser.
        by_radius: the regulariser is divided by xi^2, as the loss is; else by the channels.
        adds_noise: it perturbs its input itself, so that points come to it without smoothing.
        ablates: the loss of which this one is the score of pixels, before preprocessing (no MaP).
        references: its evaluation also computes what needs no training (Gaussians, the exact
            density).
        changes: task -> the hyperparameters that differ from the task's (config.py).
        paper_bits: bits per dimension on MNIST with the FC model.
    """

    objective: Draw | None = None
    matches: bool = True
    by_radius: bool = False
    adds_noise: bool = False
    ablates: str | None = None
    references: bool = False
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paper_bits: float | None = None

    @property
    def after_preprocessing(self) -> bool:
        """MaP: the score is that of the preprocessed data."""
        return self.ablates is None


def _points(lr: float) -> dict[str, dict[str, Any]]:
    """Learning rate on points, of {3e-4, 1e-3, 3e-3}, by pilots."""
    return {"sine": {"lr": lr}, "swirl": {"lr": lr}}


_CLIP5 = {"mnist-fc": {"clip": 5.0}, "mnist-cnn": {"clip": 5.0}}
_DECAYED = {"mnist-cnn": {"weight_decay": 1e-5}}

METHODS = Methods(
    Loss(
        "ssm",
        "SSM",
        "method",
        objective=_ssm,
        changes=_points(3e-4),
        paper_bits=2.01,
    ),
    Loss(
        "dsm",
        "DSM",
        "variant",
        objective=_dsm,
        adds_noise=True,
        changes=_DECAYED,
        paper_bits=2.02,
    ),
    Loss(
        "fdssm",
        "FDSSM",
        "variant",
        objective=_fdssm,
        by_radius=True,
        changes={**_points(3e-4), **_CLIP5},
        paper_bits=2.03,
    ),
    Loss(  # uses the energy alone, too: no determinant, but every step inverts the linear layers
        "sml",
        "SML",
        "variant",
        objective=_sml,
        matches=False,
        changes={
            **_points(3e-3),
            **_DECAYED,
            "paper-sine": {"lr": 5e-4, "optimiser": "adamw", "clip": math.inf},
        },
        paper_bits=2.01,
    ),
    Loss(
        "ml",
        "ML",
        "baseline",
        objective=_ml,
        matches=False,
        references=True,
        changes={
            **_points(3e-3),
            **_DECAYED,
            "paper-sine": {"lr": 5e-4},
            "paper-swirl": {"lr": 5e-3},
        },
        paper_bits=2.01,
    ),
    Loss("ssm-nomap", "SSM without MaP", "ablation", objective=_ssm, ablates="ssm"),
    Loss(
        "dsm-nomap",
        "DSM without MaP",
        "ablation",
        objective=_dsm,
        adds_noise=True,
        ablates="dsm",
        changes=_DECAYED,
    ),
    Loss(
        "fdssm-nomap",
        "FDSSM without MaP",
        "ablation",
        objective=_fdssm,
        by_radius=True,
        ablates="fdssm",
        changes=_CLIP5,
    ),
    Loss("gaussian", "Gaussian", "baseline"),
    Loss("mean-fill", "training mean", "baseline"),
    Loss("uniform", "uniform", "baseline"),
    kind="loss",
)


def timed() -> list[str]:
    """The losses whose steps differ in cost: all that are trained, with MaP."""
    return [name for name, m in METHODS.items() if m.objective and m.after_preprocessing]


def without_map(name: str) -> str | None:
    """The same loss without MaP, if there is one."""
    return next((m.name for m in METHODS.values() if m.ablates == name), None)


def trained(name: str) -> Loss:
    """The entry of a loss that can be trained.

    Raises:
        UserError: for an unknown name and for a closed form.
    """
    entry = METHODS[name]
    if entry.objective is None:
        raise UserError(
            f"{entry.label} is not trained: the evaluation of ml computes it beside its own rows"
        )
    return entry
