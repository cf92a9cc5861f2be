"""Static Lipschitz risk measures of returns on the grid Y = {0, 1/m, ..., H}.

Every measure here is an optimum of expected utilities, rho(Z) = link(max_c E u_c(Z)):

    CVaR_alpha   u_c(y) = c - (c - y)^+ / alpha,  c in Y     (lower tail, larger is better)
    mean         u(y) = y                                    (CVaR_1)
    spectral     sum_j w_j CVaR_{alpha_j}: u_c = the same sum, one c_j per level
    entropic     u(y) = sign(beta) e^{beta y},  link(v) = log|v| / beta

The best c is attained on Y, because E u_c is piecewise linear in c with kinks at the values of Z.
So for each c the augmented MDP with terminal utility u_c is an ordinary one, and planning is exact.
A spectral measure is a distortion risk measure with the step density
phi(u) = sum_j w_j 1{u <= alpha_j} / alpha_j.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import choose
from common.jit import jit_of

Array = NDArray[np.float64]

KERNELS = ("risk", "augmented", "method", "method_v", "tabular", "mixture", "baselines")
jit = jit_of(*(Path(__file__).with_name(f"{name}.py") for name in KERNELS))

# name -> ((alpha, weight), ...) of a mixture of CVaRs, or beta of the entropic measure
RISKS: dict[str, tuple[tuple[float, float], ...] | float] = {
    "cvar25": ((0.25, 1.0),),
    "cvar50": ((0.5, 1.0),),
    "entropic_m1": -1.0,  # risk-averse
    "entropic_p1": 1.0,  # risk-seeking
    "spectral": ((1.0, 1 / 3), (0.5, 1 / 3), (0.25, 1 / 3)),
    "mean": ((1.0, 1.0),),
}
LABELS = {
    "cvar25": "CVaR 0.25",
    "cvar50": "CVaR 0.5",
    "entropic_m1": "entropic −1",
    "entropic_p1": "entropic +1",
    "spectral": "spectral",
    "mean": "mean",
}


class Risk(NamedTuple):
    """A risk measure on a grid, as compiled code sees it."""

    utilities: Array  # [C, Y], u_c(y)
    beta: float  # of the entropic link; 0: none


def grid(horizon: int, m: int) -> Array:
    """Y = {0, 1/m, ..., H}, which holds every sum of up to H rewards."""
    return np.arange(horizon * m + 1) / m


def cvar_mixture(parts: tuple[tuple[float, float], ...], y: Array) -> Risk:
    """sum_j w_j CVaR_{alpha_j} on the grid y [Y]; the mean (alpha = 1) needs no c."""
    mean = sum(weight for alpha, weight in parts if alpha == 1.0) * y
    tails = [(alpha, weight) for alpha, weight in parts if alpha < 1.0]
    utilities = []
    for cs in itertools.product(y, repeat=len(tails)):
        terms = [w * (c - np.maximum(c - y, 0) / a) for (a, w), c in zip(tails, cs, strict=True)]
        utilities.append(mean + sum(terms, np.zeros_like(y)))
    return Risk(np.array(utilities), 0.0)


def entropic(beta: float, y: Array) -> Risk:
    """(1/beta) log E e^{beta Z} on the grid y [Y]; risk-averse for beta < 0."""
    return Risk(math.copysign(1.0, beta) * np.exp(beta * y)[None], beta)


def make_risk(name: str, horizon: int, m: int) -> Risk:
    """The measure ``name`` of RISKS for H = ``horizon`` and rewards in {0, 1/m, ..., 1}."""
    spec = RISKS[choose("risk", name, RISKS)]
    y = grid(horizon, m)
    return entropic(spec, y) if isinstance(spec, float) else cvar_mixture(spec, y)


def lipschitz(name: str, horizon: int) -> float:
    """L_inf(rho): |rho(Z) - rho(Z')| <= L_inf sup_x |F_Z(x) - F_Z'(x)| for returns in [0, H].

    H phi(0) = H sum_j w_j / alpha_j for a mixture of CVaRs (phi is largest at 0),
    (e^{|beta| H} - 1) / |beta| for the entropic measure.
    """
    spec = RISKS[choose("risk", name, RISKS)]
    if isinstance(spec, float):
        return math.expm1(abs(spec) * horizon) / abs(spec)
    return horizon * sum(weight / alpha for alpha, weight in spec)


@jit
def link(v: float, beta: float) -> float:
    """From expected utility to the measure's own scale; increasing."""
    return v if beta == 0.0 else math.log(abs(v)) / beta


@jit
def rho(pmf: Array, risk: Risk) -> float:
    """rho(Z) of a return with probabilities pmf [Y]."""
    best = -math.inf
    for c in range(risk.utilities.shape[0]):
        v = 0.0
        for y in range(pmf.size):
            v += pmf[y] * risk.utilities[c, y]
        best = max(best, v)
    return link(best, risk.beta)
