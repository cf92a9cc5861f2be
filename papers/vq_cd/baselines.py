"""What VQ-CD is compared with, in the signatures of method.py.

Other alignments (AE, VAE, padding, none), elastic weight consolidation, PackNet, replay, a plain
MLP, small networks of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.control.denoisers import ResidualMLP, TemporalUNet
from common.control.sparse import largest
from common.stacked import MLP, randn
from papers.vq_cd.method import Generators, LearnedSpace, Space, Weights, maskable

KL = 1e-3  # weight of the VAE's second term

# -- other spaces -----------------------------------------------------------------------------


class ContinuousSpace(LearnedSpace):
    """AE or VAE alignment: the same layers and latents as QSA, without a codebook.

    Args:
        generators: one per seed, on the CPU.
        dim: of the states or actions.
        size: of the latents.
        hidden: units of the two hidden layers of encoder and decoder.
        kind: a VAE's encoder tells mean and logarithm of the variance.
    """

    def __init__(
        self,
        generators: Generators,
        dim: int,
        size: int,
        *,
        hidden: int,
        kind: Literal["ae", "vae"],
    ) -> None:
        super().__init__(dim, size)
        self.kind = kind
        out = size if kind == "ae" else 2 * size
        self.encoder = MLP(generators, [dim, hidden, hidden, out], F.leaky_relu)
        self.decoder = MLP(generators, [size, hidden, hidden, dim], F.leaky_relu)

    def encode(self, x: Tensor) -> Tensor:
        """Latents, of a VAE their mean; see :class:`Space`."""
        return self.encoder(self.checked(x))[..., : self.size]

    def decode(self, z: Tensor) -> Tensor:
        """See :class:`Space`."""
        found: Tensor = self.decoder(z)
        return found

    def loss(self, x: Tensor, generators: Generators) -> tuple[Tensor, Tensor]:
        """Error of the reconstruction, of a VAE with ``KL`` times the divergence from N(0, I)."""
        told = self.encoder(self.checked(x))
        z = told[..., : self.size]
        if self.kind == "ae":
            return (x - self.decode(z)).square().mean((1, 2)), z.detach()
        log_var = told[..., self.size :]
        drawn = z + (0.5 * log_var).exp() * randn(generators, *z.shape[1:])
        divergence = 0.5 * (z.square() + log_var.exp() - 1 - log_var).sum(-1).mean(1)
        return (x - self.decode(drawn)).square().mean((1, 2)) + KL * divergence, z.detach()


class PaddedSpace(Space):
    """Vectors themselves, with zeros up to the largest task's size; nothing is learned."""

    def encode(self, x: Tensor) -> Tensor:
        """See :class:`Space`."""
        return F.pad(self.checked(x), (0, self.size - self.dim))

    def decode(self, z: Tensor) -> Tensor:
        """See :class:`Space`."""
        return z[..., : self.dim]


class ScaledSpace(Space):
    """Another space whose latents are standardised over the task's data.

    Args:
        space: that is scaled.
        mean, std: of its latents. [S, 1, size]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, space: Space, mean: Tensor, std: Tensor) -> None:
        super().__init__(space.dim, space.size)
        self.space = space
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def encode(self, x: Tensor) -> Tensor:
        """See :class:`Space`."""
        return (self.space.encode(x) - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        """See :class:`Space`."""
        return self.space.decode(self.mean + self.std * z)


# -- elastic weight consolidation -------------------------------------------------------------


class Elastic:
    """EWC: lambda / 2 sum over tasks i of F_i (theta - theta*_i)^2, up to a constant.

    A sum of parabolas is one: F = sum of F_i about the mean of theta*_i weighted by F_i.

    Attributes:
        fisher, anchor: F and its centre by name.

    Args:
        parameters: all seeds'. [S, ...]
    """

    def __init__(self, parameters: Weights) -> None:
        self.fisher = {n: torch.zeros_like(p) for n, p in parameters.items()}
        self.anchor = {n: torch.zeros_like(p) for n, p in parameters.items()}

    def add(self, fisher: Weights, parameters: Weights) -> None:
        """Another task, at its end: F_i and theta*_i by name."""
        for name, more in fisher.items():
            total = self.fisher[name] + more
            pull = torch.where(total > 0, more / total.clamp(min=1e-38), 1.0)
            self.anchor[name].lerp_(parameters[name].detach(), pull)
            self.fisher[name].copy_(total)

    def gradient(self, parameters: Weights, strength: float) -> dict[str, Tensor]:
        """Of the penalty, by name: lambda F (theta - anchor)."""
        return {
            name: strength * self.fisher[name] * (p.detach() - self.anchor[name])
            for name, p in parameters.items()
        }

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps."""
        return {"fisher": self.fisher, "anchor": self.anchor}

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Sets it to what ``state`` gave."""
        for name in self.fisher:
            self.fisher[name].copy_(state["fisher"][name])
            self.anchor[name].copy_(state["anchor"][name])


def fisher(loss: Callable[[], Tensor], parameters: Weights, batches: int) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of the batch's loss, by name.

    Args:
        loss: of a fresh batch, per seed. [S]
        parameters: by name.
        batches: how many.
    """
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for _ in range(batches):
        gradients = torch.autograd.grad(
            loss().sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            found[name] += gradient.square() / batches
    return found


# -- PackNet ----------------------------------------------------------------------------------

FREE = -1  # nobody's weight


def packed(weight: Tensor, owner: Tensor, task: int, count: int) -> Tensor:
    """Owners [S, ...] once a task has taken the ``count`` free weights of largest magnitude.

    Args:
        weight: [S, ...].
        owner: of each weight the task from 0, or ``FREE``. [S, ...]
        task: that takes.
        count: per seed.
    """
    counts = torch.full((len(weight),), count, device=weight.device)
    taken = largest(weight.detach().abs(), owner == FREE, counts)
    return torch.where(taken, task, owner)


# -- networks ---------------------------------------------------------------------------------


class WindowMLP(nn.Module):
    """The paper's comparison with a U-Net: a residual MLP of the whole window.

    Args:
        generators: one per seed, on the CPU.
        horizon: T.
        channels: C.
        condition_dim: of the condition.
        width: of its hidden layers.
    """

    def __init__(
        self, generators: Generators, horizon: int, channels: int, condition_dim: int, width: int
    ) -> None:
        super().__init__()
        self.net = ResidualMLP(generators, horizon * channels, condition_dim, width)

    def forward(self, x: Tensor, step: Tensor | int, given: Tensor) -> Tensor:
        """[S, B, T, C] -> [S, B, T, C]."""
        return self.net(x.flatten(2), step, given).view(x.shape)


def weights_of(net: nn.Module) -> int:
    """Weights of one seed that masks would be over."""
    return sum(w[0].numel() for w in maskable(net).values())


def nearest_width(make: Callable[[int], nn.Module], wanted: float, widths: Sequence[int]) -> int:
    """The width at which a network has the number of weights closest to ``wanted``."""
    return min(widths, key=lambda width: abs(weights_of(make(width)) - wanted))


@lru_cache(maxsize=32)
def small_sizes(
    channels: int, condition_dim: int, width: int, multipliers: tuple[int, ...], n_tasks: int
) -> tuple[int, int]:
    """Width and embedding of :func:`small_unet`."""
    one = [torch.Generator()]

    def make(channel: int, embedding: int) -> TemporalUNet:
        return TemporalUNet(one, channels, condition_dim, channel, multipliers, embedding=embedding)

    with torch.device("meta"):  # sizes alone
        wanted = weights_of(make(width, 32)) / n_tasks
        candidates = [c for c in range(8, width + 1, 8) if weights_of(make(c, 4)) <= wanted]
        channel = candidates[-1] if candidates else 8
        return channel, nearest_width(lambda e: make(channel, e), wanted, range(4, 129, 2))


def small_unet(
    generators: Generators,
    channels: int,
    condition_dim: int,
    width: int,
    multipliers: Sequence[int],
    n_tasks: int,
) -> TemporalUNet:
    """A U-Net with a 1 / I of the weights of one of ``width``: one per task is as many in all.

    Channels go in steps of 8, so the vector of step and return makes up for the rest.
    """
    sizes = small_sizes(channels, condition_dim, width, tuple(multipliers), n_tasks)
    return TemporalUNet(
        generators, channels, condition_dim, sizes[0], multipliers, embedding=sizes[1]
    )
