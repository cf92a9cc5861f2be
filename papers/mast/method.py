"""MAST: sparse networks from the first step, with targets and samples that suit them.

Equation numbers are those of NOTES.md, where the derivations and the sources stand. Everything
acts on ordinary weights that are exactly 0 where a connection is absent: the forward pass needs no
mask, and the gradient of an absent connection is the dense one that growth looks at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.marl.episodes import Episode, EpisodeBuffer

Growth = Literal["none", "gradient", "random"]


# -- 1. topology ---------------------------------------------------------------------------------


def erdos_renyi(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[float]:
    """Densities d_l = eps (o_l + i_l) / (o_l i_l) with sum_l d_l o_l i_l = (1 - S) sum_l o_l i_l.

    Layers for which that gives more than 1 are dense, and the rest is solved again (Eq. 1).

    Args:
        shapes: of the layers of one network.
        sparsity: S in [0, 1), of the whole network.

    Raises:
        ValueError: for a sparsity outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), not {sparsity}")
    sizes = [o * i for o, i in shapes]
    dense: set[int] = set()
    while len(dense) < len(shapes):
        rest = [k for k in range(len(shapes)) if k not in dense]
        kept = (1 - sparsity) * sum(sizes) - sum(sizes[k] for k in dense)
        eps = kept / sum(sum(shapes[k]) for k in rest)
        densities = {k: eps * sum(shapes[k]) / sizes[k] for k in rest}
        above = {k for k, d in densities.items() if d > 1}
        if not above:
            return [densities.get(k, 1.0) for k in range(len(shapes))]
        dense |= above
    return [1.0] * len(shapes)


def drop_share(step: int, end: int, start: float = 0.5) -> float:
    """zeta_k = zeta_0 / 2 (1 + cos(pi k / T_end)): the share of connections that move (Eq. 2)."""
    return start / 2 * (1 + math.cos(math.pi * min(step, end) / end))


def rewired(weight: Tensor, mask: Tensor, score: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Drop the n active weights of smallest size, grow the n absent ones of highest score (Eq. 3).

    A dropped connection is absent too, and may come back at once; then it keeps its weight.

    Args:
        weight: a row per network. [G, P].
        mask: 1 where a connection is. [G, P].
        score: |dense gradient|, or noise for random growth. [G, P].
        n: how many move in each row.

    Returns:
        weight, mask, and where a moment of Adam is void (dropped or grown). [G, P] each.
    """
    if n == 0:
        return weight, mask, torch.zeros_like(mask, dtype=torch.bool)
    size = weight.abs().masked_fill(mask == 0, math.inf)
    dropped = torch.zeros_like(mask, dtype=torch.bool)
    dropped.scatter_(1, size.topk(n, dim=1, largest=False).indices, True)
    kept = (mask > 0) & ~dropped
    grown = torch.zeros_like(dropped)
    grown.scatter_(1, score.masked_fill(kept, -1.0).topk(n, dim=1).indices, True)
    new = kept | grown
    weight = torch.where(new & ~(grown & ~dropped), weight, torch.zeros_like(weight))
    return weight, new.to(mask.dtype), dropped | grown


class Topology:
    """The masks of networks whose connections come and go.

    A *layer* is a weight of G networks of the same shape: [G, in, out], or [out, in] of one.
    Layers of density 1 stay as they are. Biases are never masked.

    Args:
        networks: modules; each is one network of an Erdős–Rényi graph (a stack is G of them).
        sparsity: S; 0 masks nothing.
        growth: of new connections: by the dense gradient (RigL), at random (SET), or never.
        generator: of the first masks and of random growth.
        pool: rank the connections of a layer over all networks of a stack, which may then move
            from one network to another; otherwise each network keeps its number.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        sparsity: float,
        growth: Growth,
        generator: torch.Generator,
        *,
        pool: bool = False,
    ) -> None:
        self.growth, self.generator, self.pool = growth, generator, pool
        self.layers: list[nn.Parameter] = []
        self.masks: list[Tensor] = []  # [G, in * out]
        for network in networks:
            weights = weights_of(network)
            shapes = [(int(w.shape[-2]), int(w.shape[-1])) for w in weights]
            for w, density in zip(weights, erdos_renyi(shapes, sparsity), strict=True):
                if density < 1:
                    self.layers.append(w)
                    self.masks.append(self._random(rows(w), density))
        self.apply()

    def _random(self, like: Tensor, density: float) -> Tensor:
        """A random mask with the same number of connections in every row. [G, P]."""
        G, P = like.shape
        n = max(1, round(density * P))
        noise = torch.rand(G, P, generator=self.generator, device=self.generator.device)
        mask = torch.zeros(G, P, device=noise.device)
        return mask.scatter_(1, noise.topk(n, dim=1).indices, 1.0).to(like.device)

    @torch.no_grad()
    def apply(self) -> None:
        """Set absent weights to 0."""
        for layer, mask in zip(self.layers, self.masks, strict=True):
            rows(layer).mul_(mask)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set the gradients of absent weights to 0 (growth has looked at them before)."""
        for layer, mask in zip(self.layers, self.masks, strict=True):
            if layer.grad is not None:
                rows(layer.grad).mul_(mask)

    @torch.no_grad()
    def evolve(self, share: float, optimizer: torch.optim.Optimizer) -> int:
        """Move ``share`` of every layer's connections; returns how many moved in all (Eq. 3).

        Gradients must be those of a backward pass, not yet masked. The moments of Adam are zeroed
        where a connection went or came.
        """
        moved = 0
        if self.growth == "none":
            return moved
        for k, layer in enumerate(self.layers):
            mask = self.masks[k]
            ranked = (1, -1) if self.pool else mask.shape
            n = int(share * int(mask.reshape(ranked)[0].sum()))
            if self.growth == "random":
                noise = torch.rand(mask.shape, generator=self.generator)
                score = noise.to(mask.device)
            else:
                assert layer.grad is not None, "growth by the gradient needs a backward pass"
                score = rows(layer.grad).abs()
            found = rewired(*(x.reshape(ranked) for x in (rows(layer), mask, score)), n)
            weight, self.masks[k], void = (x.reshape(mask.shape) for x in found)
            rows(layer).copy_(weight)
            for moment in moments(optimizer, layer):
                rows(moment).masked_fill_(void, 0.0)
            moved += n * (1 if self.pool else mask.shape[0])
        return moved

    def counts(self) -> list[list[int]]:
        """Connections of each layer, network by network."""
        return [mask.sum(1).long().tolist() for mask in self.masks]

    def density_of(self, parameter: Tensor) -> float:
        """Share of the connections that are there; 1 where a parameter is not masked."""
        for layer, mask in zip(self.layers, self.masks, strict=True):
            if layer is parameter:
                return float(mask.mean())
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """The masks and the generator."""
        return {"masks": [m.bool() for m in self.masks], "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave."""
        for mask, saved in zip(self.masks, state["masks"], strict=True):
            mask.copy_(saved)
        self.generator.set_state(state["generator"])
        self.apply()


def weights_of(network: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of a network, in order; its biases are left out."""
    return [p for name, p in network.named_parameters() if name.endswith("weight")]


def rows(tensor: Tensor) -> Tensor:
    """A weight as a row per network. [G, in, out] -> [G, in * out]; [out, in] -> [1, out * in]."""
    return tensor.view(tensor.shape[0] if tensor.dim() == 3 else 1, -1)


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Iterator[Tensor]:
    """The optimiser's state of a parameter that has its shape (Adam: both moments)."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value


# -- 2. targets ----------------------------------------------------------------------------------


def soft_mellowmax(q: Tensor, avail: Tensor, alpha: float = 1.0, omega: float = 10.0) -> Tensor:
    """sm(q) = 1/omega log sum_u p(u) exp(omega q(u)), p = softmax(alpha q), u available (Eq. 4).

    Between the softmax mean (omega -> 0) and the maximum (omega or alpha -> inf); alpha = 0 is
    mellowmax.

    Args:
        q: utilities. [..., A].
        avail: [..., A] bool; one at least.
        alpha, omega: the paper's values.

    Returns:
        [...].
    """
    absent = ~avail
    log_p = torch.log_softmax((alpha * q).masked_fill(absent, -math.inf), -1)
    inner = (log_p + omega * q).masked_fill(absent, -math.inf)
    return torch.logsumexp(inner, -1) / omega


def lambda_at(step: int, switch: int, lam: float) -> float:
    """0 (one-step targets) before ``switch`` environment steps, lam from there on (Eq. 6)."""
    return lam if step >= switch else 0.0


# -- 3. samples ----------------------------------------------------------------------------------


class DualBuffer:
    """A large buffer of the past and a small one of the latest episodes; each batch holds both.

    Args:
        past: capacity of the large one, in episodes.
        latest: capacity of the small one.
        share: of a batch that comes from the small one (the paper's 3 of 8).
    """

    def __init__(self, past: int = 5000, latest: int = 128, share: float = 3 / 8) -> None:
        self.past, self.latest, self.share = EpisodeBuffer(past), EpisodeBuffer(latest), share

    def __len__(self) -> int:
        return len(self.past)

    def add(self, episodes: Sequence[Episode]) -> None:
        """Every new episode goes into both."""
        self.past.add(episodes)
        self.latest.add(episodes)

    def draw(self, n: int, generator: np.random.Generator) -> list[Episode]:
        """round(share n) of the latest and the rest of the past (Eq. 7)."""
        on = round(self.share * n)
        drawn = self.past.draw(n - on, generator) if n > on else []
        return drawn + (self.latest.draw(on, generator) if on else [])

    def state_dict(self) -> dict[str, Any]:
        """The episodes of the large one (the latest are its last)."""
        return self.past.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave."""
        self.past.load_state_dict(state)
        self.latest.episodes.clear()
        self.latest.add(list(self.past.episodes))


# -- 4. cost -------------------------------------------------------------------------------------


def linear_flops(n_in: int, n_out: int, density: float) -> float:
    """d (2 I - 1) O operations of a layer on one row, additions of biases left out (Eq. 8)."""
    return density * (2 * n_in - 1) * n_out
