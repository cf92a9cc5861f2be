"""What One-Step Flow Policy is compared with: same network, data, optimiser and budget.

Losses have the signature of method.ofp_loss: (net, teacher, obs, a, noise, progress) -> (loss [S],
parts); samplers that of method.sample. Time runs from noise (0) to data (1) for all of them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from papers.ofp.method import AverageVelocity, Noise, interpolate, mse, sample_intervals

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

Loss = tuple[Tensor, dict[str, Tensor]]


# ------------------------------------------------------------------ behaviour cloning


def bc_loss(
    net: nn.Module, teacher: nn.Module, obs: Tensor, a: Tensor, noise: Noise, progress: float
) -> Loss:
    """Mean squared error of the chunk; the network sees z = 0, t = r = 0."""
    zero = torch.zeros_like(a[..., :1])
    loss = mse(net(torch.zeros_like(a), zero, zero, net.encode(obs), zero), a)
    return loss, {"mse": loss}


def bc_sample(u: AverageVelocity, z: Tensor, c: Tensor, nfe: int = 1) -> Tensor:
    """The regression's output, one call."""
    zero = torch.zeros_like(z[..., :1])
    return u(torch.zeros_like(z), zero, zero, c, zero)


# ------------------------------------------------------------------ flow matching


def flow_loss(
    net: nn.Module, teacher: nn.Module, obs: Tensor, a: Tensor, noise: Noise, progress: float
) -> Loss:
    """Conditional flow matching on the diagonal: || u(z_t, t, t | c) - (a - eps) ||^2."""
    eps, t = noise.normal(*a.shape[1:]), noise.uniform(a.shape[1], 1)
    u = net(interpolate(eps, a, t), t, t, net.encode(obs), torch.zeros_like(t))
    loss = mse(u, a - eps)
    return loss, {"flow": loss}


def euler_sample(
    u: AverageVelocity, z: Tensor, c: Tensor, nfe: int = 1, t_start: float = 0.0
) -> Tensor:
    """Euler's method on the instantaneous velocity u(z, t, t | c), `nfe` even steps."""
    null = torch.zeros_like(z[..., :1])
    for k in range(nfe):
        t = torch.full_like(null, t_start + (1.0 - t_start) * k / nfe)
        z = z + (1.0 - t_start) / nfe * u(z, t, t, c, null)
    return z


# ------------------------------------------------------------------ diffusion policy


DIFFUSION_STEPS = 100


def ddpm_scheduler() -> DDPMScheduler:
    """Diffusion Policy's noise schedule: squared cosine, 100 steps, x0 clipped to [-1, 1]."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=DIFFUSION_STEPS,  # by keyword: from_config forgets positional ones
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        prediction_type="epsilon",
    )


@functools.cache
def alphas_cumprod() -> Tensor:
    """abar_k of the scheduler, [100]."""
    return ddpm_scheduler().alphas_cumprod


def ddpm_loss(
    net: nn.Module,
    teacher: nn.Module,
    obs: Tensor,
    a: Tensor,
    noise: Noise,
    progress: float,
) -> Loss:
    """|| eps_theta(x_k, k | c) - eps ||^2, x_k = sqrt(abar_k) a + sqrt(1 - abar_k) eps."""
    eps = noise.normal(*a.shape[1:])
    k = (noise.uniform(a.shape[1], 1) * DIFFUSION_STEPS).long().clamp(max=DIFFUSION_STEPS - 1)
    alpha = alphas_cumprod().to(a.device)[k]  # [S, B, 1]
    x = alpha.sqrt() * a + (1 - alpha).sqrt() * eps
    t = k.to(a.dtype) / DIFFUSION_STEPS
    loss = mse(net(x, t, t, net.encode(obs), torch.zeros_like(t)), eps)
    return loss, {"eps": loss}


def diffusion_sample(
    u: AverageVelocity, z: Tensor, c: Tensor, nfe: int, generators: list[torch.Generator]
) -> Tensor:
    """DDPM with all 100 steps, or DDIM (eta = 0) with fewer; schedulers of diffusers.

    Args:
        u: predicts eps.
        z: noise [S, B, D].
        c: encoded observation.
        nfe: 100: ancestral sampling; fewer: DDIM.
        generators: one per seed, for the ancestral noise.
    """
    from diffusers import DDIMScheduler

    ancestral = nfe == DIFFUSION_STEPS
    scheduler = (
        ddpm_scheduler() if ancestral else DDIMScheduler.from_config(ddpm_scheduler().config)
    )
    scheduler.set_timesteps(nfe)
    null = torch.zeros_like(z[..., :1])
    for k in scheduler.timesteps:
        t = torch.full_like(null, float(k) / DIFFUSION_STEPS)
        eps = u(z, t, t, c, null)
        if ancestral:
            z = ancestral_step(scheduler, eps, int(k), z, generators)
        else:
            z = scheduler.step(eps, k, z).prev_sample
    return z


def ancestral_step(
    scheduler: DDPMScheduler, eps: Tensor, k: int, z: Tensor, generators: list[torch.Generator]
) -> Tensor:
    """DDPMScheduler.step, seed by seed: each seed has its own generator."""
    if z.dim() == 2:
        return scheduler.step(eps, k, z, generator=generators[0]).prev_sample
    steps = [
        scheduler.step(eps[s], k, z[s], generator=g).prev_sample for s, g in enumerate(generators)
    ]
    return torch.stack(steps)


# ------------------------------------------------------------------ MeanFlow


def meanflow_loss(
    net: nn.Module,
    teacher: nn.Module,
    obs: Tensor,
    a: Tensor,
    noise: Noise,
    progress: float,
    share: float = 0.25,
    power: float = 1.0,
) -> Loss:
    """MeanFlow (Geng et al., arXiv 2505.13447): target v + (r-t) du/dt by a Jacobian product.

    Here t is the *start* of [t, r] and time runs to the data, hence the plus sign. The derivative
    is taken along (dz, dt, dr) = (a - eps, 1, 0). `share` of the rows has r > t (Table 1a of
    MeanFlow), drawn as for OFP, exact (0, 1) pairs included.

    Args:
        power: exponent p of the adaptive weight 1 / (||error||^2 + 1e-3)^p, 1 in MeanFlow.
    """
    B, D = a.shape[1:]
    n = round(share * B)
    eps, t_flow = noise.normal(B, D), noise.uniform(B - n, 1)
    t_mf, r_mf = sample_intervals(noise, n)
    t, r = torch.cat((t_flow, t_mf), dim=1), torch.cat((t_flow, r_mf), dim=1)
    z, v, null = interpolate(eps, a, t), a - eps, torch.zeros_like(t)
    c = net.encode(obs)
    with torch.no_grad():
        late = slice(B - n, B)
        _, du_dt = torch.func.jvp(
            lambda z, t: net(z, t, r_mf, c[:, late].detach(), null[:, late]),
            (z[:, late], t_mf),
            (v[:, late], torch.ones_like(t_mf)),
        )
        target = v.clone()
        target[:, late] += (r_mf - t_mf) * du_dt
    error = (net(z, t, r, c, null) - target).square()
    squared = error.sum(dim=2, keepdim=True)
    weight = (squared.detach() + 1e-3) ** -power
    return (weight * squared).mean(dim=(1, 2)), {"mse": error.mean(dim=(1, 2))}


# ------------------------------------------------------------------ shortcut models


def shortcut_loss(
    net: nn.Module,
    teacher: nn.Module,
    obs: Tensor,
    a: Tensor,
    noise: Noise,
    progress: float,
    share: float = 0.25,
    finest: int = 128,
) -> Loss:
    """Shortcut model (Frans et al., arXiv 2410.12557): one step of 2d equals two of d (teacher).

    Intervals are dyadic: d in {1/finest, …, 1/2}, t a multiple of 2d; a step of 1/finest is the
    instantaneous velocity. `share` of the batch bootstraps, the rest is flow matching.
    """
    B, D = a.shape[1:]
    n = round(share * B)
    levels = finest.bit_length() - 1
    eps, t_flow = noise.normal(B, D), noise.uniform(B - n, 1)
    level = (noise.uniform(n, 1) * levels).floor().clamp(max=levels - 1)  # 2d = 2^-level
    double = 2.0**-level
    t_sc = (noise.uniform(n, 1) / double).floor() * double
    c, boot = net.encode(obs), slice(B - n, B)
    with torch.no_grad():
        z = interpolate(eps[:, boot], a[:, boot], t_sc)
        d, zero = double / 2, torch.zeros_like(double)
        # at the finest level the small step is the diagonal: r - t = 0
        gap = torch.where(d * finest < 1.5, zero, d)
        c_teacher = teacher.encode(obs[:, boot])
        first = teacher(z, t_sc, t_sc + gap, c_teacher, zero)
        middle = t_sc + d
        second = teacher(z + d * first, middle, middle + gap, c_teacher, zero)
        target = 0.5 * (first + second)
    t, r = torch.cat((t_flow, t_sc), dim=1), torch.cat((t_flow, t_sc + double), dim=1)
    u = net(interpolate(eps, a, t), t, r, c, torch.zeros_like(t))
    flow, boot_loss = mse(u[:, : B - n], (a - eps)[:, : B - n]), mse(u[:, boot], target)
    # the mean over the whole batch, as published
    return ((B - n) * flow + n * boot_loss) / B, {"flow": flow, "bootstrap": boot_loss}


# ------------------------------------------------------------------ distillation (the study)


def distil_loss(
    net: nn.Module, teacher: nn.Module, obs: Tensor, pair: Tensor, noise: Noise, progress: float
) -> Loss:
    """|| u(eps, 0, 1 | c) - (end - eps) ||^2, pair = [eps, end of a trained flow] [S, B, 2 D]."""
    eps, end = pair.chunk(2, dim=-1)
    zero = torch.zeros_like(eps[..., :1])
    loss = mse(net(eps, zero, zero + 1, net.encode(obs), zero), end - eps)
    return loss, {"distil": loss}
