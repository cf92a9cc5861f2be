"""Score-based models: noise levels, denoising score matching, Jacobians, exact smoothed scores.

A score field maps [..., B, D] to [..., B, D], each row by itself; leading axes may hold seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]


def noise_level(t: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t of the variance-exploding SDE, t in [0, 1]."""
    return sigma_min * (sigma_max / sigma_min) ** t


def dsm(score: Tensor, sigma: Tensor | float, z: Tensor, weight: float = 0.0) -> Tensor:
    """Denoising score matching at x + sigma z, per sample (Vincent 2011).

    1/2 |sigma^w s + sigma^(w-1) z|^2, summed over the last axis: the squared error against
    -z / sigma, weighted by sigma^(2w). w = 1 makes all noise levels count alike.

    Args:
        score: s(x + sigma z, sigma). [..., D]
        sigma: standard deviation of the noise, broadcast against ``score``.
        z: the standard normal noise. [..., D]
    """
    sigma = torch.as_tensor(sigma, dtype=score.dtype, device=score.device)
    return 0.5 * (sigma**weight * score + sigma ** (weight - 1) * z).square().sum(-1)


def jacobian(field: Field, x: Tensor, create_graph: bool = False) -> Tensor:
    """J[..., i, j] = d s_i / d x_j at every row, exactly, by D backward passes. [..., D, D].

    ``create_graph`` keeps it differentiable in the field's parameters.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = field(x)
        n = s.shape[-1]
        rows = []
        for i in range(n):
            keep = create_graph or i < n - 1
            (row,) = torch.autograd.grad(
                s[..., i].sum(), x, retain_graph=keep, create_graph=create_graph
            )
            rows.append(row)
    return torch.stack(rows, dim=-2)


def divergence(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """(s(x), tr J(x)) at every row, exactly, by D backward passes. [..., D], [...]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = field(x)
        trace = torch.zeros_like(s[..., 0])
        n = s.shape[-1]
        for i in range(n):
            (row,) = torch.autograd.grad(s[..., i].sum(), x, retain_graph=i < n - 1)
            trace = trace + row[..., i]
    return s.detach(), trace.detach()


def hutchinson(v: Tensor) -> Callable[[Field, Tensor], tuple[Tensor, Tensor]]:
    """Hutchinson's estimator of ``divergence``: v^T J v of one backward pass.

    Unbiased for draws v with covariance I; Rademacher's have the least variance.

    Args:
        v: one draw per row, of the shape of x. [..., D]
    """

    def estimate(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            s = field(x)
            (JTv,) = torch.autograd.grad((s * v).sum(), x)
        return s.detach(), (JTv * v).sum(-1)

    return estimate


def parzen(
    x: Tensor, data: Tensor, sigma: float, entries: int = 4_000_000
) -> tuple[Tensor, Tensor]:
    """Log-density and score of the smoothed data (1/M) sum_i N(x_i, sigma^2 I), exactly.

    By log-sum-exp and softmax, so far points get finite values too. In chunks of about
    ``entries`` pairs of points.

    Args:
        x: where. [N, D]
        data: the centres. [M, D]
        sigma: standard deviation of the smoothing.

    Returns:
        log p_sigma [N] and its gradient (E[x_i | x] - x) / sigma^2 [N, D].
    """
    m, dim = data.shape
    constant = math.log(m) + dim * math.log(sigma * math.sqrt(2 * math.pi))
    half_square = data.square().sum(-1) / 2
    log_p, score = [], []
    for chunk in x.split(max(1, entries // m)):
        # -|x - x_i|^2 / (2 sigma^2) without the term that all centres share
        logits = (chunk @ data.T - half_square) / sigma**2
        shared = chunk.square().sum(-1) / (2 * sigma**2)
        log_p.append(torch.logsumexp(logits, -1) - shared - constant)
        score.append((torch.softmax(logits, -1) @ data - chunk) / sigma**2)
    return torch.cat(log_p), torch.cat(score)
