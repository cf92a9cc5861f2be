"""The table of policies: how each is trained and sampled, and with how many network calls.

Training, evaluation, claims, tables and figures read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from common.methods import Method, Methods, Role
from papers.ofp import baselines
from papers.ofp.method import AverageVelocity, ofp_loss, sample

T_W = 0.15  # time that the warm start jumps from, the paper's best

Sampler = Callable[[AverageVelocity, Tensor, Tensor, int, float, list[torch.Generator]], Tensor]


def jumps(
    u: AverageVelocity, z: Tensor, c: Tensor, nfe: int, t: float, g: list[torch.Generator]
) -> Tensor:
    """Jumps of the average velocity from time t (method.sample)."""
    return sample(u, z, c, nfe, t)


def euler(
    u: AverageVelocity, z: Tensor, c: Tensor, nfe: int, t: float, g: list[torch.Generator]
) -> Tensor:
    """Euler steps of the instantaneous velocity from time t."""
    return baselines.euler_sample(u, z, c, nfe, t)


def diffusion(
    u: AverageVelocity, z: Tensor, c: Tensor, nfe: int, t: float, g: list[torch.Generator]
) -> Tensor:
    """DDPM with 100 calls, DDIM with fewer; always from noise."""
    return baselines.diffusion_sample(u, z, c, nfe, g)


def regression(
    u: AverageVelocity, z: Tensor, c: Tensor, nfe: int, t: float, g: list[torch.Generator]
) -> Tensor:
    """The network's output; no noise and no time."""
    return baselines.bc_sample(u, z, c, nfe)


@dataclass(frozen=True)
class Policy(Method):
    """A policy of the table.

    Attributes:
        loss: (net, teacher, obs, a, noise, progress) -> (losses [S], their parts).
        sampler: (u, z, c, calls, start time, generators) -> chunk.
        calls: network calls per chunk that are evaluated.
        dear_calls: … where the simulator's steps are dear (all experiments but A).
        settings: the loss takes OFP's own hyperparameters (``cfg=OFPConfig``).
        warm: evaluated with the warm start as well, which is then its published form.
        velocity: the network gives a velocity, so that it has a semigroup residual.
        endpoints: trained on the noise and the endpoints of a trained flow instead of the data.
        changes: fields of the configuration that it sets; "ofp." reaches into OFPConfig, "x "
            multiplies.
        drawn: calls whose paths and first chunks are kept for the figures.
        shown: calls that have a line in the main table; without any it is not in the main figure.
        timed: calls whose latency is measured.
        study: trained at the scale study alone, as a change of OFP's defaults.
    """

    loss: Callable[..., baselines.Loss]
    sampler: Sampler
    calls: tuple[int, ...]
    dear_calls: tuple[int, ...]
    settings: bool = False
    warm: bool = False
    velocity: bool = True
    endpoints: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    drawn: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    timed: tuple[int, ...] = ()
    study: bool = False


ONE, FEW = (1,), (1, 2, 4)
OFP = Policy(
    *("ofp", "OFP", "method", ofp_loss, jumps, FEW, FEW),
    settings=True,
    warm=True,
    drawn=(1, 4),
    shown=FEW,
    timed=FEW,
)
FM = Policy(
    *("fm", "FM", "baseline", baselines.flow_loss, euler),
    calls=(1, 2, 4, 10, 100),
    dear_calls=(1, 10, 100),
    drawn=(1, 100),
    shown=(1, 4, 100),
    timed=(1, 10, 100),
)


def like(
    base: Policy, name: str, label: str, role: Role, changes: Mapping[str, Any], **more: Any
) -> Policy:
    """An entry that differs from another one's configuration; not drawn, shown or timed."""
    unseen: dict[str, Any] = {"drawn": (), "shown": (), "timed": ()}
    return replace(base, name=name, label=label, role=role, changes=changes, **{**unseen, **more})


def study(name: str, label: str, changes: Mapping[str, Any], role: Role = "variant") -> Policy:
    """A change of OFP's defaults that the study tries."""
    return like(OFP, f"study-{name}", label, role, changes, study=True)


METHODS = Methods(
    OFP,
    FM,
    # FM is usually trained for fewer steps than flow maps
    like(FM, "fm-half", "FM, half the steps", "baseline", {"x steps": 0.5}),
    Policy(
        *("bc", "BC", "baseline", baselines.bc_loss, regression, ONE, ONE),
        velocity=False,
        drawn=ONE,
        shown=ONE,
    ),
    Policy(
        *("ddpm", "diffusion", "baseline", baselines.ddpm_loss, diffusion),
        calls=(10, 100),
        dear_calls=(10, 100),
        velocity=False,
        drawn=(100,),
        shown=(100,),
        timed=(10, 100),
    ),
    Policy(
        *("meanflow", "MeanFlow", "baseline", baselines.meanflow_loss, jumps, FEW, ONE),
        drawn=ONE,
        shown=ONE,
    ),
    Policy(
        *("shortcut", "shortcut", "baseline", baselines.shortcut_loss, jumps, FEW, ONE),
        drawn=ONE,
        shown=ONE,
    ),
    like(
        *(OFP, "ofp-no-sc", "no self-consistency", "ablation", {"ofp.lambda_sc": 0.0}),
        drawn=ONE,
    ),
    like(
        *(OFP, "ofp-no-sg", "no self-guidance", "ablation", {"ofp.lambda_sg": 0.0}),
        drawn=ONE,
        shown=ONE,
    ),
    like(
        *(OFP, "ofp-rho1", "ρ = 1", "ablation", {"ofp.rho_fixed": 1.0}),
        drawn=ONE,
        shown=ONE,
    ),
    # The study: what decides the one-step quality, one change at a time after the first
    study(
        "first",
        "first reading: all of the next five",
        {"ema": 0.99, "lr_hold": 0.0, "ofp.rho_ends": 1.0, "frequencies": 6, "ofp.share_end": 0.0},
    ),
    study("ema-99", "teacher's decay .99", {"ema": 0.99}),
    study("cosine", "cosine from the first step", {"lr_hold": 0.0}),
    study("rho-all", "contraction over the whole run", {"ofp.rho_ends": 1.0}),
    study("freq-6", "time features up to 2^5 pi", {"frequencies": 6}),
    study("no-end", "no intervals ending at r = 1", {"ofp.share_end": 0.0}),
    study("exact-0", "no exact (0, 1) pairs", {"ofp.share_exact": 0.0}),
    study("uniform", "(t, r) two sorted uniforms", {"ofp.intervals": "uniform"}),
    study("floor-20", "rho ends at .2", {"ofp.rho_floor": 0.2}),
    study("end-time", "network sees r instead of r - t", {"second_time": "end"}),
    study("sc-50", "self-consistency on 1/2 of the batch", {"ofp.share_sc": 0.5}),
    study("sg-0", "self-guidance x 0", {"ofp.lambda_sg": 0.0}, "ablation"),
    study("sg-4x", "self-guidance x 4", {"ofp.lambda_sg": 0.02}),
    study("half", "half the steps", {"x steps": 0.5}),
    study("2x", "twice the steps", {"x steps": 2.0}),
    Policy(
        *("study-distil", "regression on the trained flow's endpoints", "reference"),
        *(baselines.distil_loss, jumps, ONE, ONE),
        velocity=False,
        endpoints=True,
        study=True,
    ),
)
