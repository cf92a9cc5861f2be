"""Likelihood by the probability-flow ODE with Hutchinson's divergence, as the paper's on images."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from common.score import noise_level
from papers.qcsgm.method import Network


def hutchinson_log_likelihood(
    score: Network,
    x: Tensor,
    v: Tensor,
    sigma_min: float,
    sigma_max: float,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    t_start: float = 1e-5,
) -> tuple[Tensor, int]:
    """log p_0(x) = log N(x_1; 0, sigma_max^2 I) + integral of v^T (-1/2 g^2 J) v dt.

    Unbiased for the log-density of the ODE's own steps, as v is kept along the trajectory.

    Args:
        score: s(x, sigma).
        x: [..., B, D].
        v: one Rademacher vector per row, of the shape of ``x``.

    Returns:
        log p [..., B] in nats (float64), and how often the score was called.
    """
    rate = math.log(sigma_max / sigma_min)
    n = x.numel()

    def fun(t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        state = torch.from_numpy(y[:n]).to(x).view(x.shape).requires_grad_()
        sigma = noise_level(torch.tensor(t), sigma_min, sigma_max).to(x)
        with torch.enable_grad():
            s = score(state, sigma)
            (JTv,) = torch.autograd.grad((s * v).sum(), state)
        scale = -(sigma**2) * rate  # -1/2 g^2
        both = ((scale * s).reshape(-1), (scale * (JTv * v).sum(-1)).reshape(-1))
        return torch.cat(both).detach().double().cpu().numpy()

    start = np.concatenate([x.double().cpu().reshape(-1).numpy(), np.zeros(n // x.shape[-1])])
    solution = solve_ivp(fun, (t_start, 1.0), start, method="RK45", rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the probability-flow ODE was not solved: {solution.message}")
    end = torch.from_numpy(solution.y[:, -1])
    x_1, log_det = end[:n].view(x.shape), end[n:].view(x.shape[:-1])
    log_prior = -x_1.square().sum(-1) / (2 * sigma_max**2)
    log_prior -= x.shape[-1] * math.log(sigma_max * math.sqrt(2 * math.pi))
    return log_prior + log_det, int(solution.nfev)
