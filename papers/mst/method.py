"""Mixed Sparsity Training: sparsity that varies, topology that evolves, attention that is cut.

A transformer is trained in three phases: a *warm-up* in which it becomes sparse, a long
*ultra-sparsification*, and a *restoration* that gives the connections back. All the while the
topology evolves: weak connections go, new ones grow, most of them where the gradient is large and
some at random (mixed growing). In the middle phase attention is sparse as well.

Weights are dense tensors with masks: what is saved is counted (``costs``), not measured in seconds.
The numbers of the equations are those of this folder's README.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Phase = Literal["warm-up", "ultra", "restoration"]
Pattern = Literal["full", "local", "strided", "sparse", "fixed"]
Score = Literal["magnitude", "mest", "sensitivity"]
PHASES: tuple[Phase, ...] = ("warm-up", "ultra", "restoration")


# -- densities of the layers ----------------------------------------------------------------------


def layer_densities(
    shapes: Mapping[str, tuple[int, int]], sparsity: float, kind: Literal["er", "uniform"] = "er"
) -> dict[str, float]:
    """Eq. 1: densities of the layers at a global sparsity.

    ``D_l = eps (rows_l + cols_l) / N_l`` (Erdos-Renyi), eps such that
    ``sum_l D_l N_l = (1 - s) sum_l N_l``. Layers that would be denser than dense are dense, and
    eps is solved again for the others.

    Args:
        shapes: [rows, cols] of each layer, by name.
        sparsity: s, the share of zeros over all layers, in [0, 1).
        kind: "uniform" has ``D_l = 1 - s`` instead.
    """
    if kind == "uniform":
        return dict.fromkeys(shapes, 1 - sparsity)
    size = {name: rows * cols for name, (rows, cols) in shapes.items()}
    p = {name: (rows + cols) / size[name] for name, (rows, cols) in shapes.items()}
    left = set(shapes)  # not dense
    while left:
        ones = (1 - sparsity) * sum(size.values()) - sum(size[n] for n in size if n not in left)
        epsilon = ones / sum(p[name] * size[name] for name in left)
        most = max(p[name] for name in left)
        if epsilon * most <= 1:
            return {name: epsilon * p[name] if name in left else 1.0 for name in shapes}
        left = {name for name in left if p[name] < most}
    return dict.fromkeys(shapes, 1.0)


def n_zeros(size: int, density: float) -> int:
    """``int(S_l N_l)``: zeros of a layer's mask. The small number keeps whole ones whole."""
    return int((1 - density) * size + 1e-6)


def random_mask(shape: torch.Size, density: float, generator: torch.Generator) -> Tensor:
    """A mask with ``int(S_l N_l)`` zeros at places that are drawn uniformly. Bool, on the CPU."""
    mask = torch.ones(shape.numel(), dtype=torch.bool)
    zeros = torch.randperm(len(mask), generator=generator)[: n_zeros(len(mask), density)]
    return mask.index_fill_(0, zeros, False).view(shape)


# -- topology evolution with mixed growing (Algorithm 1) ------------------------------------------


def drop_fraction(t: int, begin: float, end: float, zeta: float = 0.3) -> float:
    """Eq. 3: share of a layer's connections that an update drops, ``f_t``.

    ``f_t = zeta/2 (1 + cos(pi (t - t_a) / (t_b - t_a)))``; 0 after t_b.
    """
    done = min(1.0, max(0.0, (t - begin) / max(end - begin, 1e-9)))
    return zeta / 2 * (1 + math.cos(math.pi * done))


def n_changes(size: int, active: int, density: float, fraction: float) -> tuple[int, int]:
    """How many connections go and how many come: ``n_prune``, ``n_grow``.

    ``delta = S*_l N_l - S_l N_l``, ``n_prune = max(int(|M| f_t), delta)``,
    ``n_grow = n_prune - delta``, all from counts, so that no rounding adds up.
    """
    delta = n_zeros(size, density) - (size - active)
    n_prune = max(int(active * fraction), delta)
    return n_prune, n_prune - delta


def drop_score(
    weight: Tensor, gradient: Tensor | None, kind: Score = "magnitude", mixing: float = 0.0
) -> Tensor:
    """What decides who stays: |w|, or |w| + lambda |G| (MEST), or |w / (G + 1e-9)|.

    Args:
        mixing: lambda.
    """
    if kind == "magnitude" or gradient is None:
        return weight.abs()
    if kind == "mest":
        return weight.abs() + mixing * gradient.abs()
    return (weight / (gradient + 1e-9)).abs()


def keep_largest(score: Tensor, allowed: Tensor, n: int) -> Tensor:
    """Mask of the n largest scores among the allowed entries. All of one shape."""
    flat = torch.where(allowed, score, -torch.ones_like(score)).flatten()
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    return chosen.index_fill_(0, flat.topk(n).indices, True).view(allowed.shape)


def mixed_growing(
    weight: Tensor,
    mask: Tensor,
    gradient: Tensor | None,
    density: float,
    fraction: float,
    generator: torch.Generator,
    *,
    ratio: float = 3.0,
    score: Score = "magnitude",
    mixing: float = 0.0,
) -> Tensor:
    """Eqs. 4 and 5: the next mask of a layer. It changes nothing else.

    Drop: of the active entries the ``n_prune`` with the smallest score go, giving M'.
    Grow, among ``M' = 0``: ``int(n_grow r/(r+1))`` with the largest \\|G\\|, then the rest of
    ``n_grow`` uniformly at random from what is still 0.

    Args:
        weight: [rows, cols].
        mask: M, bool.
        gradient: G, dense; not looked at for ratio 0 and the magnitude's score.
        density: D*_l that the layer has afterwards.
        fraction: f_t.
        generator: of the random part, on the CPU.
        ratio: r, gradient : random; infinity is RigL, 0 is SET.
        score, mixing: see :func:`drop_score`.
    """
    active = int(mask.sum())
    n_prune, n_grow = n_changes(mask.numel(), active, density, fraction)
    # Eq. 4: drop
    left = keep_largest(drop_score(weight, gradient, score, mixing), mask, active - n_prune)
    # Eq. 5: grow by gradient, then at random
    n_gradient = n_grow if math.isinf(ratio) else int(n_grow * ratio / (ratio + 1))
    if n_gradient:
        if gradient is None:
            raise ValueError("growing by gradient needs the dense gradient")
        left = left | keep_largest(gradient.abs(), ~left, n_gradient)
    if n_grow > n_gradient:
        noise = torch.rand(mask.shape, generator=generator).to(mask.device)
        left = left | keep_largest(noise, ~left, n_grow - n_gradient)
    return left


Evolve = Callable[[Tensor, Tensor, Tensor | None, float, float, torch.Generator], Tensor]


@dataclass(frozen=True)
class Change:
    """What an update of the topology did.

    Attributes:
        changed: connections that came, over those that are there afterwards.
        grown: by layer, where the mask went from 0 to 1.
    """

    changed: float
    grown: dict[str, Tensor]


class Masks:
    """The masks of a network's layers, and what training with them means (Eq. 2).

    Attributes:
        weights: the layers' parameters by name, [rows, cols] each.
        bits: M_l, bool, on the parameter's device.
        version: how often they have changed here.
        ever: entries that have been active at some time.

    Args:
        weights: see above; they are masked at once.
        sparsity: global, at the beginning.
        generator: of the places of the zeros.
        kind: of the layers' densities.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        sparsity: float,
        generator: torch.Generator,
        kind: Literal["er", "uniform"] = "er",
    ) -> None:
        self.weights, self.kind, self.version = dict(weights), kind, 0
        self.shapes = {name: (w.shape[0], w.shape[1]) for name, w in self.weights.items()}
        wanted = layer_densities(self.shapes, sparsity, kind)
        self.set(
            {
                name: random_mask(w.shape, wanted[name], generator).to(w.device)
                for name, w in self.weights.items()
            }
        )

    def set(self, bits: Mapping[str, Tensor]) -> None:
        """Take these masks; nothing of the past counts."""
        self.bits = dict(bits)
        self.version += 1
        self.ever = {name: mask.clone() for name, mask in self.bits.items()}
        self.mask_weights()

    @property
    def density(self) -> float:
        """Of all layers together, counted."""
        size = sum(mask.numel() for mask in self.bits.values())
        return sum(int(mask.sum()) for mask in self.bits.values()) / size

    @property
    def explored(self) -> float:
        """Share of the entries that have been active at some time."""
        size = sum(mask.numel() for mask in self.ever.values())
        return sum(int(mask.sum()) for mask in self.ever.values()) / size

    def densities(self) -> dict[str, float]:
        """Of each layer, counted."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.bits.items()}

    def gradients(self) -> dict[str, Tensor]:
        """G_l: dense gradients of the layers as they are now, cloned."""
        return {name: w.grad.clone() for name, w in self.weights.items() if w.grad is not None}

    def mask_gradients(self) -> None:
        """Eq. 2: ``g <- g * M``, before they are clipped and used."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.bits[name])

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Eq. 2: ``W <- W * M``, after every step."""
        for name, weight in self.weights.items():
            weight.mul_(self.bits[name])

    @torch.no_grad()
    def evolve(
        self,
        sparsity: float,
        fraction: float,
        gradients: Mapping[str, Tensor],
        generator: torch.Generator,
        rule: Evolve = mixed_growing,
    ) -> Change:
        """One update of the topology, towards a global sparsity.

        New connections begin at 0; one that was dropped and grew again in this very update keeps
        its value.
        """
        wanted = layer_densities(self.shapes, sparsity, self.kind)
        grown: dict[str, Tensor] = {}
        for name, weight in self.weights.items():
            old, G = self.bits[name], gradients.get(name)
            new = rule(weight, old, G, wanted[name], fraction, generator)
            grown[name] = new & ~old
            weight.masked_fill_(grown[name], 0.0)
            self.bits[name] = new
            self.ever[name] |= new
        self.version += 1
        self.mask_weights()
        came = sum(int(mask.sum()) for mask in grown.values())
        return Change(came / max(1, sum(int(m.sum()) for m in self.bits.values())), grown)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """For a checkpoint."""
        return {"bits": self.bits, "ever": self.ever}

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """What :meth:`state` gave; the weights are left as they are."""
        self.bits = {name: state["bits"][name].to(w.device) for name, w in self.weights.items()}
        self.ever = {name: state["ever"][name].to(w.device) for name, w in self.weights.items()}


# -- sparsity variation ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Variation:
    """Eq. 6: the target sparsity over training, p = t / T in [0, 1].

    The paper's breakpoints and levels could not be found; these give its fourfold saving.

    Attributes:
        start: sparsity at p = 0 (public code's default).
        peak: of the ultra phase (a configuration file of the public code).
        end: at ``restored``; 0 delivers a dense model.
        warm_up: share of training over which sparsity rises, cubically.
        restore: where the restoration begins.
        restored: where it is at its end, linearly; the rest of training stays there.
    """

    start: float = 0.5
    peak: float = 0.9
    end: float = 0.0
    warm_up: float = 0.10
    restore: float = 0.80
    restored: float = 0.95

    def sparsity(self, p: float) -> float:
        """s*(p)."""
        if p < self.warm_up:
            return self.peak + (self.start - self.peak) * (1 - p / self.warm_up) ** 3
        done = (p - self.restore) / (self.restored - self.restore)
        return self.peak + (self.end - self.peak) * min(1.0, max(0.0, done))


@dataclass(frozen=True)
class Course:
    """What holds in each iteration of a training of T iterations.

    Attributes:
        sparsity: target that the masks have while iteration t is computed. [T].
        update: iterations that change the topology instead of making a step. [T].
        cut: iterations whose attention is sparse. [T].
        phase: index into ``PHASES``. [T].
    """

    sparsity: Floats
    update: Bools
    cut: Bools
    phase: NDArray[np.int64]


def course(steps: int, every: int, variation: Variation, *, evolves: bool, cuts: bool) -> Course:
    """Sparsity variation, quantised to the updates of the topology, and the window of HSA.

    Updates are at multiples of ``every`` (delta T), the last one the first at or after the end
    of the restoration: it reaches ``end`` exactly.

    Args:
        steps: T.
        evolves: without, the first sparsity stays.
        cuts: attention is sparse in the ultra phase.
    """
    t = np.arange(steps)
    last = math.ceil(variation.restored * steps / every) * every
    update = (t > 0) & (t % every == 0) & (t <= last) & evolves
    levels = [variation.sparsity(i / steps) for i in (0, *np.flatnonzero(update))]
    target = np.array(levels)[np.cumsum(update)]
    before = np.concatenate([target[:1], target[:-1]])
    phase = (t >= variation.warm_up * steps).astype(np.int64) + (t >= variation.restore * steps)
    return Course(before, update, (phase == 1) & cuts, phase)


# -- hybrid sparse attention ----------------------------------------------------------------------


def attention_pattern(kind: Pattern, length: int, stride: int, *, causal: bool = True) -> Tensor:
    """Eq. 7: which keys j a query i looks at. [n, n] bool, rows are queries.

    ``local``: ``i - j < l``; ``strided``: ``(i - j) mod l = 0``; ``sparse``: either; ``fixed``:
    the same block of l, or the last position of an earlier one. Without ``causal`` (an encoder,
    not of the paper) the same of ``|i - j|``, and the last position of any block.
    """
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    apart = (i - j).abs()
    local, strided = apart < stride, apart % stride == 0
    fixed = (i // stride == j // stride) | (j % stride == stride - 1)
    found = {"full": apart >= 0, "local": local, "strided": strided, "sparse": local | strided}
    chosen = {**found, "fixed": fixed}[kind]
    return chosen & (j <= i) if causal else chosen
