"""Layers with the parameters of all seeds stacked, or of one seed (``networks.unstack``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Module):
    """S linear layers: x [S, B, n_in] -> [S, B, n_out]; initialised as nn.Linear, per seed."""

    def __init__(self, n_in: int, n_out: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)

        def init(*shape: int) -> nn.Parameter:
            draws = [torch.rand(*shape, generator=g) for g in generators]
            return nn.Parameter((2.0 * torch.stack(draws) - 1.0) * bound)

        self.weight = init(n_in, n_out)
        self.bias = init(1, n_out)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:  # one seed, see unstack
            return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(
                *x.shape[:-1], -1
            )
        return torch.baddbmm(self.bias, x, self.weight)


class LayerNorm(nn.Module):
    """Layer norm over the last axis without learned scale (FiLM gives one)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])
