"""One-Step Flow Policy (Li et al., arXiv 2603.12480): losses, sampler and warm start.

Conventions. Time runs from noise (0) to data (1): z_t = (1-t) eps + t a, velocity a - eps.
Shapes: S training seeds are stacked in front of everything; chunks are flat, D = H * action_dim.
    eps, a, z [S, B, D] · t, r, null [S, B, 1] · obs [S, B, obs_dim] · losses [S], mean per seed
A network `net` has two calls: c = net.encode(obs) and u = net(z, t, r, c, null), the *average
velocity* over [t, r]; null = 1 replaces c by the null condition ø.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from common.ema import follow

AverageVelocity = Callable[..., Tensor]  # u(z, t, r, c, null)


@dataclass(frozen=True)
class OFPConfig:
    """Hyperparameters of the losses; `third party` = re-implementations, the paper gives none."""

    lambda_sc: float = 1.0  # weight of self-consistency (third party)
    lambda_sg: float = 0.005  # weight of self-guidance: 0.05 x its batch share 0.1 (third party)
    share_sc: float = 0.25  # share of the batch for self-consistency (third party)
    share_sg: float = 0.1  # share of the batch for self-guidance, out of the flow part (third p.)
    flow_on_all: bool = False  # anchor on the whole batch instead of the part without SC (ours)
    p_drop: float = 0.1  # probability of the null condition (usual value; not in the paper)
    rho_floor: float = 0.05  # end of the contraction; 0 would end all learning (ours)
    rho_ends: float = 0.5  # training progress at which 1 - s / rho_ends is 0 (ours: the study)
    rho_fixed: float | None = None  # a constant instead of the contraction (ablation)
    intervals: Literal["beta", "uniform"] = "beta"  # law of (t, r), see sample_intervals
    share_exact: float = 0.25  # share of (t, r) = (0, 1), the pair used at test time (ours)
    share_end: float = 0.5  # share of intervals that end at exactly r = 1, t as drawn (ours)


class Noise(Protocol):
    """Random draws, one generator per seed; leading dimension S is added."""

    def normal(self, *shape: int) -> Tensor: ...

    def uniform(self, *shape: int) -> Tensor: ...


# --------------------------------------------------------------------------- paths and jumps


def interpolate(eps: Tensor, a: Tensor, t: Tensor) -> Tensor:
    """z_t = (1-t) eps + t a, the straight line from noise to data."""
    return torch.lerp(eps, a, t)


def jump(
    u: AverageVelocity, z: Tensor, t: Tensor, r: Tensor, c: Tensor, null: Tensor | None = None
) -> Tensor:
    """z_r = z_t + (r-t) u(z_t, t, r | c)."""
    return z + (r - t) * u(z, t, r, c, torch.zeros_like(t) if null is None else null)


# --------------------------------------------------------------------------- self-consistency


def contraction(progress: float, floor: float = 0.05, ends: float = 0.5) -> float:
    """rho(s), the share of [t, r] from which m is drawn: from 1 linearly down to `floor`.

    Wide early: the target is mostly data, the errors of the teacher are harmless. Narrow late:
    the bias of a target whose z_m lies on the line instead of the flow's path vanishes.
    """
    return max(1.0 - progress / ends, floor)


def sample_intervals(
    noise: Noise,
    n: int,
    *,
    law: str = "beta",
    share_exact: float = 0.25,
    share_end: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Start and end [S, n, 1] of the intervals of self-consistency, 0 <= t < r <= 1.

    The rows are [exact (0, 1) | r = 1 | the rest]. The second group matters: the target of an
    exact pair asks the teacher for u(z_m, m, 1), and neither law has mass on r = 1.

    Args:
        noise: random draws.
        n: number of intervals.
        law: beta: t ~ Beta(1, 1.5), r - t = (1-t) sigmoid(N(-0.2, 1)) (third party);
            uniform: two sorted uniforms.
        share_exact: share of the rows that are (0, 1).
        share_end: share of the rows whose r is set to 1.
    """
    a, b = noise.uniform(n, 1), noise.normal(n, 1)
    if law == "beta":
        t = 1.0 - (1.0 - a) ** (1.0 / 1.5)  # inverse distribution function of Beta(1, 1.5)
        r = t + (1.0 - t) * torch.sigmoid(b - 0.2)
    else:
        other = 0.5 * (1.0 + torch.erf(b / 2**0.5))  # uniform, from the normal draw
        t, r = torch.minimum(a, other), torch.maximum(a, other)
    n_exact, n_end = round(share_exact * n), round(share_end * n)
    t[:, :n_exact] = 0.0
    r[:, : n_exact + n_end] = 1.0
    t = t.clamp(max=0.999)
    return t, torch.maximum(r, t + 1e-3)  # the target divides by r - t


def self_consistency_target(
    u_teacher: Tensor, eps: Tensor, a: Tensor, t: Tensor, m: Tensor, r: Tensor
) -> Tensor:
    """u* = (zhat_r - z_t) / (r-t): data from t to m, the teacher's jump from m to r.

    Equal to (m-t)/(r-t) (a-eps) + (r-m)/(r-t) u_teacher. Not clamped: velocities exceed the range
    of actions by far.

    Args:
        u_teacher: u_theta^-(z_m, m, r | c~) with z_m = interpolate(eps, a, m), without gradient.
        eps, a: the same pair for z_t and z_m.
        t, m, r: t <= m <= r, t < r.
    """
    zhat_r = interpolate(eps, a, m) + (r - m) * u_teacher
    return (zhat_r - interpolate(eps, a, t)) / (r - t)


# --------------------------------------------------------------------------- the loss


def mse(x: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per seed, [S]."""
    return (x - target).square().mean(dim=(1, 2))


def self_guidance_loss(y: Tensor, g: Tensor) -> Tensor:
    """|| y - stopgrad(y + g) ||^2, [S]: its gradient with respect to y is -2 g / numel.

    g = u_theta^-(z', t', t' | c) - u_theta^-(z', t', t' | ø) is the direction of classifier-free
    guidance at the re-noised one-step action, ((1-t')/t') grad log p(o | z') in terms of scores.
    """
    return mse(y, (y + g).detach())


def rho_at(progress: float, cfg: OFPConfig) -> float:
    """rho(s), or the fixed one of the ablation."""
    if cfg.rho_fixed is not None:
        return cfg.rho_fixed
    return contraction(progress, cfg.rho_floor, cfg.rho_ends)


@torch.no_grad()
def teacher_targets(
    teacher: nn.Module,
    obs: Tensor,
    noise: Noise,
    rho: float,
    sc: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    sg: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """What self-consistency regresses on and what guides, by one call of the teacher.

    Args:
        teacher: the moving average u_theta^-.
        obs: of the rows of self-consistency, then of self-guidance; [S, n_sc + n_sg, obs_dim].
        noise: random draws.
        rho: how far m may lie between t and r.
        sc: eps, a [S, n_sc, D], t, r and drop [S, n_sc, 1].
        sg: z_t, y [S, n_sg, D] and t [S, n_sg, 1].

    Returns:
        The target [S, n_sc, D], and g = v(z', t' | c) - v(z', t' | ø) [S, n_sg, D].
    """
    eps, a, t_sc, r_sc, drop = sc
    z, y, t_sg = sg
    n_sc, n_sg, one = t_sc.shape[1], t_sg.shape[1], torch.ones_like(t_sg)
    # Self-consistency, step 1: m ~ U[t, t + (r-t) rho(s)], z_m on the line of the same (eps, a)
    m = t_sc + (r_sc - t_sc) * rho * noise.uniform(n_sc, 1)
    z_m = interpolate(eps, a, m)
    # Self-guidance, steps 1-2: ahat = z_t + (1-t) y, re-noised with fresh noise to t'
    ahat = z + (1 - t_sg) * y
    t_new = noise.uniform(n_sg, 1)
    z_new = interpolate(noise.normal(n_sg, a.shape[-1]), ahat, t_new)
    # One call: [u(z_m, m, r | c~), u(z', t', t' | c), u(z', t', t' | ø)]
    c = teacher.encode(obs)
    u = teacher(
        torch.cat((z_m, z_new, z_new), dim=1),
        torch.cat((m, t_new, t_new), dim=1),
        torch.cat((r_sc, t_new, t_new), dim=1),
        torch.cat((c, c[:, n_sc:]), dim=1),
        torch.cat((drop, 0 * one, one), dim=1),
    )
    u_sc, v_cond, v_null = u.split((n_sc, n_sg, n_sg), dim=1)
    return self_consistency_target(u_sc, eps, a, t_sc, m, r_sc), v_cond - v_null


def ofp_loss(
    net: nn.Module,
    teacher: nn.Module,
    obs: Tensor,
    a: Tensor,
    noise: Noise,
    progress: float,
    cfg: OFPConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_flow + lambda_sc L_sc + lambda_sg L_sg of one batch, per seed.

    The batch is split into [flow | self-consistency]; the first rows of the flow part serve
    self-guidance as well. The three forwards of the student are one call, so are the teacher's.

    Args:
        net: the student u_theta.
        teacher: its moving average u_theta^-.
        obs: [S, B, obs_dim].
        a: normalised chunks [S, B, D].
        noise: random draws.
        progress: share of the training that is done, in [0, 1).
        cfg: weights, shares and laws.

    Returns:
        The loss [S] (sum it, then differentiate: seeds share no parameters), and its parts.
    """
    B, D = a.shape[1:]
    n_sc = round(cfg.share_sc * B) if cfg.lambda_sc > 0 else 0
    n_sg = round(cfg.share_sg * B) if cfg.lambda_sg > 0 else 0
    n_flow = B if cfg.flow_on_all else B - n_sc
    flow_rows = torch.arange(n_flow)
    sc_rows, sg_rows = torch.arange(B - n_sc, B), flow_rows[:n_sg]

    eps = noise.normal(B, D)
    drop = (noise.uniform(B, 1) < cfg.p_drop).to(a.dtype)  # 1: ø
    t_flow = noise.uniform(n_flow, 1)
    t_sc, r_sc = sample_intervals(
        noise, n_sc, law=cfg.intervals, share_exact=cfg.share_exact, share_end=cfg.share_end
    )
    t_sg, one = t_flow[:, :n_sg], torch.ones_like(t_flow[:, :n_sg])

    # Student: u(z_t, t, t | c~), u(z_t, t, r | c~), y = u(z_t, t, 1 | c) with c never dropped out
    rows = torch.cat((flow_rows, sc_rows, sg_rows))
    t = torch.cat((t_flow, t_sc, t_sg), dim=1)
    r = torch.cat((t_flow, r_sc, one), dim=1)
    null = torch.cat((drop[:, flow_rows], drop[:, sc_rows], 0 * one), dim=1)
    z = interpolate(eps[:, rows], a[:, rows], t)
    u = net(z, t, r, net.encode(obs)[:, rows], null)
    u_flow, u_sc, y = u.split((n_flow, n_sc, n_sg), dim=1)

    # Flow anchoring: || u(z_t, t, t | c~) - (a - eps) ||^2
    loss = flow = mse(u_flow, a[:, flow_rows] - eps[:, flow_rows])
    parts = {"flow": flow}
    if n_sc + n_sg == 0:
        return loss, parts

    sc = (eps[:, sc_rows], a[:, sc_rows], t_sc, r_sc, drop[:, sc_rows])
    sg = (z[:, n_flow + n_sc :], y, t_sg)
    rows = torch.cat((sc_rows, sg_rows))
    target, g = teacher_targets(teacher, obs[:, rows], noise, rho_at(progress, cfg), sc, sg)
    if n_sc:
        parts["self_consistency"] = mse(u_sc, target)
        loss = loss + cfg.lambda_sc * parts["self_consistency"]
    if n_sg:
        loss = loss + cfg.lambda_sg * self_guidance_loss(y, g)
        parts["guidance_norm"] = g.square().mean(dim=(1, 2)).sqrt()
    return loss, parts


def update_teacher(teacher: nn.Module, net: nn.Module, decay: float) -> None:
    """theta^- <- decay theta^- + (1-decay) theta; the teacher is also what is evaluated."""
    follow(teacher.parameters(), net.parameters(), 1.0 - decay)


# --------------------------------------------------------------------------- inference


def sample(u: AverageVelocity, z: Tensor, c: Tensor, nfe: int = 1, t_start: float = 0.0) -> Tensor:
    """Chunk by `nfe` jumps on an even grid from t_start to 1; nfe calls of u, no guidance.

    Args:
        u: average velocity.
        z: noise, or the warm start at t_start; [S, B, D].
        c: encoded observation [S, B, C].
        nfe: number of network calls.
        t_start: 0 for a cold start.
    """
    null = torch.zeros_like(z[..., :1])
    for k in range(nfe):
        t = t_start + (1.0 - t_start) * k / nfe
        r = t_start + (1.0 - t_start) * (k + 1) / nfe
        z = jump(u, z, torch.full_like(null, t), torch.full_like(null, r), c, null)
    return z


def shift_chunk(chunk: Tensor, executed: int) -> Tensor:
    """[a_{h+1}, …, a_H, a_H, …, a_H]: what the last chunk [..., H, d] said about the next H."""
    last = chunk[..., -1:, :].expand(*chunk.shape[:-2], executed, chunk.shape[-1])
    return torch.cat((chunk[..., executed:, :], last), dim=-2)


def warm_start(eps: Tensor, shifted: Tensor, t_w: float = 0.15) -> Tensor:
    """z = (1-t_w) eps + t_w a_w, from which sample(…, t_start=t_w) goes on; normalised actions."""
    return (1.0 - t_w) * eps + t_w * shifted
