"""HC-SMoE: experts of a sparse mixture are grouped by what they put out, and averaged.

Per layer: outputs of all experts on all calibration tokens, whatever the router says; their means;
agglomerative clustering of the means down to r groups; one expert per group, the average of its
members weighted by how often they are used. The router stays as it is. n experts, D the width, ff
hidden neurons of an expert, T tokens. Eq. 6, the clustering, is in ``clustering.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.hc_smoe.clustering import Floats, Labels, groups_of

Representation = Literal["output", "weight", "router", "tokens"]


# -- experts and routing ------------------------------------------------------------------------


@dataclass(frozen=True)
class Experts:
    """SwiGLU experts of a layer.

    Attributes:
        gate_up: W_gate above W_up. [n, 2 ff, D].
        down: W_down. [n, D, ff].
    """

    gate_up: Tensor
    down: Tensor

    def __len__(self) -> int:
        return len(self.down)

    def of(self, members: Sequence[int]) -> Experts:
        """Some of them, copied."""
        at = torch.as_tensor(members, device=self.down.device)
        return Experts(self.gate_up[at], self.down[at])


def hidden(experts: Experts, x: Tensor) -> Tensor:
    """Activations h_i = SiLU(W_gate x) * (W_up x). [T, D] -> [n, T, ff]."""
    gate, up = (x @ experts.gate_up.mT).chunk(2, dim=-1)
    return F.silu(gate) * up


def outputs(experts: Experts, x: Tensor) -> Tensor:
    """Eq. 1: E_i(x) = W_down h_i, of every expert on every token. [T, D] -> [n, T, D]."""
    return hidden(experts, x) @ experts.down.mT


def routing(logits: Tensor, top_k: int, normalised: bool) -> Tensor:
    """Eq. 2: P_i, the softmax over all experts, 0 but for the k largest. [..., n] -> [..., n].

    Args:
        logits: z = W_g x; -inf for an expert that is not there.
        normalised: the k shares are divided by their sum (Mixtral), or not (Qwen1.5-MoE).
    """
    p = logits.float().softmax(-1)
    value, index = p.topk(min(top_k, p.shape[-1]), dim=-1)
    if normalised:
        value = value / value.sum(-1, keepdim=True)
    return torch.zeros_like(p).scatter(-1, index, value)


# -- calibration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """What the calibration tokens say of a layer's experts. All in float64.

    Attributes:
        output: o_i, mean of E_i(x) over *all* tokens. [n, D].
        usage: f_i, share of the router's selections that go to expert i. [n].
        score: mean of softmax(z)_i. [n].
        logits: mean of z_i z_j. [n, n].
        products: mean of E_i(x) . E_j(x). [n, n].
    """

    output: Tensor
    usage: Tensor
    score: Tensor
    logits: Tensor
    products: Tensor


class Calibration:
    """Sums over calibration tokens, chunk by chunk, from which :class:`Statistics` follow."""

    def __init__(self, experts: Experts, chunk: int = 2048) -> None:
        n, D = experts.down.shape[:2]
        made = {"dtype": torch.float64, "device": experts.down.device}
        self._experts, self._chunk, self._tokens = experts, chunk, 0
        self._output, self._usage = torch.zeros(n, D, **made), torch.zeros(n, **made)
        self._score, self._logits = torch.zeros(n, **made), torch.zeros(n, n, **made)
        self._products = torch.zeros(n, n, **made)

    @torch.no_grad()
    def add(self, x: Tensor, logits: Tensor, chosen: Tensor) -> None:
        """More tokens.

        Args:
            x: input of the layer. [T, D].
            logits: of its router. [T, n].
            chosen: experts that the router selects. [T, k].
        """
        n = len(self._experts)
        for at in range(0, len(x), self._chunk):
            part = slice(at, at + self._chunk)
            put_out = outputs(self._experts, x[part]).double()  # Eq. 3: no router in it
            self._output += put_out.sum(1)
            flat = put_out.reshape(n, -1)
            self._products += flat @ flat.mT
            z = logits[part].double()
            self._score += z.softmax(-1).sum(0)
            self._logits += z.mT @ z
            self._usage += selections(chosen[part], n)
        self._tokens += len(x)

    def statistics(self) -> Statistics:
        """Of all tokens so far."""
        T = self._tokens
        usage = self._usage / self._usage.sum()  # Eq. 4
        parts = (self._score / T, self._logits / T, self._products / T)
        return Statistics(self._output / T, usage, *parts)


def selections(chosen: Tensor, n: int) -> Tensor:
    """How often each of n experts was selected. [T, k] -> [n] float64."""
    return F.one_hot(chosen.reshape(-1), n).sum(0).double()


# -- distances ----------------------------------------------------------------------------------


def euclidean(points: Tensor) -> Floats:
    """|a_i - a_j|. [n, d] -> [n, n] float64, from differences: equal points are at 0 exactly."""
    rows = points.reshape(len(points), -1)
    lengths = [(rows - row).double().square().sum(1).sqrt() for row in rows]
    return np.asarray(torch.stack(lengths).cpu().numpy())


def from_products(products: Tensor) -> Floats:
    """Euclidean distances from inner products. [n, n] -> [n, n]."""
    squares = products.diagonal()
    squared = squares[:, None] + squares[None] - 2 * products
    return np.asarray(squared.clamp(min=0).sqrt().cpu().numpy())


def distances(kind: Representation, experts: Experts, of: Statistics) -> Floats:
    """Eq. 5: Euclidean distances between experts. [n, n].

    Args:
        kind: by mean outputs o_i (the method); by weights, flattened; by the router's logits over
            the tokens; or by outputs token by token, (mean_t |E_i(x_t) - E_j(x_t)|^2)^1/2.
    """
    if kind == "output":
        return euclidean(of.output)
    if kind == "router":
        return from_products(of.logits)
    if kind == "tokens":
        return from_products(of.products)
    n = len(experts)
    squared = [euclidean(w.reshape(n, -1)) ** 2 for w in (experts.gate_up, experts.down)]
    return np.asarray(np.sqrt(squared[0] + squared[1]))


# -- merging ------------------------------------------------------------------------------------


def shares(weights: Tensor, members: Sequence[int]) -> Tensor:
    """Weights of the members, of sum 1; equal ones where nobody is used. [m] float64."""
    own = weights[torch.as_tensor(members, device=weights.device)].double()
    total = own.sum()
    return own / total if total > 0 else torch.full_like(own, 1 / len(own))


def average(weights: Tensor, of: Tensor) -> Tensor:
    """Weighted mean over the first axis, summed in float64. [m], [m, ...] -> [...]."""
    return torch.tensordot(weights, of.double(), dims=1).to(of.dtype)


def stacked(parts: Sequence[Experts]) -> Experts:
    """Experts of several groups side by side."""
    return Experts(torch.cat([p.gate_up for p in parts]), torch.cat([p.down for p in parts]))


@torch.no_grad()
def merge(experts: Experts, labels: Labels, weights: Tensor) -> Experts:
    """Eq. 7: of each group C the average W_C = sum_C f_i W_i / sum_C f_i of each matrix.

    A group of one is copied as it is: no rounding, whatever its weight.

    Args:
        experts: n of them.
        labels: group of each.
        weights: f_i (the method), or ones. [n].
    """
    made = []
    for members in groups_of(labels):
        own = experts.of(members)
        if len(members) > 1:
            w = shares(weights, members)
            own = Experts(average(w, own.gate_up)[None], average(w, own.down)[None])
        made.append(own)
    return stacked(made)


def representative(members: Sequence[int], output: Tensor) -> int:
    """The member whose mean output is nearest to that of its group; of equally near, the first.

    Two members are always equally near: rounding shall not choose.
    """
    own = output[torch.as_tensor(members, device=output.device)]
    apart = (own - own.mean(0)).norm(dim=1)
    return members[int((apart <= apart.min() * (1 + 1e-6)).nonzero()[0])]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, between columns; 0 where one is constant. [T, p], [T, q] -> [p, q]."""
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    lengths = a.norm(dim=0)[:, None] * b.norm(dim=0)
    found = a.mT @ b
    return torch.where(lengths > 0, found / lengths.clamp(min=1e-300), torch.zeros_like(found))


@torch.no_grad()
def fix_dominant(experts: Experts, labels: Labels, output: Tensor, x: Tensor) -> Experts:
    """Fix-Dom: neurons of the other members join those of the representative, then the mean.

    Each hidden neuron of another member goes to the neuron of the representative whose activation
    it correlates with most; rows of W_gate and W_up and columns of W_down are averaged.

    Args:
        output: o_i. [n, D].
        x: calibration tokens. [T, D].
    """
    made = []
    ff = experts.down.shape[2]
    for members in groups_of(labels):
        if len(members) == 1:
            made.append(experts.of(members))
            continue
        frame = representative(members, output)
        h = hidden(experts.of(members), x)
        to = []  # of each neuron of each member: its place in the frame
        for place, member in enumerate(members):
            own = torch.arange(ff, device=x.device)
            if member != frame:
                own = correlation(h[place], h[members.index(frame)]).argmax(1)
            to.append(own)
        belongs = F.one_hot(torch.cat(to), ff).double()  # [m ff, ff]
        made.append(_by_neuron(experts.of(members), belongs / belongs.sum(0)))
    return stacked(made)


def _by_neuron(experts: Experts, into: Tensor, out: Tensor | None = None) -> Experts:
    """One expert whose neurons are sums of all members' neurons.

    Args:
        into: weights of the rows of W_gate and W_up. [m ff, ff].
        out: weights of the columns of W_down; default: the same.
    """
    gate, up = experts.gate_up.double().chunk(2, dim=1)  # [m, ff, D]
    D = gate.shape[-1]
    rows = [into.mT @ w.reshape(-1, D) for w in (gate, up)]
    columns = experts.down.double().mT.reshape(-1, D)  # [m ff, D]
    down = (into if out is None else out).mT @ columns
    kind = experts.down.dtype
    return Experts(torch.cat(rows)[None].to(kind), down.mT[None].to(kind))


@torch.no_grad()
def zip_neurons(experts: Experts, labels: Labels, weights: Tensor, x: Tensor) -> Experts:
    """ZipIt-style: neurons of all members, within an expert too, are grouped by correlation.

    Average linkage of 1 - correlation, down to ff groups; incoming rows are averaged, and outgoing
    columns summed with the experts' weights: a group stands for each of its neurons.

    Args:
        weights: f_i. [n].
        x: calibration tokens. [T, D].
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    made = []
    ff = experts.down.shape[2]
    for members in groups_of(labels):
        own = experts.of(members)
        if len(members) > 1:
            h = hidden(own, x).transpose(0, 1).flatten(1)  # [T, m ff]
            apart = 1 - correlation(h, h).cpu().numpy()
            apart = np.maximum((apart + apart.T) / 2, 0)
            np.fill_diagonal(apart, 0)
            tree = hierarchy.average(squareform(apart, checks=False))
            group = hierarchy.cut_tree(tree, ff)[:, 0]
            belongs = F.one_hot(torch.as_tensor(group, device=x.device).long(), ff).double()
            w = shares(weights, members).repeat_interleave(ff)[:, None]
            own = _by_neuron(own, belongs / belongs.sum(0), belongs * w)
        made.append(own)
    return stacked(made)


# -- after merging ------------------------------------------------------------------------------


class MergedExperts(nn.Module):
    """Eq. 8: y = sum_C (sum of P_i over the selected i in C) E_C(x), a group evaluated once.

    It stands in the place of a layer's experts and takes what its router, which still knows n
    experts, has selected.
    """

    group: Tensor  # [n]

    def __init__(self, experts: Experts, labels: Labels) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(experts.gate_up, requires_grad=False)
        self.down_proj = nn.Parameter(experts.down, requires_grad=False)
        self.register_buffer("group", torch.tensor(labels, device=experts.down.device))
        self.num_experts = len(experts)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Output of the layer.

        Args:
            x: [T, D].
            chosen: indices among the n experts. [T, k].
            weights: P_i. [T, k].
        """
        hit = F.one_hot(self.group[chosen], self.num_experts).to(weights.dtype)  # [T, k, r]
        share = (hit * weights[..., None]).sum(1)
        y = torch.zeros_like(x)
        for c in range(self.num_experts):
            at = hit[:, :, c].any(1).nonzero()[:, 0]
            gate, up = F.linear(x[at], self.gate_up_proj[c]).chunk(2, dim=-1)
            of_group = F.linear(F.silu(gate) * up, self.down_proj[c])
            y.index_add_(0, at, (of_group * share[at, c, None]).to(y.dtype))
        return y
