"""Point-cloud encoder (experiment C) and the conditional 1-D U-Net of the paper scale.

As in networks.py the parameters of S training seeds are stacked in front: [S, …]. A network from
which one seed was taken (`networks.unstack`) has them without S and takes and gives [B, …].
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.ofp.interface import Task
from papers.ofp.layers import Linear


class Dense(nn.Module):
    """A linear layer and a layer norm with learned scale and shift, for the many rows of a cloud.

    One seed after the other: over thousands of rows plain layers are faster than the stacked
    product and its broadcast scale (39 ms against 61 ms for a step over 64 clouds of 128 points).
    """

    def __init__(self, n_in: int, n_out: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.linear = Linear(n_in, n_out, generators)
        self.weight = nn.Parameter(torch.ones(len(generators), n_out))
        self.bias = nn.Parameter(torch.zeros(len(generators), n_out))

    def forward(self, x: Tensor) -> Tensor:
        """x [S, rows, n_in] -> [S, rows, n_out], or both without S."""
        linear = self.linear
        parameters = (linear.weight, linear.bias, self.weight, self.bias)
        if x.dim() == 2:
            return self._one(x, *parameters)
        each = [self._one(*of_seed) for of_seed in zip(x, *parameters, strict=True)]
        return each[0].unsqueeze(0) if len(each) == 1 else torch.stack(each)

    @staticmethod
    def _one(x: Tensor, w: Tensor, b: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(F.linear(x, w.T, b.view(-1)), scale.shape, scale, shift)


class PointNet(nn.Module):
    """DP3's encoder: each point through 3-64-128-256 with layer norm, max over points, -> 64.

    The cloud's 64 numbers and those of the state (gripper, one-hot) of all frames are mixed to c
    by one linear layer. obs [S, B, obs_dim], frame-major, each frame [points x 3, state].
    """

    def __init__(
        self,
        task: Task,
        n_c: int,
        generators: list[torch.Generator],
        widths: tuple[int, ...] = (64, 128, 256),
        n_cloud: int = 64,
    ) -> None:
        super().__init__()
        # points: of the tasks that have clouds, see metaworld_tasks.py
        self.frames, self.points = task.obs_frames, int(getattr(task, "points", 0))
        n_state = task.obs_dim // task.obs_frames - 3 * self.points
        sizes = (3, *widths)
        self.layers = nn.ModuleList(Dense(a, b, generators) for a, b in itertools.pairwise(sizes))
        self.project = Dense(widths[-1], n_cloud, generators)
        self.out = Linear(self.frames * (n_cloud + n_state), n_c, generators)

    def forward(self, obs: Tensor) -> Tensor:
        *lead, _ = obs.shape  # [S, B] or [B]
        frames = obs.view(*lead, self.frames, -1)
        cloud, state = frames.split((3 * self.points, frames.shape[-1] - 3 * self.points), -1)
        # stacked layers want [S, rows, width]
        x = cloud.reshape(*lead[:-1], -1, 3)  # [S, B T_o points, 3]
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x).view(*lead[:-1], lead[-1] * self.frames, self.points, -1)
        x = self.project(x.max(-2).values).view(*lead, self.frames, -1)
        return self.out(torch.cat((x, state), -1).flatten(-2))


class Conv1d(nn.Module):
    """S convolutions at once, as groups: x [B, S n_in, L] -> [B, S n_out, L']."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        generators: list[torch.Generator],
        stride: int = 1,
        padding: int | None = None,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt((n_out if transposed else n_in) * kernel)  # as torch's layers
        shape = (n_in, n_out, kernel) if transposed else (n_out, n_in, kernel)

        def init(*shape: int) -> nn.Parameter:
            draws = [torch.rand(*shape, generator=g) for g in generators]
            return nn.Parameter((2.0 * torch.stack(draws) - 1.0) * bound)

        self.weight = init(*shape)
        self.bias = init(n_out)
        self.stride, self.transposed = stride, transposed
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.weight.dim() == 4 else self.weight[None]
        convolve = F.conv_transpose1d if self.transposed else F.conv1d
        return convolve(
            x,
            weight.flatten(0, 1),
            self.bias.flatten(),
            stride=self.stride,
            padding=self.padding,
            groups=len(weight),
        )


class ConvBlock(nn.Module):
    """Convolution, group norm, Mish."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, groups: int, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        self.conv = Conv1d(n_in, n_out, kernel, generators)
        self.weight = nn.Parameter(torch.ones(len(generators), n_out))
        self.bias = nn.Parameter(torch.zeros(len(generators), n_out))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        seeds = len(self.weight) if self.weight.dim() == 2 else 1
        x = self.conv(x)
        x = F.group_norm(x, seeds * self.groups, self.weight.flatten(), self.bias.flatten())
        return F.mish(x)


class ResidualBlock(nn.Module):
    """Two convolution blocks, the first one modulated by the condition (FiLM), and a shortcut."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_condition: int,
        kernel: int,
        groups: int,
        generators: list[torch.Generator],
    ) -> None:
        super().__init__()
        self.first = ConvBlock(n_in, n_out, kernel, groups, generators)
        self.second = ConvBlock(n_out, n_out, kernel, groups, generators)
        self.film = Linear(n_condition, 2 * n_out, generators)
        self.shortcut = Conv1d(n_in, n_out, 1, generators) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(F.mish(condition)).chunk(2, -1)  # [S, B, n_out] or [B, n_out]
        y = self.first(x)
        y = torch.addcmul(_channels(shift), y, 1 + _channels(scale))
        return self.second(y) + self.shortcut(x)


def _channels(x: Tensor) -> Tensor:
    """[S, B, C] (or [B, C]) -> [B, S C, 1]."""
    return (x.transpose(0, 1).flatten(1) if x.dim() == 3 else x).unsqueeze(-1)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Diffusion's embedding of times in [0, 1], scaled by 1000: [..., 1] -> [..., width]."""
    half = width // 2
    rates = torch.exp(
        torch.arange(half, dtype=t.dtype, device=t.device) * (-math.log(10_000.0) / (half - 1))
    )
    angles = 1000.0 * t * rates
    return torch.cat((angles.sin(), angles.cos()), -1)


class UNet(nn.Module):
    """The conditional 1-D U-Net of DP and DP3 over the chunk, with two time inputs.

    t and r - t (or r) each have a sinusoidal embedding and a two-layer MLP; their sum and c are
    the condition of every residual block. Flat chunks in and out: z [S, B, H d], t and r
    [S, B, 1], c [S, B, n_c], null [S, B, 1] -> [S, B, H d].
    """

    def __init__(
        self,
        encoder: nn.Module,
        task: Task,
        n_c: int,
        generators: list[torch.Generator],
        channels: tuple[int, ...] = (512, 1024, 2048),
        kernel: int = 5,
        groups: int = 8,
        n_time: int = 128,
        second_time: str = "gap",
    ) -> None:
        super().__init__()
        shrink = 2 ** (len(channels) - 1)
        if task.horizon % shrink:
            raise ValueError(f"a U-Net of {len(channels)} levels needs H divisible by {shrink}")
        self.encoder, self.second_time = encoder, second_time
        self.horizon, self.action_dim = task.horizon, task.action_dim
        self.n_time = n_time
        self.null = nn.Parameter(torch.zeros(len(generators), 1, n_c))  # ø, learned
        sizes = (n_time, 4 * n_time, n_time)
        self.time_start, self.time_second = (
            nn.ModuleList(Linear(a, b, generators) for a, b in itertools.pairwise(sizes))
            for _ in range(2)
        )
        condition = n_time + n_c

        def block(n_in: int, n_out: int) -> ResidualBlock:
            return ResidualBlock(n_in, n_out, condition, kernel, groups, generators)

        def conv(n: int, transposed: bool) -> Conv1d:
            size = 4 if transposed else 3
            return Conv1d(n, n, size, generators, stride=2, padding=1, transposed=transposed)

        pairs = list(itertools.pairwise((task.action_dim, *channels)))
        self.down = nn.ModuleList(nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairs)
        self.shrink = nn.ModuleList(conv(b, False) for _, b in pairs[:-1])
        self.middle = nn.ModuleList(block(channels[-1], channels[-1]) for _ in range(2))
        self.up = nn.ModuleList(
            nn.ModuleList([block(2 * b, a), block(a, a)]) for a, b in reversed(pairs[1:])
        )
        self.grow = nn.ModuleList(conv(a, True) for a, _ in reversed(pairs[1:]))
        self.last = ConvBlock(channels[0], channels[0], kernel, groups, generators)
        self.out = Conv1d(channels[0], task.action_dim, 1, generators)

    def encode(self, obs: Tensor) -> Tensor:
        """Observations [S, B, obs_dim] -> c [S, B, n_c]."""
        return self.encoder(obs)

    def _time(self, layers: Any, t: Tensor) -> Tensor:
        return layers[1](F.mish(layers[0](sinusoid(t, self.n_time))))

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Tensor, null: Tensor) -> Tensor:
        """The average velocity u(z, t, r | c); see the class."""
        c = torch.lerp(c, self.null.expand_as(c), null)
        second = r - t if self.second_time == "gap" else r
        tau = self._time(self.time_start, t) + self._time(self.time_second, second)
        condition = torch.cat((tau, c), -1)
        x = z.view(*z.shape[:-1], self.horizon, self.action_dim).transpose(-1, -2)
        if z.dim() == 3:
            x = x.transpose(0, 1).flatten(1, 2)  # [B, S d, H]
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        for block in self.middle:
            x = block(x, condition)
        seeds = len(self.null) if self.null.dim() == 3 else 1
        for level, blocks in enumerate(self.up):
            x = _join(x, skips.pop(), seeds)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
            x = self.grow[level](x)
        x = self.out(self.last(x))  # [B, S d, H]
        if z.dim() == 3:
            x = x.unflatten(1, (seeds, self.action_dim)).transpose(0, 1)
        return x.transpose(-1, -2).flatten(-2)


def _join(x: Tensor, skip: Tensor, seeds: int) -> Tensor:
    """Concatenate the channels of each seed: [B, S C, L] twice -> [B, S 2C, L]."""
    parts = (x.unflatten(1, (seeds, -1)), skip.unflatten(1, (seeds, -1)))
    return torch.cat(parts, 2).flatten(1, 2)
