"""The exact densities and scores of the smoothed 2-D sets: what a perfect model would be.

8-Gaussians is a mixture of Gaussians; the checkerboard one of uniform squares, and the spirals,
whose jitter is uniform on a square, an integral of those along the arms (midpoint rule, so fine
that the squares overlap). A square smoothed by N(0, sigma^2 I) is a product of differences of
normal distribution functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from papers.qcsgm.task import SPIRAL_SCALE

ARM = 400  # midpoints of an arm of the spirals


@dataclass(frozen=True)
class Mixture:
    """Weighted parts: Gaussians of one variance, or squares of one side (then variance is 0)."""

    corners: Tensor  # [K, 2], float64: centres of Gaussians, lower left corners of squares
    log_weights: Tensor  # [K]
    side: float  # of the squares; 0: Gaussians
    variance: float  # of the Gaussians in each coordinate

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p_sigma(x), in float64. x [..., 2], sigma a scalar or [..., 1] -> [...]."""
        sigma = sigma.to(x).double().unsqueeze(-1)  # one more axis, for the parts
        away = x.double().unsqueeze(-2) - self.corners.to(x.device)  # [..., K, 2]
        if self.side:
            parts = _log_difference(away / sigma, (away - self.side) / sigma) - math.log(self.side)
        else:
            variance = self.variance + sigma**2
            parts = -away.square() / (2 * variance) - (2 * math.pi * variance).log() / 2
        return torch.logsumexp(parts.sum(-1) + self.log_weights.to(x.device), -1)

    def smoothed_score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of log p_sigma in x, differentiable in x itself. [..., 2]."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            total = self.log_density(at, sigma).sum()
            (gradient,) = torch.autograd.grad(total, at, create_graph=keep)
        return gradient


def _log_difference(upper: Tensor, lower: Tensor) -> Tensor:
    """log(Phi(upper) - Phi(lower)) for upper > lower, precise in both tails."""
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return log_upper + torch.log1p(-(log_lower - log_upper).exp())


def mixture(task: str) -> Mixture:
    """The distribution of a 2-D set."""
    if task == "8gaussians":
        angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        centres = 8 * torch.stack([angle.cos(), angle.sin()], 1) / math.sqrt(2)
        return Mixture(centres, torch.full((8,), -math.log(8)).double(), 0.0, 0.5)
    if task == "checkerboard":
        column, row = np.meshgrid(np.arange(-2, 2), np.arange(2), indexing="ij")
        corners = torch.from_numpy(np.stack([column, column % 2 - 2 * row], -1).reshape(-1, 2))
        return Mixture(3.0 * corners.double(), torch.full((8,), -math.log(8)).double(), 3.0, 0.0)
    r = 3 * math.pi * (torch.arange(ARM, dtype=torch.float64) + 0.5) / ARM  # density ~ r
    arm = torch.stack([-r * r.cos(), r * r.sin()], 1)
    corners = SPIRAL_SCALE * torch.cat([arm, -arm - 0.5])  # the jitter is mirrored with its arm
    weights = torch.cat([r, r]) / (2 * r.sum())
    return Mixture(corners, weights.log(), 0.5 * SPIRAL_SCALE, 0.0)
