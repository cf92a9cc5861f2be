"""Example 1: two score errors of equal size, one a rotation and one (nearly) a gradient.

The score of N(0, 0.1^2 I) gets an error c(x) (-x2, x1) or c(x) (x1, x2), of the same norm at every
point; counted is how many steps of gradient ascent reach the mode. Everything in float64.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from common.score import jacobian
from papers.qcsgm.method import asymmetry, normalised_asymmetry

Kind = Literal["rotational", "radial"]
EPSILONS = (0.0, 0.5e-3, 0.75e-3, 1e-3, 1.5e-3, 1.75e-3, 2.25e-3)  # sizes of the error
SIGMA = 0.1  # of the Gaussian
RADIUS, COMPONENTS = 3.0, 10  # mu: unit Gaussians on a circle
THRESHOLD = 1e-3  # of the mean of max(0, -log p)
PARTICLES = 10
MAX_STEPS = 2000  # nothing the paper counts comes near


def density(x: Tensor) -> Tensor:
    """p(x) = N(x; 0, SIGMA^2 I). [..., 2] -> [...]."""
    return (-x.square().sum(-1) / (2 * SIGMA**2)).exp() / (2 * math.pi * SIGMA**2)


def ring(x: Tensor) -> Tensor:
    """mu(x), the mixture of COMPONENTS unit Gaussians on the circle. [..., 2] -> [...]."""
    angle = torch.arange(COMPONENTS, dtype=x.dtype) * (2 * math.pi / COMPONENTS)
    centres = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=-1)
    square = (x.unsqueeze(-2) - centres).square().sum(-1)
    return (-square / 2).exp().mean(-1) / (2 * math.pi)


def error(x: Tensor, epsilon: float, kind: Kind) -> Tensor:
    """u(x) = c(x) (-x2, x1) or c(x) (x1, x2); 0 for epsilon = 0. [..., 2]."""
    if epsilon == 0:
        return torch.zeros_like(x)
    above = epsilon + 1e-6
    square = 2 * above * ring(x) / (density(x) * (x.square().sum(-1) + above) + 1e-8)
    direction = torch.stack([-x[..., 1], x[..., 0]], dim=-1) if kind == "rotational" else x
    return square.sqrt().unsqueeze(-1) * direction


def field(x: Tensor, epsilon: float, kind: Kind) -> Tensor:
    """The erring score -x / SIGMA^2 + u(x). [..., 2]."""
    return -x / SIGMA**2 + error(x, epsilon, kind)


def starts(seed: int) -> Tensor:
    """PARTICLES draws of N((-2, -2), 0.5^2 I) from NumPy's legacy generator, as the authors'."""
    noise = np.random.RandomState(seed).randn(PARTICLES, 2)
    return torch.from_numpy(-2 + 0.5 * noise)


def ascend(x: Tensor, epsilon: float, kind: Kind) -> int:
    """Updates x <- x + eta_i field(x) until the mean of max(0, -log p) is below THRESHOLD."""
    eta = 0.01 if epsilon == 0 else 0.0125
    for i in range(MAX_STEPS):
        if (-(density(x) + 1e-16).log()).clamp(min=0).mean() < THRESHOLD:
            return i
        x = x + eta * math.exp(-i / 1000) * field(x, epsilon, kind)
    return MAX_STEPS


def measures(epsilon: float, kind: Kind, n: int = 201, reach: float = 0.8) -> dict[str, float]:
    """E_p of 1/2 |u|^2, Asym and NAsym of the erring score, by quadrature on n x n points."""
    axis = torch.linspace(-reach, reach, n, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    x = x[x.square().sum(-1) <= reach**2]
    weight = density(x) * (axis[1] - axis[0]) ** 2
    J = jacobian(lambda at: field(at, epsilon, kind), x)
    values = {
        "error": error(x, epsilon, kind).square().sum(-1) / 2,
        "asym": asymmetry(J),
        "nasym": normalised_asymmetry(J),
    }
    return {name: float((weight * value).sum()) for name, value in values.items()}
