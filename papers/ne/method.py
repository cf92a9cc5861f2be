"""Neuroplastic Expansion: a network that grows inside a fixed full size while it learns.

Equation numbers are those of NOTES.md, where derivations and sources stand. A stack of G networks
(the seeds, or two critics of each) has layers with weights [G, in, out] that are exactly 0 where a
connection is absent: the forward pass needs no mask, and the gradient that backpropagation leaves
at an absent connection is its potential gradient, which growth looks at before it is masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.control.sparse import er_densities, largest
from common.stacked import StackedLinear, rand

Growth = Literal["none", "gradient", "random"]
Prune = Literal["none", "revive", "zero-bias", "inputs-only"]
Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class NEConfig:
    """Hyperparameters; defaults are those of the authors' code, task.py has a task's own."""

    start_sparsity: float = 0.8  # S_0, share of a network's connections that are absent at first
    end_sparsity: float = 0.25  # S_1, of the same when it has grown
    growth: Growth = "gradient"  # of connections; "none": the first topology stays
    prune: Prune = "revive"  # what becomes of a dormant neuron that is pruned
    omega: float = 0.4  # most connections pruned, of those grown in the same step
    interval: int = 10_000  # gradient steps between two changes of the topology


# -- 1. what a neuron does -----------------------------------------------------------------------


def hidden_activations(
    layers: Sequence[StackedLinear],
    x: Tensor,
    activation: Callable[[Tensor], Tensor] = F.relu,
) -> list[Tensor]:
    """h^l of the hidden layers of a perceptron. [G, B, in] -> [G, B, n_l] each."""
    found = []
    for layer in layers[:-1]:
        x = activation(layer(x))
        found.append(x)
    return found


def dormancy(h: Tensor) -> Tensor:
    """f_i = mean_x |h_i(x)| / (mean_k mean_x |h_k(x)| + 1e-9), Eq. 1. [G, B, n] -> [G, n]."""
    size = h.abs().mean(1)
    return size / (size.mean(-1, keepdim=True) + 1e-9)


def inactive(h: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Whether a neuron says nothing about its input: f = 0, or constant. [G, B, n] -> [G, n]."""
    return (dormancy(h) == 0) | (h.amax(1) - h.amin(1) < tolerance)


def share_of(of: Callable[[Tensor], Tensor], hidden: Sequence[Tensor]) -> Tensor:
    """Share of all hidden neurons of which ``of`` is true. [G]."""
    return torch.cat([of(h) for h in hidden], 1).float().mean(1)


def fau(hidden: Sequence[Tensor]) -> Tensor:
    """Fraction of activated units: of all entries (input, hidden unit) those above 0. [G]."""
    return torch.cat([h > 0 for h in hidden], 2).float().mean((1, 2))


# -- 2. how much: densities and schedule ---------------------------------------------------------


def connections(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[int]:
    """Connections of each layer: N_l - floor((1 - p_l) N_l), N_l = n_l n_{l-1}.

    Eq. 2: p_l = min(1, eps (n_l + n_{l-1}) / N_l), sum_l p_l N_l = (1 - S) sum_l N_l.

    Raises:
        ValueError: for a sparsity outside [0, 1).
    """
    densities = er_densities(shapes, sparsity)
    sizes = [a * b for a, b in shapes]
    return [n - math.floor((1 - p) * n + 1e-9) for n, p in zip(sizes, densities, strict=True)]


def cosine(t: float, end: float) -> float:
    """kappa_t / alpha = (1 + cos(pi t / T_end)) / 2, Eq. 3."""
    return (1 + math.cos(math.pi * t / end)) / 2


def due_share(u: int, last: int) -> float:
    """kappa_u / sum_{v >= u} kappa_v, Eq. 4: what update u of 1..last grows of what is left.

    Update last - 1 grows all that is left; kappa_last is 0.
    """
    ahead = sum(cosine(v, last) for v in range(u, last + 1))
    return cosine(u, last) / ahead if ahead > 0 else 0.0


# -- 3. which connections come -------------------------------------------------------------------


def grown(score: Tensor, absent: Tensor, n: Tensor) -> Tensor:
    """ArgTopK of the score among absent connections, Eq. 5.

    Args:
        score: |potential gradient|, or noise. [G, in, out]
        absent: which connections may come. [G, in, out] bool
        n: how many of each network; at most as many as are absent come. [G]

    Returns:
        Which come. [G, in, out] bool.
    """
    return largest(score, absent, n)


# -- 4. which neurons go -------------------------------------------------------------------------


def within(cost: Tensor, order: Tensor, limit: Tensor) -> Tensor:
    """Which of n things fit, taken one after the other until the limit. [G, n] bool.

    Args:
        cost: whole numbers; 0 for what is not to be taken anyway. [G, n]
        order: keys; the smallest comes first. [G, n]
        limit: of the sum. [G]
    """
    ranked = order.argsort(1)
    total = cost.gather(1, ranked).cumsum(1)
    return total.gather(1, ranked.argsort(1)) <= limit[:, None]


@torch.no_grad()
def take_back(
    layer: StackedLinear, following: StackedLinear, chosen: Tensor, h: Tensor, rule: Prune
) -> None:
    """Remove all incoming connections of the chosen neurons, Eq. 6.

    ``revive``: outgoing *values* become 0 (their connections stay) and the bias the layer's mean
    activation, which is above 0: nothing is fed forward, the outgoing weights get a gradient, and
    once they have values the absent incoming connections do. ``zero-bias``: the function is kept
    as well, but a pre-activation of exactly 0 passes no gradient: dead for good. ``inputs-only``:
    a neuron whose bias is above 0 becomes a constant that is fed forward.

    Args:
        layer, following: whose output and input the neurons are.
        chosen: [G, n] bool.
        h: activations of the layer on the batch. [G, B, n]
        rule: see above.
    """
    layer.weight.masked_fill_(chosen[:, None, :], 0.0)
    if rule == "revive":
        following.weight.masked_fill_(chosen[:, :, None], 0.0)
        level = h.mean((1, 2))[:, None, None].expand_as(layer.bias)
        layer.bias.copy_(torch.where(chosen[:, None, :], level, layer.bias))
    elif rule == "zero-bias":
        layer.bias.masked_fill_(chosen[:, None, :], 0.0)


def forget(optimizer: torch.optim.Optimizer, parameter: Tensor, void: Tensor) -> None:
    """Zero Adam's moments where ``void``, a mask that broadcasts to the parameter."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(void, 0.0)


# -- 5. the topology of a stack ------------------------------------------------------------------


class Change(NamedTuple):
    """What a step of the topology did to each of the G networks."""

    grown: Tensor  # connections [G]
    pruned: Tensor  # connections [G]
    least: Tensor  # the smallest net growth of a layer [G]
    density: Tensor  # afterwards [G]


class Topology:
    """Which connections of a stack of perceptrons are there; biases are never masked.

    Args:
        layers: of the perceptrons, in order; the weights are masked at once.
        config: S_0, S_1, growth, pruning and its cap, interval.
        steps: T_end in gradient steps.
        generators: one per seed, for orders and random growth (G is a multiple of their number).
        dense: layers, counted from the end, that take no part (DrQ's last ones).
    """

    def __init__(
        self,
        layers: Sequence[StackedLinear],
        config: NEConfig,
        steps: int,
        generators: Generators,
        dense: int = 0,
    ) -> None:
        self.layers, self.config, self.generators = list(layers), config, generators
        self.steps, self.last = steps, max(1, steps // config.interval)
        taking_part = self.layers[: len(layers) - dense]
        shapes = [(w.weight.shape[1], w.weight.shape[2]) for w in taking_part]
        rest = [w.weight[0].numel() for w in self.layers[len(taking_part) :]]
        self.target = [*connections(shapes, config.end_sparsity), *rest]
        start = [*connections(shapes, config.start_sparsity), *rest]
        self.masks = [
            strongest(layer.weight, n) for layer, n in zip(self.layers, start, strict=True)
        ]
        self.mask(self.layers)

    # what is there ------------------------------------------------------------------------------

    @property
    def left(self) -> list[Tensor]:
        """Connections that each layer is still to gain, [G] each."""
        pairs = zip(self.target, self.masks, strict=True)
        return [(n - mask.sum((1, 2))).clamp(min=0) for n, mask in pairs]

    @property
    def density(self) -> Tensor:
        """Share of the connections of each network that are there, by the masks. [G]."""
        there = torch.stack([mask.sum((1, 2)) for mask in self.masks]).sum(0)
        return there / sum(mask[0].numel() for mask in self.masks)

    @torch.no_grad()
    def mask(self, layers: Sequence[StackedLinear]) -> None:
        """Set absent weights of these layers (the own ones, or the target's) to 0."""
        for layer, mask in zip(layers, self.masks, strict=True):
            layer.weight.mul_(mask)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set gradients of absent weights to 0: with moments of 0 Adam leaves them where they are.

        Layers that are dense throughout are passed over.
        """
        if self.config.start_sparsity == 0:
            return
        for layer, mask in zip(self.layers, self.masks, strict=True):
            if layer.weight.grad is not None:
                layer.weight.grad.mul_(mask)

    def due(self, t: int) -> bool:
        """Whether gradient step t = 1, 2, ... changes the topology instead of the weights."""
        return (
            self.config.growth != "none"
            and t % self.config.interval == 0
            and t < self.steps
            and any(bool((n > 0).any()) for n in self.left)
        )

    # how it changes -----------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, t: int, hidden: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> Change:
        """Prune dormant neurons, then grow, at gradient step t.

        The layers' gradients are those of the batch's loss, not masked yet; a pruned connection
        does not come back in the same step.

        Args:
            t: gradient step.
            hidden: activations of the hidden layers on the same batch. [G, B, n_l] each
            optimizer: whose moments of what is new or gone become 0.
        """
        share = due_share(t // self.config.interval, self.last)
        net = [(left.double() * share).round().long() for left in self.left]
        barred, pruned = self._prune(net, hidden, optimizer)
        come = []
        for k, layer in enumerate(self.layers):
            score = self._score(layer.weight)
            absent = (self.masks[k] == 0) & ~barred[k]
            new = grown(score, absent, net[k] + pruned[k])
            self.masks[k].masked_fill_(new, 1.0)
            layer.weight.masked_fill_(new, 0.0)  # a new weight starts at 0
            forget(optimizer, layer.weight, new)
            come.append(new.sum((1, 2)))
        of_layer = torch.stack(come) - torch.stack(pruned)  # [L, G]
        gone = torch.stack(pruned).sum(0)
        return Change(torch.stack(come).sum(0), gone, of_layer.amin(0), self.density)

    def _score(self, weight: Tensor) -> Tensor:
        """What ranks the absent connections: |potential gradient|, or noise. [G, in, out]."""
        if self.config.growth == "random":
            per_seed = weight.numel() // len(self.generators)
            return rand(self.generators, per_seed).view(weight.shape)
        assert weight.grad is not None, "growth by the gradient needs a backward pass"
        return weight.grad.abs()

    def _prune(
        self, net: Sequence[Tensor], hidden: Sequence[Tensor], optimizer: torch.optim.Optimizer
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Connections that were pruned, [G, in, out] bool, and their number [G], by layer.

        Dormant neurons of a network go in a random order, each with all of its incoming
        connections, while their number stays within omega of what grows in this step: with n net
        and p pruned, p <= omega / (1 - omega) n is p <= omega (n + p). A layer can only lose what
        it can grow again at once.
        """
        config, masks = self.config, self.masks
        gone = [torch.zeros_like(mask, dtype=torch.bool) for mask in masks]
        count = [torch.zeros_like(n) for n in net]
        if config.prune == "none" or config.omega == 0:
            return gone, count
        widths = [h.shape[-1] for h in hidden]
        order = rand(self.generators, len(net[0]) // len(self.generators), sum(widths))
        orders = order.flatten(0, 1).split(widths, dim=1)
        dormant = [dormancy(h) == 0 for h in hidden]  # [G, n_l]
        incoming = [mask.sum(1).long().clamp(min=1) for mask in masks[:-1]]  # [G, n_l]
        cost = [c * d for c, d in zip(incoming, dormant, strict=True)]
        allowed = (config.omega / (1 - config.omega) * torch.stack(list(net)).sum(0)).floor()
        fits = within(torch.cat(cost, 1), torch.cat(orders, 1), allowed).split(widths, dim=1)
        for k, h in enumerate(hidden):
            room = (masks[k] == 0).sum((1, 2)) - net[k]
            chosen = dormant[k] & fits[k] & within(cost[k], orders[k], room)
            layer, following = self.layers[k], self.layers[k + 1]
            gone[k] = (masks[k] > 0) & chosen[:, None, :]
            count[k] = gone[k].sum((1, 2))
            masks[k].masked_fill_(gone[k], 0.0)
            take_back(layer, following, chosen, h, config.prune)
            for parameter, axes in ((layer.weight, 1), (layer.bias, 1), (following.weight, 2)):
                forget(optimizer, parameter, chosen.unsqueeze(axes))
        return gone, count

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the masks."""
        return {"masks": [mask.bool() for mask in self.masks]}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        for mask, saved in zip(self.masks, state["masks"], strict=True):
            mask.copy_(saved)
        self.mask(self.layers)


def strongest(weight: Tensor, n: int) -> Tensor:
    """1 at the n weights of every network that are largest in size. [G, in, out] -> same."""
    mask = torch.zeros_like(weight).flatten(1)
    best = weight.detach().abs().flatten(1).topk(n, dim=1).indices
    return mask.scatter_(1, best, 1.0).view(weight.shape)
