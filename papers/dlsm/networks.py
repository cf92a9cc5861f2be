"""Score models and classifiers of moons and digits, the parameters of all seeds stacked.

Both kinds take (x [S, B, D], sigma [S, B, 1] or a scalar) and differ in what comes out: a score
[S, B, D] or logits [S, B, C].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import MLP, StackedLinear


def per_sample(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma as [S, B, 1]."""
    return sigma.to(x.dtype).expand(*x.shape[:-1], 1)


class ToyNet(nn.Module):
    """Moons: branches of x (2-256-128-64) and of the raw sigma (1-64-32-16), ReLU; then 80 -> out.

    As published: nothing non-linear follows the concatenation, so sigma adds an offset to the
    output and no more.
    """

    def __init__(self, generators: Sequence[torch.Generator], n_in: int, n_out: int) -> None:
        super().__init__()
        self.points = MLP(generators, (n_in, 256, 128, 64), torch.relu)
        self.levels = MLP(generators, (1, 64, 32, 16), torch.relu)
        self.out = StackedLinear(generators, 64 + 16, n_out)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.out(torch.cat((self.points(x), self.levels(per_sample(sigma, x))), dim=-1))


class DigitsNet(nn.Module):
    """Digits: 64-256-256-out, SiLU, on the scaled image and Fourier features of log sigma.

    The image is divided by sqrt(1/4 + sigma^2), so that all noise levels look alike in size.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        n_in: int,
        n_out: int,
        sigma_min: float,
        sigma_max: float,
        *,
        divide_by_sigma: bool,
        frequencies: int = 4,
    ) -> None:
        super().__init__()
        self.mlp = MLP(generators, (n_in + 2 * frequencies, 256, 256, n_out), F.silu)
        self.divide_by_sigma = divide_by_sigma  # a score's size is that of 1 / sigma
        self.log_range = (math.log(sigma_min), math.log(sigma_max))
        octaves = math.pi * 2.0 ** torch.arange(frequencies)
        self.register_buffer("octaves", octaves, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = per_sample(sigma, x)
        low, high = self.log_range
        angles = (sigma.log() - low) / (high - low) * self.octaves
        image = x / (0.25 + sigma**2).sqrt()
        out = self.mlp(torch.cat((image, angles.sin(), angles.cos()), dim=-1))
        return out / sigma if self.divide_by_sigma else out
