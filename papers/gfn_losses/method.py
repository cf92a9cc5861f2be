"""The paper's contribution: regression losses g for GFlowNets and the f-divergences they minimise.

One objective covers FM, DB, TB, SubTB and their variants (Section 3):

    L = sum_o mu(o) g(t(o)),    t(o) = log p_B(o) - log p_F(o)

with training objects o (states, edges, pieces of trajectories, trajectories), their forward and
backward flows p_F, p_B (``common.gfn.objectives`` computes the pairs), and a convex g with g(0) =
g'(0) = 0. **Sign**: t > 0 means that the model's forward flow is too small. Most public code uses
-t, which turns Linex(1) into Linex(-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

Function = Callable[[Tensor], Tensor]

#: Slope clip |t| <= c of the surrogate where the authors' code has none (grid TB and FM: the code's
#: own 50; e^50 fits into float32, e^89 does not). Molecules: 10.
SLOPE_CLIP = 50.0


@dataclass(frozen=True)
class RegressionLoss:
    """A loss g, its slope g' and the generator f of the divergence it minimises on-policy."""

    name: str
    g: Function  # g(t)
    slope: Function  # g'(t)
    f: Function  # f_1(u), Table 1: D_f(p_B || p_F) is what theta_F descends on-policy
    f4: Function  # f_4(u): what theta_B descends when mu = p_B
    zero_forcing: bool  # f(0) = inf: no mass where the target has none
    zero_avoiding: bool  # f'(inf) = inf: mass wherever the target has some


# Table 1, row 1. Linex(0).
QUADRATIC = RegressionLoss(
    name="quadratic",
    g=lambda t: 0.5 * t.square(),
    slope=lambda t: t,
    f=lambda u: u - u.log() - 1,  # reverse KL
    f4=lambda u: u * u.log() - u + 1,
    zero_forcing=True,
    zero_avoiding=False,
)


def linex(alpha: float, name: str | None = None) -> RegressionLoss:
    """Linex(alpha): g(t) = (e^{alpha t} - alpha t - 1)/alpha^2. Section 4.3.

    alpha -> 0: Quadratic; 1: forward KL; 1/2: the alpha = 1/2 divergence; -1: reverse chi^2; 2:
    forward chi^2. g''(0) = 1 for all of them.
    """
    if alpha == 0:
        return QUADRATIC

    def f(u: Tensor) -> Tensor:
        # u int_1^u (s^alpha - 1)/(alpha s^2) ds
        if alpha == 1:
            return u * u.log() - u + 1
        return ((u.pow(alpha) - u) / (alpha - 1) + 1 - u) / alpha

    def f4(u: Tensor) -> Tensor:
        # int_1^u (s^alpha - 1)/alpha ds
        if alpha == -1:
            return u - 1 - u.log()
        return ((u.pow(alpha + 1) - 1) / (alpha + 1) - (u - 1)) / alpha

    return RegressionLoss(
        name=name or f"linex({alpha:g})",
        g=lambda t: (torch.expm1(alpha * t) - alpha * t) / alpha**2,
        slope=lambda t: torch.expm1(alpha * t) / alpha,
        f=f,
        f4=f4,
        zero_forcing=alpha <= 0,
        zero_avoiding=alpha >= 1,
    )


# Table 1, row 4. g''(0) = 2, twice the curvature of the others: kept as published.
SHIFTED_COSH = RegressionLoss(
    name="shifted-cosh",
    g=lambda t: torch.exp(t) + torch.exp(-t) - 2,
    slope=lambda t: torch.exp(t) - torch.exp(-t),
    f=lambda u: u * u.log() - u / 2 + 1 / (2 * u),
    f4=lambda u: 0.5 * u.square() - u.log() - 0.5,
    zero_forcing=True,
    zero_avoiding=True,
)

#: Table 1. Quadratic is the baseline, the other three are the paper's.
LOSSES: dict[str, RegressionLoss] = {
    "quadratic": QUADRATIC,
    "linex1": linex(1.0, "linex1"),
    "linex05": linex(0.5, "linex05"),
    "shifted-cosh": SHIFTED_COSH,
}


def log_ratio(pair: tuple[Tensor, Tensor]) -> Tensor:
    """t(o) = log p_B(o) - log p_F(o) from a pair (log p_F, log p_B). Section 3."""
    log_forward, log_backward = pair
    return log_backward - log_forward


def surrogate(t: Tensor, loss: RegressionLoss, clip: float = SLOPE_CLIP) -> Tensor:
    """sg[g'(clip(t, -c, c))] t: the exact gradient of g, its slope limited to that at |t| = c.

    t itself is never clamped under autograd: that would take the gradient from the objects that are
    most wrong.
    """
    return loss.slope(t.detach().clamp(-clip, clip)) * t


def logged_loss(t: Tensor, loss: RegressionLoss, clip: float = SLOPE_CLIP) -> Tensor:
    """g at the clipped t: finite, for the log only."""
    return loss.g(t.detach().clamp(-clip, clip))


def objective(
    pair: tuple[Tensor, Tensor],
    weights: Tensor,
    loss: RegressionLoss,
    clip: float = SLOPE_CLIP,
) -> tuple[Tensor, Tensor]:
    """Empirical sum_o mu(o) g(t(o)) per seed.

    Args:
        pair: (log p_F, log p_B), [S, ...], one entry per object.
        weights: [S, ...], zero on padding, summing to one per seed (the mean over objects; for
            SubTB the lambda-weighted mean).
    Returns:
        Surrogate for the gradient [S] and the loss for the log [S].
    """
    used = weights > 0
    t = torch.where(used, log_ratio(pair), torch.zeros_like(pair[0]))
    per_object = surrogate(t, loss, clip) * weights
    logged = logged_loss(t, loss, clip) * weights
    return per_object.flatten(1).sum(1), logged.flatten(1).sum(1)


# -- Theorem 1: the gradient equivalence ----------------------------------------------------------


def divergence(log_p: Tensor, log_q: Tensor, f: Function) -> Tensor:
    """D_f(p || q) = sum q f(p/q) on unnormalised measures given by their logarithms.

    Section 4.1.
    """
    return (log_q.exp() * f((log_p - log_q).exp())).sum()


def theorem_generators(loss: RegressionLoss) -> dict[str, Function]:
    """f_1..f_4 of Theorem 1: (theta_F, theta_B) for mu = p_F, then for mu = p_B."""
    return {
        "f1": loss.f,
        "f2": lambda u: loss.g(u.log()),
        "f3": lambda u: u * loss.g(u.log()),
        "f4": loss.f4,
    }


def f_from_g(u: float, slope: Callable[[float], float]) -> float:
    """f_1(u) = u int_1^u g'(log s)/s^2 ds by quadrature (in x = log s). Theorem 1."""
    value, _ = quad(lambda x: slope(x) * math.exp(-x), 0.0, math.log(u), epsabs=1e-13, epsrel=1e-13)
    return u * value


def g_from_f(t: float, f: Callable[[float], float]) -> float:
    """Inverse: g(t) = f(e^t) - int_1^{e^t} f(s)/s ds by quadrature (in x = log s)."""
    value, _ = quad(lambda x: f(math.exp(x)), 0.0, t, epsabs=1e-13, epsrel=1e-13)
    return f(math.exp(t)) - value


def scalar(function: Function) -> Callable[[float], float]:
    """A tensor function on floats, in float64."""
    return lambda x: float(function(torch.tensor(x, dtype=torch.float64)))


def relative_error(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|."""
    return float(np.max(np.abs((a - b).numpy())) / np.max(np.abs(b.numpy())))


def theorem_errors(
    loss: RegressionLoss,
    log_forward: Callable[[], Tensor],
    log_backward: Callable[[], Tensor],
    theta_forward: list[Tensor],
    theta_backward: list[Tensor],
) -> dict[str, float]:
    """Relative gradient errors of the four parts of Theorem 1 on an enumerated set of objects.

    Args:
        log_forward, log_backward: log p_F and log p_B of all objects of all cuts, each object
            counted sum_{C containing o} w(C) = 1 times.
        theta_forward: parameters as they enter p_F; theta_backward: as they enter p_B. A flow that
            enters both must be given as two leaf tensors.
    """

    def gradient(value: Tensor, parameters: list[Tensor]) -> Tensor:
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
        filled = [
            torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)
        ]
        return torch.cat([g.flatten() for g in filled])

    def expected_loss(on_policy: bool) -> Tensor:
        lf, lb = log_forward(), log_backward()
        # a constant: no gradient through the sampling distribution
        mu = (lf if on_policy else lb).detach().exp()
        return (mu * loss.g(log_ratio((lf, lb)))).sum()

    errors = {}
    generators = theorem_generators(loss)
    for part, on_policy, theta in (
        ("f1", True, theta_forward),
        ("f2", True, theta_backward),
        ("f3", False, theta_forward),
        ("f4", False, theta_backward),
    ):
        if not theta:
            continue
        target = divergence(log_backward(), log_forward(), generators[part])
        errors[part] = relative_error(
            gradient(expected_loss(on_policy), theta), gradient(target, theta)
        )
    return errors
