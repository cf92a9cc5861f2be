"""EBFlow (Chao et al., arXiv 2305.15267): a flow as an energy-based model, trained by its score.

A flow u = g(x) = g_L o ... o g_1(x) has layers whose Jacobian is constant in x (S_l: dense and
convolutional linear maps, normalisations, permutations) and others (S_n: activations, couplings,
the logit). Its density is that of an energy-based model,

    p(x) = p_u(g(x)) prod_{S_n} |det J_i(x_{i-1})| * prod_{S_l} |det J_i| = exp(-E(x)) / Z,

and the score of a model does not depend on Z: trained by score matching, no determinant of a
linear layer is ever computed.

Shapes: S seeds are stacked in front, x [S, B, D]; energies and losses [S, B]; log Z [S, 1]. A
``Flow`` returns from ``forward`` the log-determinants of S_n alone and computes those of S_l in
``log_det_constant`` only. Losses are sums over D; ``per_dimension`` divides them as the paper's
image experiments do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.flows import Flow
from common.score import dsm
from common.stacked import randn

Generators = Sequence[torch.Generator]

# --------------------------------------------------------------------------- the energy view


def log_base(u: Tensor) -> Tensor:
    """log p_u(u) of the standard normal base density. [S, B]."""
    return -0.5 * u.square().sum(-1) - 0.5 * u.shape[-1] * math.log(2 * math.pi)


def energy(flow: Flow, x: Tensor) -> Tensor:
    """E(x) = -log p_u(g(x)) - sum_{S_n} log|det J_i(x_{i-1})|. [S, B].

    Linear layers contribute their outputs and none of their determinants.
    """
    u, log_det = flow(x)
    return -log_base(u) - log_det


def log_Z(flow: Flow) -> Tensor:
    """log Z = -sum_{S_l} log|det J_i|. [S, 1]. O(D^3) for each dense layer."""
    return -flow.log_det_constant()


def log_prob(flow: Flow, x: Tensor) -> Tensor:
    """log p(x) = -E(x) - log Z. [S, B]."""
    return -energy(flow, x) - log_Z(flow)


def score(flow: Flow, x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """s(x) = -grad_x E(x) = grad_x log p(x), and E(x).

    Args:
        x: [S, B, D]; with ``create_graph`` it may require gradients of its own (SSM).
        create_graph: keep s differentiable in the parameters (and in x).
    """
    with torch.enable_grad():
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        E = energy(flow, x)
        (gradient,) = torch.autograd.grad(E.sum(), x, create_graph=create_graph)
    return -gradient, E


# --------------------------------------------------------------------------- objectives


class Objective(NamedTuple):
    """A loss per sample, and the energies that it computed on the way (for the regulariser)."""

    loss: Tensor  # [S, B]
    energy: Tensor  # [S, B]


def sml(flow: Flow, x: Tensor, generators: Generators) -> Objective:
    """Sample-based maximum likelihood: E(x) - E(x'), x' = g^{-1}(u) a sample of the model.

    The samples carry no gradient: the expected gradient is that of maximum likelihood. No
    determinant, but each step inverts every linear layer.
    """
    with torch.no_grad():
        samples = sample(flow, x.shape[1], x.shape[2], generators, dtype=x.dtype)
    on_data, on_model = energy(flow, torch.cat((x, samples), 1)).chunk(2, dim=1)
    return Objective(on_data - on_model, on_data)


def ssm(flow: Flow, x: Tensor, v: Tensor) -> Objective:
    """Sliced score matching: 1/2 |s(x)|^2 + v' grad_x (v' s(x)), one slice v with E[vv'] = I."""
    x = x.detach().requires_grad_()
    s, E = score(flow, x, create_graph=True)
    (gradient,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
    return Objective(0.5 * s.square().sum(-1) + (gradient * v).sum(-1), E)


def denoising(flow: Flow, x: Tensor, z: Tensor, sigma: float) -> Objective:
    """Denoising score matching: 1/2 |s(x + sigma z) + z / sigma|^2. Fits p * N(0, sigma^2 I)."""
    s, E = score(flow, x + sigma * z, create_graph=True)
    return Objective(dsm(s, sigma, z), E)


def fdssm(flow: Flow, x: Tensor, eps: Tensor, xi: float) -> Objective:
    """Finite-difference sliced score matching: no derivative in x, one forward of 3 B inputs.

    D / xi^2 [2 E(x) - E(x + eps) - E(x - eps) + 1/8 (E(x + eps) - E(x - eps))^2], eps uniform on
    the sphere of radius xi. As xi -> 0 its expectation is 1/2 |s|^2 + tr grad s.
    """
    E, E_plus, E_minus = energy(flow, torch.cat((x, x + eps, x - eps), 1)).chunk(3, dim=1)
    slope = E_plus - E_minus
    loss = (2 * E - E_plus - E_minus + slope.square() / 8) * (x.shape[-1] / xi**2)
    return Objective(loss, E)


def sphere(generators: Generators, n: int, dim: int, radius: float) -> Tensor:
    """Directions of FDSSM, uniform on the sphere. [S, n, dim]."""
    z = randn(generators, n, dim)
    return radius * z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)


def per_dimension(result: Objective, dim: int, energy_weight: float = 0.0) -> Tensor:
    """Loss of the image experiments: (loss) / D + weight * E, per sample. [S, B].

    ``energy_weight`` keeps the energy low. With the authors' lambda_E it is lambda_E / channels
    beside DSM and SSM and lambda_E / xi^2 beside FDSSM.
    """
    loss = result.loss / dim
    return loss + energy_weight * result.energy if energy_weight else loss


# --------------------------------------------------------------------------- MaP


def match_after(flow: Flow, k: int) -> tuple[Flow, Flow]:
    """MaP, match after preprocessing: (g_k o ... o g_1, g_L o ... o g_{k+1}).

    Score matching is done for the second flow on x_k, the output of the first, so that the
    exploding derivatives of the logit do not enter the score. The Fisher divergence of x_j is zero
    for one j if and only if it is for all, so the optimum stays. The two share their layers with
    ``flow``, whose likelihood is that of x_0.
    """
    return Flow(flow.layers[:k]), Flow(flow.layers[k:])


# --------------------------------------------------------------------------- sampling


def sample(
    flow: Flow, n: int, dim: int, generators: Generators, dtype: torch.dtype | None = None
) -> Tensor:
    """x = g^{-1}(u), u ~ p_u. [S, n, dim]."""
    return flow.inverse(randn(generators, n, dim, dtype=dtype))


def langevin_impute(
    flow: Flow,
    x: Tensor,
    missing: Tensor,
    generators: Generators,
    *,
    alpha: float,
    steps: int,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """x_M <- x_M - alpha grad_{x_M} E(x) + sqrt(2 alpha) z on the missing coordinates M.

    Args:
        x: what is known, and a start for what is missing. [S, B, D]
        missing: 1 where a coordinate is missing. [D]
        alpha: step size.
        steps: number of iterations.
        watch: called with (step, x) after each of them.
    """
    for step in range(steps):
        s, _ = score(flow, x)
        z = randn(generators, *x.shape[1:], dtype=x.dtype)
        x = x.detach() + missing * (alpha * s + math.sqrt(2 * alpha) * z)
        if watch is not None:
            watch(step, x)
    return x


# --------------------------------------------------------------------------- determinants


def importance_log_Z(energies: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """log Z = log E_q[exp(-E(x)) / q(x)] from samples of q, and the effective sample size. [S].

    For one linear layer this is |det W|^{-1} = E_q[p_u(W x) / q(x)]: a determinant from forward
    passes alone.

    Args:
        energies: E(x) of x ~ q. [S, B]
        log_q: log q(x). [S, B]
    """
    log_w = -energies - log_q
    estimate = torch.logsumexp(log_w, -1) - math.log(log_w.shape[-1])
    effective = torch.exp(2 * torch.logsumexp(log_w, -1) - torch.logsumexp(2 * log_w, -1))
    return estimate, effective
