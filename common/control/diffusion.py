"""Diffusion of low-dimensional data on the schedulers of diffusers (variance preserving).

x_n = sqrt(abar_n) x_0 + sqrt(1 - abar_n) eps with abar_n = prod over m <= n of (1 - beta_m); steps
count from 0 to N - 1, one less than in most papers, and n = N - 1 is almost pure noise. A denoiser
``f(x, n)`` predicts eps ("epsilon") or x_0 ("sample") for all rows of x at the same step. Samplers
keep gradients; wrap them in ``torch.no_grad()`` where none are wanted. x may have any shape, that
of stacked seeds too, since everything is element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Denoiser = Callable[[Tensor, int], Tensor]
Predicts = Literal["epsilon", "sample"]


@dataclass(frozen=True)
class Schedule:
    """The noise of N steps."""

    betas: NDArray[np.float64]  # [N]

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """abar, falling. [N]"""
        return np.cumprod(1.0 - self.betas)

    def rates(self, n: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_n) and sqrt(1 - abar_n), to be multiplied with ``like``.

        Args:
            n: one step, or one per row: its shape is that of the first axes of ``like``.
        """
        bar = torch.from_numpy(self.alphas_cumprod).to(like.device)[n]
        bar = bar.reshape(bar.shape + (1,) * (like.dim() - bar.dim()))
        return bar.sqrt().to(like.dtype), (1.0 - bar).sqrt().to(like.dtype)


def vp_schedule(n: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """beta(t) linear in t in [0, 1] (Song et al. 2021), cut into ``n`` steps exactly.

    abar_m = exp(-beta_min t - (beta_max - beta_min) t^2 / 2) at t = (m + 1) / n.
    """
    m = np.arange(n)
    slope = (beta_max - beta_min) * (2 * m + 1) / (2 * n**2)
    return Schedule(-np.expm1(-(beta_min / n + slope)))


def cosine_schedule(n: int, beta_cap: float = 0.999) -> Schedule:
    """abar ~ cos^2((t + .008) / 1.008 pi / 2) with betas of ``beta_cap`` at most (Nichol 2021)."""
    t = np.arange(n + 1) / n
    bar = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return Schedule(np.minimum(1 - bar[1:] / bar[:-1], beta_cap))


def noised(schedule: Schedule, x0: Tensor, epsilon: Tensor, n: Tensor | int) -> Tensor:
    """x_n of ``x0`` and its noise; ``n`` as in ``Schedule.rates``."""
    alpha, sigma = schedule.rates(n, x0)
    return alpha * x0 + sigma * epsilon


def x0_of(schedule: Schedule, x: Tensor, epsilon: Tensor, n: Tensor | int) -> Tensor:
    """The x_0 that ``epsilon`` predicts: (x_n - sqrt(1 - abar) eps) / sqrt(abar)."""
    alpha, sigma = schedule.rates(n, x)
    return (x - sigma * epsilon) / alpha


def epsilon_of(schedule: Schedule, x: Tensor, x0: Tensor, n: Tensor | int) -> Tensor:
    """The noise that ``x0`` predicts: (x_n - sqrt(abar) x_0) / sqrt(1 - abar)."""
    alpha, sigma = schedule.rates(n, x)
    return (x - alpha * x0) / sigma


def guided(unconditional: Tensor, conditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance: u + weight (c - u); 0 ignores the condition, 1 is plain."""
    return torch.lerp(unconditional, conditional, weight)


def dropped(condition: Tensor, probability: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Conditions of which some rows are zeroed, for training with and without them.

    Args:
        condition: [..., B, c].
        probability: of a row's being dropped.
        uniform: draws in [0, 1). [..., B]

    Returns:
        The conditions, and 1 where they were kept. [..., B, c] and [..., B, 1]
    """
    kept = (uniform >= probability).to(condition.dtype).unsqueeze(-1)
    return condition * kept, kept


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    noise: Callable[[], Tensor],
    *,
    predicts: Predicts = "epsilon",
    clip: float | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """All N ancestral steps (Ho et al. 2020) with the posterior's variance.

    Args:
        denoise: f(x, n).
        x: draws of N(0, I).
        noise: fresh standard normal draws of the shape of ``x``; called N - 1 times.
        predicts: what the denoiser predicts.
        clip: predictions of x_0 are clipped to [-clip, clip].
        project: applied to x before the first step and after each (in-painting).
    """
    # DDIM with eta = 1 and eps made anew from the clipped x_0 is DDPM, and takes the noise by hand
    scheduler = _ddim(schedule, len(schedule), predicts, clip)
    x = project(x) if project else x
    for n in range(len(schedule) - 1, -1, -1):
        step = scheduler.step(
            denoise(x, n),
            n,
            x,
            eta=1.0,
            use_clipped_model_output=True,
            variance_noise=noise() if n else torch.zeros_like(x),
        )
        x = project(step.prev_sample) if project else step.prev_sample
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    predicts: Predicts = "epsilon",
    clip: float | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``steps`` deterministic steps N - 1, N - 1 - N / steps, ... (Song et al. 2021, eta = 0).

    As in the paper, clipping changes x_0 and leaves eps. Other arguments: see :func:`ddpm`.

    Raises:
        ValueError: if N is no multiple of ``steps``.
    """
    if steps < 1 or len(schedule) % steps:
        raise ValueError(f"{steps} steps do not divide the {len(schedule)} of the schedule")
    scheduler = _ddim(schedule, steps, predicts, clip)
    x = project(x) if project else x
    for n in range(len(schedule) - 1, -1, -(len(schedule) // steps)):
        moved = scheduler.step(denoise(x, n), n, x).prev_sample
        x = project(moved) if project else moved
    return x


def dpm_solver(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    steps: int,
    *,
    predicts: Predicts = "epsilon",
    clip: float | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """DPM-Solver++(2M) on a grid uniform in log(alpha / sigma) (Lu et al. 2022); ends at x_0.

    The last of the ``steps`` calls is at n = 0, and what it predicts is returned. Other arguments:
    see :func:`ddpm`.

    Raises:
        ValueError: if the schedule has fewer than ``steps`` steps.
    """
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=len(schedule),
        trained_betas=schedule.betas,
        prediction_type="sample",  # the solver has no clipping of its own
        lower_order_final=False,
    )
    grid = uniform_in_snr(schedule, steps)
    scheduler.set_timesteps(timesteps=grid)
    x = project(x) if project else x
    for n in grid:
        x0 = denoise(x, n)
        if predicts == "epsilon":
            x0 = x0_of(schedule, x, x0, n)
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        moved = scheduler.step(x0, n, x).prev_sample
        x = project(moved) if project else moved
    return x


def uniform_in_snr(schedule: Schedule, steps: int) -> list[int]:
    """``steps`` different steps from N - 1 down to 0, as uniform in log(alpha / sigma) as can be.

    Raises:
        ValueError: if the schedule has fewer.
    """
    if not 2 <= steps <= len(schedule):
        raise ValueError(f"{steps} steps cannot be chosen from {len(schedule)}; take 2 or more")
    bar = schedule.alphas_cumprod
    half_log_snr = 0.5 * (np.log(bar) - np.log1p(-bar))  # falls with n
    wanted = np.linspace(half_log_snr[0], half_log_snr[-1], steps)
    nearest = np.abs(half_log_snr - wanted[:, None]).argmin(1)  # rises from 0 to N - 1
    rank = np.arange(steps)
    apart = np.maximum.accumulate(nearest - rank) + rank  # each above the one before
    room = len(schedule) - steps
    return [int(n) for n in np.minimum(apart, room + rank)[::-1]]


def _ddim(schedule: Schedule, steps: int, predicts: Predicts, clip: float | None) -> Any:
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(
        num_train_timesteps=len(schedule),
        trained_betas=schedule.betas,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        prediction_type=predicts,
    )
    scheduler.set_timesteps(steps)
    return scheduler
