"""Three ways to the soft value alpha log int exp(Q(s, a) / alpha) da, to hold the flow's V against.

Quadrature is the judge; the two Monte-Carlo estimates are what soft Q-learning and SAC use. All of
them see the policy only through its Q (and SAC's through a Gaussian fitted to it).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from common.flows import Atanh
from common.sac import squash
from common.stacked import randn
from papers.meow.method import EnergyFlow

HALF_WIDTH = 16.0  # of the box of pre-tanh actions; tanh(16) = 1 - 2.5e-14

CHUNK = 1_000  # actions per call: the activations stay in the cache


def unclipped(policy: EnergyFlow) -> EnergyFlow:
    """A float64 copy in eval mode whose atanh does not clip the action.

    In training actions are clipped to +-(1 - 1e-5): a numerical guard that cuts off the tails
    beyond |u| = 6.1.
    """
    memo = {id(m.generators): m.generators for m in policy.modules() if hasattr(m, "generators")}
    free = copy.deepcopy(policy, memo).double().eval().requires_grad_(False)
    for layer in free.flow.layers:
        if isinstance(layer, Atanh):
            layer.limit = 1.0
    return free


@torch.no_grad()
def quadrature_v(policy: EnergyFlow, state: Tensor, points: int = 320) -> Tensor:
    """V by the midpoint rule over pre-tanh actions u, a = tanh(u), da = prod (1 - a^2) du.

    A grid in a would miss the mass that sits at the walls.

    Args:
        policy: see `unclipped`; one or two action dimensions.
        state: one state for all seeds. [obs]
        points: per dimension, over [-HALF_WIDTH, HALF_WIDTH]: the midpoint rule is exact for a
            Gaussian up to exp(-2 pi^2 (sigma / step)^2), step 0.1 for 320.

    Returns:
        [S].
    """
    A, S = policy.dim, n_seeds(policy)
    if A > 2:
        raise ValueError("quadrature is for one or two action dimensions")
    step = 2 * HALF_WIDTH / points
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) * step - HALF_WIDTH
    total = torch.full((S,), -math.inf, dtype=torch.float64)
    grid = axis.unsqueeze(1) if A == 1 else torch.cartesian_prod(axis, axis)
    for u in grid.split(CHUNK):
        log_volume = -2 * torch.log(torch.cosh(u)).sum(-1) + A * math.log(step)
        q = q_at(policy, state.double(), torch.tanh(u).expand(S, -1, -1))
        part = torch.logsumexp(q / policy.alpha + log_volume, dim=-1)
        total = torch.logaddexp(total, part)
    return policy.alpha * total


@torch.no_grad()
def uniform_estimates(
    policy: EnergyFlow, state: Tensor, generators: list[torch.Generator], sizes: dict[int, int]
) -> dict[int, Tensor]:
    """Soft Q-learning's V: alpha log 1/M sum_i exp(Q(a_i) / alpha) / q(a_i), a_i uniform, q = 2^-A.

    Args:
        policy: in eval mode.
        state: one state for all seeds. [obs]
        generators: one per seed.
        sizes: M -> number of independent repeats.

    Returns:
        M -> estimates [S, repeats], from disjoint parts of one pool of draws.
    """
    S, pool = n_seeds(policy), max(m * n for m, n in sizes.items())
    chunks = []
    for begin in range(0, pool, CHUNK):
        n = min(CHUNK, pool - begin)
        draws = torch.stack([torch.rand(n, policy.dim, generator=g) for g in generators])
        chunks.append(q_at(policy, state, 2 * draws - 1))
    q = torch.cat(chunks, dim=1).double() / policy.alpha + policy.dim * math.log(2)
    return {
        m: policy.alpha * (q[:, : m * n].view(S, n, m).logsumexp(-1) - math.log(m))
        for m, n in sizes.items()
    }


def fitted_gaussian_v(
    policy: EnergyFlow,
    state: Tensor,
    generators: list[torch.Generator],
    *,
    steps: int = 400,
    samples: int = 128,
    judged: int = 20_000,
) -> Tensor:
    """SAC's V: mean of Q - alpha log pi_psi over a ~ pi_psi, a tanh-Gaussian fitted as SAC fits it.

    It is low by alpha KL(pi_psi || pi) however many samples are drawn. Starts from the moments of
    the flow's own pre-tanh actions. Returns [S].
    """
    S, A = n_seeds(policy), policy.dim
    batch = state.expand(S, samples, -1)
    with torch.no_grad():
        u = torch.atanh(policy.act(batch, randn(generators, samples, A)).clamp(-0.99999, 0.99999))
    mean = u.mean(1, keepdim=True).requires_grad_()
    log_std = u.std(1, keepdim=True).log().clamp(-3, 1).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=0.02)
    for _ in range(steps):
        action, log_prob = squash(mean, log_std, randn(generators, samples, A))
        loss = (policy.alpha * log_prob - q_at(policy, state, action)).mean(-1).sum()
        (mean.grad, log_std.grad) = torch.autograd.grad(loss, [mean, log_std])
        optimizer.step()
    with torch.no_grad():
        action, log_prob = squash(mean, log_std, randn(generators, judged, A))
        return (q_at(policy, state, action) - policy.alpha * log_prob).mean(-1)


def q_at(policy: EnergyFlow, state: Tensor, action: Tensor) -> Tensor:
    """q_clip of many actions [S, n, A] at one state [obs], whose shifts are computed once."""
    S, n = action.shape[:2]
    shift = policy.b(state.expand(S, 1, -1)).amin(-1)
    return policy.q(state.expand(S, n, -1), action) + shift


def n_seeds(policy: EnergyFlow) -> int:
    """S of a stack."""
    return next(policy.parameters()).shape[0]
