"""Kaleidoscope (Li, Pan, Zhang, arXiv 2410.08540): one set of weights, a learnable mask per agent.

Conventions. A weight W is [..., in, out] (y = x W + b), the thresholds of its M masks are
S [..., M, in, out]; leading axes are networks side by side (seeds), each by itself. A mask belongs
to an agent, to a type of units, or to a critic of an ensemble. The bias is shared, never masked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layers = Sequence["MaskedLinear"]


@dataclass(frozen=True)
class Start:
    """Where thresholds begin, and begin anew: S = -(scale U(0, 1) + bias)."""

    scale: float = 5.0  # actors 5, critics 20 (authors' code)
    bias: float = 5.0  # actors 5: nearly dense at first; critics 0

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Thresholds of that shape."""
        uniform = torch.rand(*shape, generator=generator, device=generator.device)
        return -(self.scale * uniform + self.bias)


ACTOR, CRITIC = Start(5.0, 5.0), Start(20.0, 0.0)


# --------------------------------------------------------------------------- masks (Section 4.1)


class _Step(torch.autograd.Function):
    """1[x > 0]; straight through, what comes back is tanh of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.tanh()


def step(x: Tensor) -> Tensor:
    """Straight-through step function: forward 1[x > 0], backward tanh(incoming gradient)."""
    out: Tensor = _Step.apply(x)
    return out


def kept(weight: Tensor, thresholds: Tensor) -> Tensor:
    """M_m = 1[|W| > sigmoid(S_m)]: which weights each mask keeps. [..., M, in, out] bool."""
    return weight.abs().unsqueeze(-3) > thresholds.sigmoid()


def soft(weight: Tensor, thresholds: Tensor) -> Tensor:
    """W_m = sign(W) relu(|W| - sigmoid(S_m)), the soft thresholds of the authors' code.

    dW_m/dW = M_m and dW_m/dS_m = -sign(W) sigmoid'(S_m) M_m: a weight that a mask has cut gets no
    gradient of the task through it. [..., M, in, out].
    """
    w = weight.unsqueeze(-3)
    return w.sign() * F.relu(w.abs() - thresholds.sigmoid())


def hard(weight: Tensor, thresholds: Tensor) -> Tensor:
    """W_m = W * 1[|W| > sigmoid(S_m)], as the paper writes it, straight through to S_m alone."""
    w = weight.unsqueeze(-3)
    return w * step(w.detach().abs() - thresholds.sigmoid())


class MaskedLinear(nn.Module):
    """A linear layer of which each of M masks sees another part.

    Args:
        n_in, n_out: widths.
        n_masks: M.
        start: of the thresholds.
        form: ``soft`` or ``hard``.
        generator: of weights (PyTorch's default for nn.Linear) and thresholds.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_masks: int,
        *,
        start: Start = ACTOR,
        form: Any = soft,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.start, self.form = start, form
        bound = n_in**-0.5
        weight = torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(1, 1, n_out).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight)  # [in, out]
        self.bias = nn.Parameter(bias)  # [1, 1, out]
        self.thresholds = nn.Parameter(start.draw((n_masks, n_in, n_out), generator))

    def effective(self) -> tuple[Tensor, Tensor]:
        """The weights of all masks and the bias: [M, in, out], [1, 1, out]."""
        return self.form(self.weight, self.thresholds), self.bias

    def masks(self) -> Tensor:
        """[M, in, out] bool."""
        return kept(self.weight, self.thresholds)


# --------------------------------------------------------------------------- diversity (4.2)


def diversity(layers: Layers, layer_weights: Sequence[float]) -> Tensor:
    """J_div = -1 / (M (M - 1) P) sum_l lambda_l sum_{m, m'} ||D_m - D_m'||_1, smallest where masks
    differ most.

    D_m = step(|W| - sigmoid(S_m)) |W| with W detached: only thresholds are moved. P is the number
    of weights of all these layers; pairs are ordered. A single mask has no other to differ from: 0.

    Args:
        layers: masked ones, from the first to the last.
        layer_weights: lambda_l.

    Returns:
        [].
    """
    M = layers[0].thresholds.shape[-3]
    P = sum(layer.weight.numel() for layer in layers)
    total = layers[0].weight.new_zeros(())
    for layer, weight in zip(layers, layer_weights, strict=True):
        magnitude = layer.weight.detach().abs()
        D = step(magnitude - layer.thresholds.sigmoid()) * magnitude  # [M, in, out]
        total = total + weight * (D.unsqueeze(0) - D.unsqueeze(1)).abs().sum()
    return -total / (max(M * (M - 1), 1) * P)


class Coefficient:
    """beta_t = |beta_0 mean(main losses) / mean(J_div)| over the latest of both: a plain number.

    Args:
        beta_0: beta of the actors (QMIX on MPE .5, SMACv2 5; MATD3 .1), alpha of the critics (.1).
        memory: how many of the latest losses (100; MATD3's actors 100 n).
    """

    def __init__(self, beta_0: float, memory: int = 100) -> None:
        self.beta_0 = beta_0
        self._losses: deque[float] = deque(maxlen=memory)
        self._diversities: deque[float] = deque(maxlen=memory)

    def __call__(self, loss: Tensor, diversity: Tensor) -> float:
        """Take both into account, then give the coefficient; beta_0 where no masks differ yet."""
        self._losses.append(float(loss.detach()))
        self._diversities.append(float(diversity.detach()))
        mean_diversity = sum(self._diversities) / len(self._diversities)
        if mean_diversity == 0:
            return self.beta_0
        return abs(self.beta_0 * sum(self._losses) / len(self._losses) / mean_diversity)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"losses": list(self._losses), "diversities": list(self._diversities)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` gave."""
        for own, name in ((self._losses, "losses"), (self._diversities, "diversities")):
            own.clear()
            own.extend(state[name])


# --------------------------------------------------------------------------- resets (4.2)


def due(step: int, last: int, interval: int, total: int) -> bool:
    """Whether it is time for a reset: each ``interval`` steps, but not in the last one."""
    return step - last > interval and total - step > interval


@torch.no_grad()
def reset(layers: Layers, rho: float, generator: torch.Generator) -> int:
    """With probability ``rho`` draw a weight that all masks cut anew, and its thresholds with it.

    All other weights, biases and the optimiser's state stay as they are.

    Returns:
        how many were drawn.
    """
    count = 0
    for layer in layers:
        weight, thresholds = layer.weight, layer.thresholds
        cut = ~layer.masks().any(0)
        chance = torch.rand(*weight.shape, generator=generator, device=generator.device)
        redrawn = (cut & (chance.to(weight.device) < rho)).contiguous()
        bound = weight.shape[0] ** -0.5  # Kaiming's uniform with a = sqrt(5), as at first
        fresh = torch.empty(*weight.shape, device=generator.device)
        fresh = fresh.uniform_(-bound, bound, generator=generator).to(weight.device)
        start = layer.start.draw(thresholds.shape, generator).to(weight.device)
        weight.copy_(torch.where(redrawn, fresh, weight))
        thresholds.copy_(torch.where(redrawn, start, thresholds))
        count += int(redrawn.sum())
    return count


@torch.no_grad()
def reset_mask(layers: Layers, index: int, generator: torch.Generator) -> None:
    """Draw one mask's thresholds anew in all layers (critics in turn); the weights stay."""
    for layer in layers:
        fresh = layer.start.draw(layer.weight.shape, generator)
        layer.thresholds[index] = fresh.to(layer.weight.device)


# --------------------------------------------------------------------------- critics (4.3)


def ensemble_target(q: Tensor) -> Tensor:
    """The least of the ensemble's target values, in the target of all. [M, B] -> [B]."""
    return q.amin(0)


def ensemble_value(q: Tensor) -> Tensor:
    """The ensemble's mean, which actors climb. [M, B] -> [B]."""
    return q.mean(0)


# --------------------------------------------------------------------------- what is measured


@torch.no_grad()
def mask_distances(layers: Layers) -> list[float]:
    """mean_{m < m'} ||D_m - D_m'||_1 / P of each layer, P as in ``diversity``."""
    P = sum(layer.weight.numel() for layer in layers)
    found = []
    for layer in layers:
        M = layer.thresholds.shape[0]
        n = layer.masks().sum(0)  # a weight tells the masks that keep it from those that cut it
        differing = (n * (M - n) * layer.weight.abs()).sum()
        found.append(float(2 * differing / max(M * (M - 1), 1) / P))
    return found


@torch.no_grad()
def overlap(layer: MaskedLinear) -> Tensor:
    """|M_m and M_m'| / |M_m or M_m'| of each pair of masks. [M, M]."""
    m = layer.masks().flatten(1).float()
    both = m @ m.T
    either = m.sum(1)[:, None] + m.sum(1)[None] - both
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


@torch.no_grad()
def sparsity(layers: Layers) -> float:
    """Share of the weights that a mask cuts, averaged over masks."""
    cut = sum(int((~layer.masks()).sum()) for layer in layers)
    return cut / sum(layer.thresholds.numel() for layer in layers)
