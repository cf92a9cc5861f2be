"""The one-layer autoencoder s(x) = R h(W^T x + b) + c of the paper's appendix, seeds stacked.

h is Swish with a learnable beta per unit. Tied weights, R = W, make its Jacobian symmetric; the
regulariser alone is minimised here from untied ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.stacked import rand
from papers.qcsgm.method import asymmetry, normalised_asymmetry


class Autoencoder(nn.Module):
    """S autoencoders with D inputs and H units; weights and biases ~ U(-1, 1)."""

    def __init__(self, generators: Sequence[torch.Generator], dim: int = 2, hidden: int = 2):
        super().__init__()

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(2 * rand(generators, *shape) - 1)

        self.W = uniform(dim, hidden)  # [S, D, H]
        self.R = uniform(dim, hidden)
        self.b = uniform(1, hidden)
        self.c = uniform(1, dim)  # the Jacobian does not see it
        self.beta = nn.Parameter(torch.ones(len(generators), 1, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """s(x). [S, N, D] or [N, D] -> [S, N, D]."""
        a = torch.matmul(x, self.W) + self.b
        return torch.matmul(a * torch.sigmoid(self.beta * a), self.R.mT) + self.c

    def jacobian(self, x: Tensor) -> Tensor:
        """J(x) = R diag(h'(W^T x + b)) W^T, exactly. [S, N, D, D]."""
        a = torch.matmul(x, self.W) + self.b
        gate = torch.sigmoid(self.beta * a)
        slope = gate + self.beta * a * gate * (1 - gate)  # h' [S, N, H]
        outer = torch.einsum("sik,sjk->skij", self.R, self.W)  # r_k w_k^T
        return torch.matmul(slope, outer.flatten(2)).unflatten(-1, outer.shape[2:])

    def measures(self, x: Tensor) -> dict[str, Tensor]:
        """What the paper follows, and whether the field shrank or its units aligned. [S] each.

        ``gap`` is |W R^T - R W^T|_F (the authors print it over sqrt 2, for D = 2), ``untied``
        |W - R|_F. W R^T = R W^T is no condition for a symmetric J when units have different h';
        r_k parallel to w_k for every k is: ``angle`` is the largest |sin| between them.
        """
        J = self.jacobian(x)
        product = torch.matmul(self.W, self.R.mT)
        r, w = (nn.functional.normalize(a, dim=1) for a in (self.R, self.W))
        return {
            "loss": asymmetry(J).mean(-1),
            "gap": (product - product.mT).flatten(1).norm(dim=1),
            "untied": (self.W - self.R).flatten(1).norm(dim=1),
            "nasym": normalised_asymmetry(J).mean(-1),
            "jacobian": J.square().sum((-2, -1)).mean(-1),
            "angle": (1 - (r * w).sum(1).square()).clamp(min=0).sqrt().amax(-1),
        }


def grid(n: int = 40, reach: float = 10.0) -> Tensor:
    """n x n points over [-reach, reach]^2, the full batch. [n n, 2]."""
    axis = torch.linspace(-reach, reach, n)
    return torch.cartesian_prod(axis, axis)
