"""What HC-SMoE is compared with: other groups of experts, and experts that are left out.

Groupings give labels as ``clustering`` does, prunings the experts that stay. Nothing here looks at
anything but the calibration tokens, the same for all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from papers.hc_smoe.clustering import Floats, Labels, renumbered
from papers.hc_smoe.method import Experts, outputs, routing

# -- other groups -------------------------------------------------------------------------------


def k_means(points: Floats, r: int, seed: int) -> Labels:
    """Lloyd's groups of the mean outputs from k-means++ centres. [n, D] -> labels."""
    from sklearn.cluster import KMeans

    made = KMeans(r, init="k-means++", n_init=1, max_iter=100, tol=1e-4, random_state=seed)
    return renumbered(made.fit_predict(points).tolist())


def one_shot(
    similarity: Floats, centres: Sequence[int], usage: Floats, largest: int | None = None
) -> Labels:
    """M-SMoE's groups: every expert joins the centre that it is most similar to.

    The most used choose first; a group that is full is passed over.

    Args:
        similarity: larger is nearer. [n, n].
        centres: experts, one per group.
        usage: f_i. [n].
        largest: experts of a group at most, its centre included; default: any number.

    Raises:
        ValueError: if the groups cannot hold all experts.
    """
    n, room = len(similarity), largest or len(similarity)
    if len(centres) * room < n:
        raise ValueError(f"{len(centres)} groups of {room} cannot hold {n} experts")
    size = dict.fromkeys(centres, 1)
    joined = {c: c for c in centres}
    for i in np.argsort(-np.asarray(usage), kind="stable").tolist():
        if i not in joined:
            open_ = [c for c in centres if size[c] < room]
            joined[i] = max(open_, key=lambda c: similarity[i, c])
            size[joined[i]] += 1
    return renumbered([joined[i] for i in range(n)])


def cosine(products: Tensor) -> Floats:
    """Cosine similarity from inner products, e.g. of the router's logits. [n, n] -> [n, n]."""
    lengths = products.diagonal().sqrt()
    return np.asarray((products / (lengths[:, None] * lengths).clamp(min=1e-30)).cpu().numpy())


def random_groups(n: int, r: int, rng: np.random.Generator) -> Labels:
    """A uniform draw among groups whose sizes differ by one at most."""
    return renumbered((np.arange(n) % r)[rng.permutation(n)].tolist())


def aligned(experts: Experts, labels: Labels, centres: Sequence[int]) -> Experts:
    """Experts whose hidden neurons are permuted to fit those of their group's centre (M-SMoE).

    The permutation has the largest sum of inner products of the neurons' weights; what an expert
    computes stays the same.

    Args:
        centres: of each group.
    """
    from scipy.optimize import linear_sum_assignment

    n, ff = len(experts), experts.down.shape[2]
    gate, up = experts.gate_up.chunk(2, dim=1)
    neurons = torch.cat([gate, up, experts.down.mT], dim=2).double()  # [n, ff, 3 D]
    order = torch.arange(ff).repeat(n, 1)
    for i in range(n):
        centre = centres[labels[i]]
        if i != centre:
            profit = neurons[centre] @ neurons[i].mT
            order[i] = torch.as_tensor(
                linear_sum_assignment(profit.cpu().numpy(), maximize=True)[1]
            )
    order = order.to(gate.device)
    rows = torch.cat([order, order + ff], dim=1)
    at = torch.arange(n, device=gate.device)[:, None]
    return Experts(experts.gate_up[at, rows], experts.down.mT[at, order].mT.contiguous())


# -- pruning ------------------------------------------------------------------------------------


def most(values: Floats, r: int) -> list[int]:
    """The r experts with the largest values (F-prune: usage, S-prune: score), in index order."""
    return sorted(np.argsort(-np.asarray(values), kind="stable")[:r].tolist())


def most_of_all(values: Sequence[Floats], total: int) -> list[list[int]]:
    """The same over all layers: ``total`` experts in all, the best one of each layer for sure."""
    kept = [most(of_layer, 1) for of_layer in values]
    rest = [
        (-float(value), layer, i)
        for layer, of_layer in enumerate(values)
        for i, value in enumerate(of_layer)
        if i not in kept[layer]
    ]
    for _, layer, i in sorted(rest)[: max(0, total - len(values))]:
        kept[layer].append(i)
    return [sorted(of_layer) for of_layer in kept]


def subsets(n: int, r: int, most: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All subsets of r of n experts, or ``most`` drawn ones where there are more."""
    if math.comb(n, r) <= most:
        return list(itertools.combinations(range(n), r))
    return [tuple(sorted(rng.choice(n, r, replace=False).tolist())) for _ in range(most)]


def chunks(x: Tensor, logits: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and their logits, some at a time."""
    return zip(x.split(size), logits.split(size), strict=True)


@torch.no_grad()
def search(
    experts: Experts,
    x: Tensor,
    logits: Tensor,
    candidates: Sequence[Sequence[int]],
    top_k: int,
    normalised: bool,
    *,
    chunk: int = 2048,
    at_once: int = 32,
) -> Floats:
    """O-prune: |y_S(X) - y(X)|^2 of every subset S, whose router knows S alone. [subsets].

    With a = P_S - P the error of a token is a' G a, where G_ij = E_i(x) . E_j(x): the experts run
    once, whatever the number of subsets.

    Args:
        x: calibration tokens. [T, D].
        logits: of the router. [T, n].
        candidates: subsets of the experts.
    """
    n = len(experts)
    absent = torch.ones(len(candidates), n, dtype=torch.bool)
    for s, subset in enumerate(candidates):
        absent[s, list(subset)] = False
    absent = absent.to(x.device)
    found = torch.zeros(len(candidates), dtype=torch.float64, device=x.device)
    for tokens, z in chunks(x, logits, chunk):
        put_out = outputs(experts, tokens).transpose(0, 1).float()  # [t, n, D]
        gram = put_out @ put_out.mT  # [t, n, n]
        whole = routing(z, top_k, normalised)[:, None]
        for at in range(0, len(candidates), at_once):
            part = absent[at : at + at_once]
            masked = z[:, None].masked_fill(part, -torch.inf)  # [t, S, n]
            a = routing(masked, top_k, normalised) - whole
            found[at : at + at_once] += ((a @ gram) * a).double().sum((0, 2))
    return np.asarray(found.clamp(min=0).cpu().numpy())
