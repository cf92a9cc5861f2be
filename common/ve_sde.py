"""The variance-exploding SDE: samplers and the probability-flow ODE (Song et al. 2021).

x_t = x_0 + sigma(t) z with sigma(t) = sigma_min (sigma_max / sigma_min)^t, t in [0, 1]:
dx = g dw, g^2 = d sigma^2 / dt = 2 sigma^2 log(sigma_max / sigma_min). Score functions are called
as ``score(x, sigma)`` with x [..., B, D] and sigma a scalar tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.score import Field, noise_level
from common.score import divergence as exact_divergence

Score = Callable[[Tensor, Tensor], Tensor]
Divergence = Callable[[Field, Tensor], tuple[Tensor, Tensor]]
Method = Literal["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]


def levels(sigma_min: float, sigma_max: float, n: int) -> Tensor:
    """The geometric grid sigma_max = sigma_N > ... > sigma_1 = sigma_min. [n]"""
    return noise_level(torch.linspace(1, 0, n, dtype=torch.float64), sigma_min, sigma_max)


def predictor(
    x: Tensor, score: Tensor, sigma: Tensor, sigma_next: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """One reverse-diffusion step from ``sigma`` down to ``sigma_next``.

    Returns:
        x + (sigma^2 - sigma_next^2) s + sqrt(sigma^2 - sigma_next^2) z, and the same without
        noise.
    """
    variance = (sigma**2 - sigma_next**2).to(x.dtype)
    mean = x + variance * score
    return mean + variance.sqrt() * z, mean


def corrector(x: Tensor, score: Tensor, z: Tensor, snr: float = 0.16) -> Tensor:
    """One Langevin step x + eta s + sqrt(2 eta) z, eta = 2 (snr |z| / |s|)^2.

    The norms are means over the batch (the axis before the last), for every seed by itself.
    """
    norm_s = score.norm(dim=-1).mean(-1)
    norm_z = z.norm(dim=-1).mean(-1)
    eta = (2 * (snr * norm_z / norm_s) ** 2).unsqueeze(-1).unsqueeze(-1)
    return x + eta * score + (2 * eta).sqrt() * z


@torch.no_grad()
def pc_sample(
    score: Score,
    x: Tensor,
    sigmas: Tensor,
    noise: Callable[[], Tensor],
    *,
    snr: float = 0.16,
    corrector_steps: int = 1,
) -> Tensor:
    """Predictor-corrector sampling: at each level corrector steps, then one predictor step.

    Args:
        score: s(x, sigma).
        x: draws of N(0, sigma_max^2 I). [..., B, D]
        sigmas: the levels, falling (``levels``); the last predictor step goes from sigma_1 to 0.
        noise: gives fresh standard normal draws of the shape of ``x``.
        corrector_steps: Langevin steps per level; score calls: (1 + corrector_steps) per level.

    Returns:
        The noise-free mean of the last predictor step.
    """
    sigmas = sigmas.to(x)
    mean = x
    for i in range(len(sigmas)):
        sigma = sigmas[i]
        following = sigmas[i + 1] if i + 1 < len(sigmas) else torch.zeros_like(sigma)
        for _ in range(corrector_steps):
            x = corrector(x, score(x, sigma), noise(), snr)
        x, mean = predictor(x, score(x, sigma), sigma, following, noise())
    return mean


@dataclass(frozen=True)
class OdeResult:
    """Where the ODE ended, what was integrated beside it, and how often the field was called."""

    x: Tensor  # [..., B, D]
    log_det: Tensor | None  # [..., B], the integral of the divergence
    n_evaluations: int


def _solve(
    fun: Callable[[float, NDArray[np.float64]], NDArray[np.float64]],
    y: NDArray[np.float64],
    span: tuple[float, float],
    rtol: float,
    atol: float,
    method: Method,
) -> tuple[NDArray[np.float64], int]:
    from scipy.integrate import solve_ivp

    solution = solve_ivp(fun, span, y, method=method, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the probability-flow ODE was not solved: {solution.message}")
    return solution.y[:, -1], int(solution.nfev)


def ode_sample(
    score: Score,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    t_end: float = 1e-5,
    method: Method = "RK45",
) -> OdeResult:
    """Solves dx = -1/2 g^2 s dt from t = 1 down to ``t_end`` with adaptive steps (SciPy).

    All of ``x`` is one system: one step size for all, one count of evaluations.
    """
    rate = math.log(sigma_max / sigma_min)

    def fun(t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            state = torch.from_numpy(y).to(x).view(x.shape)
            sigma = noise_level(torch.tensor(t), sigma_min, sigma_max).to(x)
            drift = -(sigma**2) * rate * score(state, sigma)
        return drift.reshape(-1).double().cpu().numpy()

    start = x.detach().double().cpu().reshape(-1).numpy()
    end, n = _solve(fun, start, (1.0, t_end), rtol, atol, method)
    return OdeResult(torch.from_numpy(end).to(x).view(x.shape), None, n)


def ode_log_likelihood(
    score: Score,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    *,
    prior_std: float | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    t_start: float = 1e-5,
    method: Method = "RK45",
    divergence: Divergence = exact_divergence,
) -> tuple[Tensor, OdeResult]:
    """log p_0(x) = log p_1(x_1) + integral of div(-1/2 g^2 s) dt.

    The prior p_1 is N(0, prior_std^2 I), ``sigma_max`` by default. This is the density at noise
    sigma_min, not that of clean data.

    Args:
        divergence: (s(x), tr J(x)) of a field at x: exact, or ``common.score.hutchinson(v)``,
            whose one draw per row is kept along the trajectory, as an unbiased estimate of the
            ODE's own steps needs it.

    Returns:
        log p [..., B] in nats, and the solution.
    """
    rate = math.log(sigma_max / sigma_min)
    shape, n_x = x.shape, x.numel()

    def fun(t: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        state = torch.from_numpy(y[:n_x]).to(x).view(shape)
        sigma = noise_level(torch.tensor(t), sigma_min, sigma_max).to(x)
        s, trace = divergence(lambda at: score(at, sigma), state)
        scale = -(sigma**2) * rate
        both = ((scale * s).reshape(-1), (scale * trace).reshape(-1))
        return torch.cat(both).double().cpu().numpy()

    start = x.detach().double().cpu().reshape(-1).numpy()
    start = np.concatenate([start, np.zeros(n_x // shape[-1])])
    end, n = _solve(fun, start, (t_start, 1.0), rtol, atol, method)
    x_1 = torch.from_numpy(end[:n_x]).view(shape)
    log_det = torch.from_numpy(end[n_x:]).view(shape[:-1])
    std = sigma_max if prior_std is None else prior_std
    dim = shape[-1]
    log_prior = -x_1.square().sum(-1) / (2 * std**2) - dim * math.log(std * math.sqrt(2 * math.pi))
    return log_prior + log_det, OdeResult(x_1.to(x), log_det.to(x), n)


def draw_noise(generators: Sequence[torch.Generator], *shape: int) -> Callable[[], Tensor]:
    """A source of standard normal draws [S, *shape], one generator per seed (for ``pc_sample``)."""
    from common.stacked import randn

    return lambda: randn(generators, *shape)
