"""Networks of all seeds stacked on a leading axis, so that one batched matmul serves them all.

Every seed's parameters come from its own generator (PyTorch's default initialisation), so a stack
of seeds (3, 5) holds exactly the networks that the stacks (3,) and (5,) hold; trained, they are
the same up to rounding, since a batched matmul of two may add up in another order. Since samples
and seeds do not see each other, ``torch.autograd.grad(out.sum(), x)`` gives the input gradients of
every sample of every seed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Initialiser(Protocol):
    """Fills a tensor in place, as the functions of ``torch.nn.init`` do."""

    def __call__(self, tensor: Tensor, /, *, generator: torch.Generator | None) -> Any: ...


def zeros(tensor: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
    """Zeros as an ``Initialiser`` (``torch.nn.init.zeros_`` takes no generator)."""
    return nn.init.zeros_(tensor)


def seed_generators(
    seeds: Sequence[int], stream: int, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator per seed; ``stream`` tells apart the uses (initialisation, sampling, ...)."""
    return [torch.Generator(device).manual_seed(1_000_003 * stream + seed) for seed in seeds]


def generator_states(generators: Sequence[torch.Generator]) -> list[Tensor]:
    """What a checkpoint keeps of the generators."""
    return [g.get_state() for g in generators]


def restore_generators(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> None:
    """Sets the generators to what ``generator_states`` gave."""
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def _draw(
    fn: Callable[..., Tensor],
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    dtype: torch.dtype | None,
) -> Tensor:
    rows = [fn(*shape, generator=g, device=g.device, dtype=dtype) for g in generators]
    return torch.stack(rows)


def randn(
    generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Standard normal draws of every seed's generator. [S, *shape]."""
    return _draw(torch.randn, generators, shape, dtype)


def rand(
    generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Uniform draws in [0, 1) of every seed's generator. [S, *shape]."""
    return _draw(torch.rand, generators, shape, dtype)


def randint(generators: Sequence[torch.Generator], high: int, *shape: int) -> Tensor:
    """Uniform draws from {0, ..., high - 1} of every seed's generator. [S, *shape], int64."""
    rows = [torch.randint(high, shape, generator=g, device=g.device) for g in generators]
    return torch.stack(rows)


def rademacher(
    generators: Sequence[torch.Generator], *shape: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Signs -1 and 1 with probability 1/2 each. [S, *shape]."""
    return (2 * randint(generators, 2, *shape) - 1).to(dtype or torch.get_default_dtype())


class StackedLinear(nn.Module):
    """y[s] = x[s] W[s] + b[s]. x: [S, B, in] (or [B, in], the same input for every seed).

    ``weight_init`` and ``bias_init`` fill one seed's weight [out, in] and bias [out], called as
    ``torch.nn.init.orthogonal_(weight, generator=g)``; without them PyTorch's default for
    ``nn.Linear`` is drawn.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        n_in: int,
        n_out: int,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        weight = [torch.empty(n_in, n_out).uniform_(-bound, bound, generator=g) for g in generators]
        bias = [torch.empty(1, n_out).uniform_(-bound, bound, generator=g) for g in generators]
        with torch.no_grad():
            if weight_init is not None:
                for w, g in zip(weight, generators, strict=True):
                    filled = torch.empty(n_out, n_in)
                    weight_init(filled, generator=g)
                    w.copy_(filled.T)
            if bias_init is not None:
                for b, g in zip(bias, generators, strict=True):
                    bias_init(b[0], generator=g)
        self.weight = nn.Parameter(torch.stack(weight))  # [S, in, out]
        self.bias = nn.Parameter(torch.stack(bias))  # [S, 1, out]

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in] -> [S, B, out]."""
        if x.dim() == 2:
            x = x.expand(self.weight.shape[0], -1, -1)
        return torch.baddbmm(self.bias, x, self.weight)


class StackedLayerNorm(nn.Module):
    """Layer norm over the last axis with a scale and a shift per seed. [S, B, width]."""

    def __init__(self, n_seeds: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_seeds, 1, width))
        self.bias = nn.Parameter(torch.zeros(n_seeds, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, width] -> [S, B, width]."""
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class Swish(nn.Module):
    """x sigmoid(beta x) with a learnable beta per seed and unit, which starts at 1 (SiLU)."""

    def __init__(self, n_seeds: int, width: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(n_seeds, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, width] -> [S, B, width]."""
        return x * torch.sigmoid(self.beta * x)


class MLP(nn.Module):
    """A multilayer perceptron for every seed. [S, ..., in] (or [B, in]) -> [S, ..., out].

    ``activation`` is a function, or "swish" for ``Swish`` with its own beta per unit. The last
    layer has none; ``last_init`` fills its weight (its bias keeps the default).
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor] | Literal["swish"] = F.silu,
        weight_init: Initialiser | None = None,
        last_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        n = len(sizes) - 1
        self.layers = nn.ModuleList(
            StackedLinear(generators, a, b, last_init if last_init and i == n - 1 else weight_init)
            for i, (a, b) in enumerate(pairwise(sizes))
        )
        self.activations: Sequence[Callable[[Tensor], Tensor]] | nn.ModuleList
        if callable(activation):
            self.activations = [activation] * (n - 1)
        else:
            self.activations = nn.ModuleList(Swish(len(generators), w) for w in sizes[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        """[S, ..., in] -> [S, ..., out]."""
        lead = None
        if x.dim() > 3:
            lead = x.shape[1:-1]
            x = x.flatten(1, -2)
        for i, layer in enumerate(self.layers):
            if i:
                x = self.activations[i - 1](x)
            x = layer(x)
        return x if lead is None else x.unflatten(1, lead)


def clip_grad_norm_per_seed(
    parameters: Sequence[Tensor], max_norm: float, *, drop_overflow: bool = False
) -> Tensor:
    """Clips the gradient norm of every seed by itself; returns the norms before clipping. [S].

    The squares are summed relative to the largest entry, so that huge gradients (exponential
    losses) give a finite norm and keep their direction instead of being scaled to zero.

    Args:
        parameters: [S, ...] each.
        max_norm: largest norm of a seed's gradient.
        drop_overflow: a seed whose norm is not finite sits the step out with a gradient of zero;
            otherwise its gradient stays as it is, not finite.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    with torch.no_grad():
        flat = [g.reshape(g.shape[0], -1) for g in grads]
        norms = torch.stack([g.square().sum(1) for g in flat]).sum(0).sqrt()
        # no entry exceeds the norm, so a moderate norm needs no look at the largest one
        if bool((norms < 1e15).all()):
            largest = None
        else:
            largest = torch.stack([g.abs().amax(1) for g in flat]).amax(0)  # [S]
        if largest is not None and bool((largest > 1e15).any()):
            safe = torch.where(largest > 0, largest, torch.ones_like(largest))
            relative = [g / safe.view(-1, *([1] * (g.dim() - 1))) for g in grads]
            total = (
                torch.stack([r.reshape(r.shape[0], -1).square().sum(1) for r in relative])
                .sum(0)
                .sqrt()
            )
            norms = safe * total
        if bool((norms > max_norm).any()):
            scale = torch.where(norms > max_norm, max_norm / norms.clamp(min=1e-30), 1.0)
            for g in grads:
                g.mul_(scale.view(-1, *([1] * (g.dim() - 1))))
        if drop_overflow and bool((lost := ~norms.isfinite()).any()):
            for g in grads:
                g[lost] = 0.0
    return norms


def adam(
    groups: Sequence[dict[str, Any]], weight_decay: float = 0.0, lr: float = 1e-3
) -> torch.optim.Adam:
    """Adam in one fused kernel; element-wise, so stacked seeds do not see each other."""
    return torch.optim.Adam(list(groups), lr=lr, weight_decay=weight_decay, fused=True)
