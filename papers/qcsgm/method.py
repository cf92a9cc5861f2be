"""QCSBM: asymmetry of a score model's Jacobian, its Hutchinson estimate, and the loss.

A field s maps [..., B, D] to [..., B, D], each row by itself; J[..., i, j] = d s_i / d x_j. A field
is conservative (the gradient of something) where J is symmetric. Leading axes hold stacked seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.score import Field, dsm

Network = Callable[[Tensor, Tensor], Tensor]  # (x [..., B, D], sigma [..., B, 1]) -> [..., B, D]


# Section 3: how far from conservative


def rotation(J: Tensor) -> Tensor:
    """ROT_ij s = d s_i / d x_j - d s_j / d x_i. [..., D, D]."""
    return J - J.mT


def asymmetry(J: Tensor) -> Tensor:
    """1/2 |J - J^T|_F^2 at every row, whose mean is Asym and L_QC. [...]."""
    return 0.5 * rotation(J).square().sum((-2, -1))


def asymmetry_trace(J: Tensor) -> Tensor:
    """L^tr_QC: the same as tr(J J^T) - tr(J J). [...]."""
    return J.square().sum((-2, -1)) - (J * J.mT).sum((-2, -1))


def normalised_asymmetry(J: Tensor) -> Tensor:
    """1/4 |J - J^T|_F^2 / |J|_F^2 at every row, whose mean is NAsym. [...].

    0 where J is symmetric, 1 where it is antisymmetric. (The authors' code adds 1e-8 below.)
    """
    return 0.5 * asymmetry(J) / J.square().sum((-2, -1))


# Section 4: parameterisation and regulariser


def unconstrained(f: Network) -> Network:
    """USBM, and with it QCSBM: s_U(x, sigma) = (x - f(x, sigma)) / sigma, sign as in the paper."""

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - f(x, sigma)) / sigma

    return score


def score_and_jacobian(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """s(x) [..., D] and J(x) [..., D, D], both differentiable in the field's parameters.

    D backward passes through one forward pass; for small D.
    """
    x = x.detach().requires_grad_()
    s = field(x)
    rows = [
        torch.autograd.grad(s[..., i].sum(), x, create_graph=True)[0] for i in range(s.shape[-1])
    ]
    return s, torch.stack(rows, dim=-2)


def jacobian_products(field: Field, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s(x), J^T v and J v at every row, differentiable in the field's parameters. [..., D] each.

    J^T v is one backward pass. It is linear in v, and its derivative with respect to v, applied to
    v, is J v: a second backward pass, so no layer of the field needs forward-mode rules.
    """
    x = x.detach().requires_grad_()
    v = v.detach().requires_grad_()
    s = field(x)
    (JTv,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
    (Jv,) = torch.autograd.grad(JTv, v, grad_outputs=v.detach(), create_graph=True)
    return s, JTv, Jv


def qc_estimate(JTv: Tensor, Jv: Tensor) -> Tensor:
    """L^est_QC of one v with E[v v^T] = I: v^T J J^T v - v^T J J v, which may be negative. [...].

    Both factors carry gradients: none of the terms is differentiated with respect to x again, so
    nothing has to be detached.
    """
    return (JTv * (JTv - Jv)).sum(-1)


def qc_difference(JTv: Tensor, Jv: Tensor) -> Tensor:
    """1/2 |(J^T - J) v|^2: the same mean as ``qc_estimate``, and never negative. [...].

    Not the paper's. For D = 2 and Rademacher v it is L_QC itself, without any variance.
    """
    return 0.5 * (JTv - Jv).square().sum(-1)


def qc_backward_two_step(field: Field, x: Tensor, v: Tensor, parameters: Sequence[Tensor]) -> None:
    """Adds the gradient of sum L^est_QC to the parameters' ``grad`` as the paper does it.

    w = J^T v; J^T w with w constant; the first backward gives the primary part of the gradient and
    leaves in the detached copy of w what the second sends through w. The same gradient as
    ``qc_estimate``'s at a greater cost: here to be compared with.
    """
    x = x.detach().requires_grad_()
    s = field(x)
    (w,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
    w_leaf = w.detach().requires_grad_()
    (JTw,) = torch.autograd.grad((s * w_leaf).sum(), x, create_graph=True)
    primary = w.square().sum() - (v * JTw).sum()
    primary.backward(inputs=[*parameters, w_leaf], retain_graph=True)
    w.backward(w_leaf.grad, inputs=list(parameters))  # the secondary part


def dsm_loss(s: Tensor, sigma: Tensor, z: Tensor) -> Tensor:
    """L_SM at x + sigma z, weighted by sigma^2: 1/2 |sigma s + z|^2 per sample. [...]."""
    return dsm(s, sigma, z, weight=1.0)


def qc_loss(
    score: Network, x: Tensor, sigma: Tensor, v: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Score and sigma^2 L_QC per sample, the regulariser weighted as the matching loss is.

    Args:
        score: s(x, sigma).
        x: noised points. [..., B, D]
        sigma: their noise levels. [..., B, 1]
        v: K Rademacher vectors per point [..., K, B, D]; None: the exact trace version.

    Returns:
        s(x, sigma) [..., B, D] and sigma^2 L_QC [..., B].
    """
    weight = sigma.squeeze(-1).square()
    if v is None:
        s, J = score_and_jacobian(lambda at: score(at, sigma), x)
        return s, weight * asymmetry_trace(J)
    K, B = v.shape[-3:-1]

    def slices(a: Tensor) -> Tensor:  # [..., B, n] -> [..., K B, n]
        return a.unsqueeze(-3).expand(*a.shape[:-2], K, *a.shape[-2:]).flatten(-3, -2)

    levels = slices(sigma)
    s, JTv, Jv = jacobian_products(lambda at: score(at, levels), slices(x), v.flatten(-3, -2))
    estimate = qc_estimate(JTv, Jv).unflatten(-1, (K, B)).mean(-2)
    return s[..., :B, :], weight * estimate
