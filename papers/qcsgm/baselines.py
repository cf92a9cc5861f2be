"""CSBM, the constrained score model: a gradient by construction."""

from __future__ import annotations

import torch
from torch import Tensor

from papers.qcsgm.method import Network


def _descent(energy_of: Network, x: Tensor, sigma: Tensor) -> Tensor:
    """-d energy / d x, differentiable where the caller's gradients are on."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy_of(x, sigma).sum(), x, create_graph=keep)
    return -gradient


def constrained(f: Network) -> Network:
    """CSBM in two dimensions: s_C(x, sigma) = -d/dx |x - f(x, sigma)|^2 / (2 sigma)."""

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - f(x, sigma)).square().sum(-1, keepdim=True) / (2 * sigma)

    return lambda x, sigma: _descent(energy, x, sigma)


def constrained_output(network: Network) -> Network:
    """CSBM on images: s_C = -d/dx 1/2 |network(x, sigma)|^2 / sigma; U is the network's output."""

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x, sigma).square().sum(-1, keepdim=True) / (2 * sigma)

    return lambda x, sigma: _descent(energy, x, sigma)
