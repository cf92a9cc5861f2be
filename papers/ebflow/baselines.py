"""What score matching is compared with: maximum likelihood, and Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.flows import Flow
from papers.ebflow.method import Objective, energy, log_Z


def ml(flow: Flow, x: Tensor) -> Objective:
    """Maximum likelihood: E(x) + log Z. Every step pays for the determinants of S_l."""
    E = energy(flow, x)
    return Objective(E + log_Z(flow), E)


class Gaussian:
    """A Gaussian with the data's mean and covariance: a density, a proposal, an imputation."""

    def __init__(self, x: Tensor, ridge: float = 1e-3) -> None:
        """Fit to x [N, D]; ``ridge`` times the mean variance is added to each variance."""
        self.mean = x.mean(0)
        covariance = torch.cov(x.T)
        covariance += ridge * covariance.diagonal().mean() * torch.eye(len(covariance)).to(x)
        self.covariance = covariance
        self.factor = torch.linalg.cholesky(covariance)

    def log_prob(self, x: Tensor) -> Tensor:
        """[..., D] -> [...]."""
        white = torch.linalg.solve_triangular(self.factor.mT, x - self.mean, upper=True, left=False)
        constant = 0.5 * x.shape[-1] * math.log(2 * math.pi) + self.factor.diagonal().log().sum()
        return -0.5 * white.square().sum(-1) - constant

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """[n, D]."""
        z = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + z @ self.factor.mT

    def impute(self, x: Tensor, missing: Tensor) -> Tensor:
        """x [B, D] with the conditional mean where ``missing`` [D] is 1."""
        there, gone = missing == 0, missing == 1
        known = self.covariance[there][:, there]
        gain = torch.linalg.solve(known, self.covariance[there][:, gone])
        filled = x.clone()
        filled[:, gone] = self.mean[gone] + (x[:, there] - self.mean[there]) @ gain
        return filled


def mean_fill(x: Tensor, missing: Tensor, train: Tensor) -> Tensor:
    """The training mean of each missing coordinate, whatever is known."""
    return torch.where(missing == 1, train.mean(0), x)
