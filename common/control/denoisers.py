"""Denoising networks with the parameters of all seeds stacked: a residual MLP, a temporal U-Net.

Both take the step of the diffusion and a condition. Inputs have the seeds in front, [S, B, ...];
[1, B, ...] is one network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import MLP, StackedLinear

Generators = Sequence[torch.Generator]


def sinusoids(step: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """sin and cos of the step at dim / 2 frequencies from 1 to 1 / longest. [...] -> [..., dim]"""
    half = dim // 2
    exponent = torch.arange(half, device=step.device) / max(half - 1, 1)
    angle = step.to(torch.float32).unsqueeze(-1) * torch.exp(-math.log(longest) * exponent)
    return torch.cat((angle.sin(), angle.cos()), -1)


class Conditioning(nn.Module):
    """Step and condition as one vector."""

    def __init__(self, generators: Generators, condition_dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.net = MLP(generators, [width + condition_dim, 4 * width, width], F.mish)

    def forward(self, step: Tensor | int, condition: Tensor | None, like: Tensor) -> Tensor:
        """[S, B, width]; ``step`` is one number, [B] or [S, B], ``condition`` [S, B, c]."""
        steps = torch.as_tensor(step, device=like.device).expand(like.shape[:2])
        parts = [sinusoids(steps, self.width).to(like.dtype)]
        if condition is not None:
            parts.append(condition)
        return self.net(torch.cat(parts, -1))


class ResidualMLP(nn.Module):
    """x + two layers, several times; the step and the condition scale and shift each block (FiLM).

    Args:
        generators: one per seed.
        dim: of x.
        condition_dim: of the condition; 0: none.
        width: of the hidden layers.
        blocks: how many, of two layers each.
        embedding: width of the step's and condition's vector.
    """

    def __init__(
        self,
        generators: Generators,
        dim: int,
        condition_dim: int = 0,
        width: int = 256,
        blocks: int = 3,
        embedding: int = 32,
    ) -> None:
        super().__init__()
        self.conditioning = Conditioning(generators, condition_dim, embedding)
        self.first = StackedLinear(generators, dim, width)
        self.film = nn.ModuleList(
            StackedLinear(generators, embedding, 2 * width) for _ in range(blocks)
        )
        self.blocks = nn.ModuleList(
            MLP(generators, [width, width, width], F.silu) for _ in range(blocks)
        )
        self.last = StackedLinear(generators, width, dim)

    def forward(self, x: Tensor, step: Tensor | int, condition: Tensor | None = None) -> Tensor:
        """[S, B, dim]; ``step`` is one number, [B] or [S, B]; ``condition`` [S, B, c]."""
        context = self.conditioning(step, condition, x)
        h = self.first(x)
        for film, block in zip(self.film, self.blocks, strict=True):
            scale, shift = film(context).chunk(2, -1)
            h = h + block(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        return self.last(F.layer_norm(h, h.shape[-1:]))


class StackedConv1d(nn.Module):
    """Convolution over time, [S, B, T, in] -> [S, B, T', out], initialised as nn.Conv1d per seed.

    Zeros pad both ends by kernel // 2. As one batched matrix product of unfolded inputs it is
    faster on a CPU than grouped convolution. The weight is [S, in * kernel, out].
    """

    def __init__(
        self, generators: Generators, n_in: int, n_out: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.map = StackedLinear(generators, n_in * kernel, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        side = self.kernel // 2
        patches = F.pad(x, (0, 0, side, side)).unfold(2, self.kernel, self.stride)
        length = patches.shape[2]
        flat = patches.reshape(len(x), -1, patches.shape[-2] * self.kernel)  # [S, B T', in kernel]
        return self.map(flat).unflatten(1, (-1, length))


class GroupNorm(nn.Module):
    """Group norm of [S, B, T, C] over time and the channels of a group, affine per seed."""

    def __init__(self, n_seeds: int, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(n_seeds, 1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(n_seeds, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, T, C] -> [S, B, T, C]."""
        grouped = x.unflatten(-1, (self.groups, -1))
        variance, mean = torch.var_mean(grouped, dim=(2, 4), correction=0, keepdim=True)
        normal = ((grouped - mean) * (variance + 1e-5).rsqrt()).flatten(-2)
        return normal * self.weight + self.bias


class ConvBlock(nn.Module):
    """Two convolutions with group norm and Mish; the conditioning is added between them."""

    def __init__(
        self, generators: Generators, n_in: int, n_out: int, embedding: int, kernel: int
    ) -> None:
        super().__init__()
        seeds = len(generators)
        self.first = StackedConv1d(generators, n_in, n_out, kernel)
        self.second = StackedConv1d(generators, n_out, n_out, kernel)
        self.norms = nn.ModuleList(GroupNorm(seeds, n_out) for _ in range(2))
        self.context = StackedLinear(generators, embedding, n_out)
        self.skip = StackedConv1d(generators, n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[S, B, T, in], [S, B, embedding] -> [S, B, T, out]."""
        h = F.mish(self.norms[0](self.first(x)))
        h = h + self.context(F.mish(context)).unsqueeze(2)
        return F.mish(self.norms[1](self.second(h))) + self.skip(x)


class TemporalUNet(nn.Module):
    """A U-Net over the time axis (Janner et al. 2022), one block per level and direction.

    Args:
        generators: one per seed.
        channels: of x.
        condition_dim: of the condition; 0: none.
        width: channels of the first level, a multiple of 8.
        multipliers: of the width, one per level; each level but the first halves the time axis.
        kernel: of the convolutions, odd.
        embedding: width of the step's and condition's vector.
    """

    def __init__(
        self,
        generators: Generators,
        channels: int,
        condition_dim: int = 0,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        kernel: int = 5,
        embedding: int = 32,
    ) -> None:
        super().__init__()
        sizes = [width * m for m in multipliers]
        self.conditioning = Conditioning(generators, condition_dim, embedding)
        self.down = nn.ModuleList(
            ConvBlock(generators, n_in, n_out, embedding, kernel)
            for n_in, n_out in pairwise([channels, *sizes])
        )
        self.shrink = nn.ModuleList(StackedConv1d(generators, n, n, 3, 2) for n in sizes[:-1])
        self.middle = ConvBlock(generators, sizes[-1], sizes[-1], embedding, kernel)
        self.grow = nn.ModuleList(
            StackedConv1d(generators, above, n, 3) for n, above in pairwise(sizes)
        )
        self.up = nn.ModuleList(
            ConvBlock(generators, 2 * n, n, embedding, kernel) for n in sizes[:-1]
        )
        self.last = StackedConv1d(generators, sizes[0], channels, 1)

    def forward(self, x: Tensor, step: Tensor | int, condition: Tensor | None = None) -> Tensor:
        """[S, B, T, channels], T a multiple of 2^(levels - 1); other inputs as in ResidualMLP."""
        context = self.conditioning(step, condition, x)
        kept = []
        for level, block in enumerate(self.down):
            x = block(x, context)
            if level < len(self.shrink):
                kept.append(x)
                x = self.shrink[level](x)
        x = self.middle(x, context)
        for level in reversed(range(len(self.up))):
            x = self.grow[level](x.repeat_interleave(2, 2))
            x = self.up[level](torch.cat((kept[level], x), -1), context)
        return self.last(x)
