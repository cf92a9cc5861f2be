"""The network u(z, t, r | c) of every method, with the parameters of all seeds stacked.

One network serves S training seeds at once: weights are [S, in, out] and a layer is one batched
product. `unstack` gives the network of one seed with ordinary 2-D weights (latency, deployment).
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.ofp.interface import Task
from papers.ofp.layers import LayerNorm, Linear


def fourier(t: Tensor, n: int = 6) -> Tensor:
    """t, sin and cos of 2^k pi t for k < n: [..., 1] -> [..., 2n + 1]."""
    angles = t * (math.pi * 2.0 ** torch.arange(n, dtype=t.dtype, device=t.device))
    return torch.cat((t, angles.sin(), angles.cos()), dim=-1)


def times(t: Tensor, r: Tensor, second: str = "gap", n: int = 6) -> Tensor:
    """Features of both times: t and r - t, so that the diagonal is an exact input (or t and r)."""
    both = torch.cat((t, r - t if second == "gap" else r), dim=-1)
    return fourier(both.unsqueeze(-1), n).flatten(-2)


class MLP(nn.Module):
    """Experiment A: 3 x 256 SiLU on [z, c (1-null), null, times]; no encoder."""

    def __init__(
        self,
        n_z: int,
        n_obs: int,
        generators: list[torch.Generator],
        width: int = 256,
        depth: int = 3,
        second_time: str = "gap",
        frequencies: int = 6,
    ) -> None:
        super().__init__()
        sizes = [n_z + n_obs + 1 + 2 * (2 * frequencies + 1)] + [width] * depth
        self.layers = nn.ModuleList(Linear(a, b, generators) for a, b in itertools.pairwise(sizes))
        self.out = Linear(width, n_z, generators)
        self.second_time, self.frequencies = second_time, frequencies

    def encode(self, obs: Tensor) -> Tensor:
        return obs

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Tensor, null: Tensor) -> Tensor:
        x = torch.cat(
            (z, c * (1 - null), null, times(t, r, self.second_time, self.frequencies)), dim=-1
        )
        for layer in self.layers:
            x = F.silu(layer(x))
        return self.out(x)


class StateEncoder(nn.Module):
    """Experiment B: two-layer MLP, obs -> c."""

    def __init__(self, n_obs: int, n_c: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.first = Linear(n_obs, 128, generators)
        self.second = Linear(128, n_c, generators)

    def forward(self, obs: Tensor) -> Tensor:
        return self.second(F.silu(self.first(obs)))


class FiLMMLP(nn.Module):
    """Experiments B and C: residual blocks modulated by the times and the encoded observation."""

    def __init__(
        self,
        encoder: nn.Module,
        n_z: int,
        n_c: int,
        generators: list[torch.Generator],
        width: int = 384,
        blocks: int = 3,
        second_time: str = "gap",
        frequencies: int = 6,
    ) -> None:
        super().__init__()
        n_film = 64
        self.encoder = encoder
        self.null = nn.Parameter(torch.zeros(len(generators), 1, n_c))  # ø, learned
        self.into = Linear(n_z, width, generators)
        self.times = Linear(2 * (2 * frequencies + 1), n_c, generators)
        self.condition = Linear(2 * n_c, n_film, generators)
        self.film = nn.ModuleList(Linear(n_film, 2 * width, generators) for _ in range(blocks))
        self.blocks = nn.ModuleList(Linear(width, width, generators) for _ in range(blocks))
        self.norm = LayerNorm()
        self.out = Linear(width, n_z, generators)
        self.second_time, self.frequencies = second_time, frequencies

    def encode(self, obs: Tensor) -> Tensor:
        return self.encoder(obs)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Tensor, null: Tensor) -> Tensor:
        c = torch.lerp(c, self.null.expand_as(c), null)
        tau = F.silu(self.times(times(t, r, self.second_time, self.frequencies)))
        condition = F.silu(self.condition(torch.cat((c, tau), dim=-1)))
        x = self.into(z)
        for block, film in zip(self.blocks, self.film, strict=True):
            scale, shift = film(condition).chunk(2, dim=-1)
            x = x + block(F.silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return self.out(self.norm(x))


def make_network(task: Task, seeds: tuple[int, ...], **options: object) -> nn.Module:
    """The network of an experiment for the given training seeds.

    Every method of an experiment gets the same network, from the same initial weights. Encoders
    map obs [S, B, obs_dim] to c [S, B, n_c]; the U-Net has `encode` and `forward` as the MLPs do
    (flat chunks in and out, S = 1).
    """
    generators = [torch.Generator().manual_seed(1_000_003 * (s + 1)) for s in seeds]
    n_z = task.horizon * task.action_dim
    if task.encoder == "identity":
        return MLP(n_z, task.obs_dim, generators, **options)  # type: ignore[arg-type]
    n_c = 64
    if task.encoder == "mlp":
        encoder: nn.Module = StateEncoder(task.obs_dim, n_c, generators)
    else:
        from papers.ofp.networks_large import PointNet, UNet

        encoder = PointNet(task, n_c, generators)
        if task.name.startswith("dp3-"):
            second = str(options.get("second_time", "gap"))
            return UNet(encoder, task, n_c, generators, second_time=second)
    return FiLMMLP(encoder, n_z, n_c, generators, **options)  # type: ignore[arg-type]


def unstack(net: nn.Module, index: int) -> nn.Module:
    """The network of one seed with 2-D weights: the same module, taking and giving [B, …]."""
    single = copy.deepcopy(net)
    for parameter in single.parameters():
        parameter.data = parameter.data[index].clone()
    return single
