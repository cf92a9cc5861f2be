"""A method of the table, applied to every layer of a mixture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from papers.hc_smoe import baselines
from papers.hc_smoe.clustering import Floats, History, Labels, agglomerate
from papers.hc_smoe.layers import Reduced, blocks_of, pruned, routing_of
from papers.hc_smoe.method import (
    Experts,
    Statistics,
    distances,
    euclidean,
    fix_dominant,
    merge,
    zip_neurons,
)
from papers.hc_smoe.methods import Reduction
from papers.hc_smoe.subjects import Subject
from papers.hc_smoe.task import share_of

LARGEST = 4  # experts of a group of M-SMoE


def floats(values: torch.Tensor) -> Floats:
    """A tensor of statistics as an array."""
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def history(method: Reduction, experts: Experts, of: Statistics) -> History:
    """The joins of a hierarchical method."""
    apart = distances(method.represent, experts, of)
    if method.grouping == "ward-usage":
        return agglomerate(apart, "ward", sizes=floats(of.usage).clip(min=1e-6))
    return agglomerate(apart, method.grouping)  # type: ignore[arg-type]


def grouped(
    method: Reduction, experts: Experts, of: Statistics, r: int, rng: np.random.Generator
) -> Labels:
    """The groups of a layer, r of them in every layer."""
    n, usage = len(experts), floats(of.usage)
    if method.grouping == "random":
        return baselines.random_groups(n, r, rng)
    if method.grouping == "k-means":
        return baselines.k_means(floats(of.output), r, int(rng.integers(2**31)))
    if method.grouping == "one-shot":
        return baselines.one_shot(baselines.cosine(of.logits), baselines.most(usage, r), usage)
    if method.grouping == "one-shot-output":
        return baselines.one_shot(-euclidean(of.output), baselines.most(usage, r), usage)
    return history(method, experts, of).cut(r)


def m_smoe(subject: Subject, share: float) -> list[Reduced]:
    """M-SMoE: the most used experts of all layers are centres; aligned neurons, then the mean."""
    used = [floats(of.usage) for of in subject.statistics]
    n = len(used[0])
    kept = baselines.most_of_all(used, share_of(share, n) * len(used))
    made = []
    for experts, of, usage, centres in zip(
        subject.experts, subject.statistics, used, kept, strict=True
    ):
        room = max(LARGEST, -(-n // len(centres)))  # a layer with few centres needs larger groups
        alike = baselines.cosine(of.logits)
        labels = baselines.one_shot(alike, centres, usage, room)
        own = {labels[c]: c for c in centres}
        fitted = baselines.aligned(experts, labels, [own[g] for g in range(len(centres))])
        made.append(Reduced(merge(fitted, labels, of.usage), labels))
    return made


def kept_experts(
    method: Reduction, subject: Subject, share: float, most: int, rng: np.random.Generator
) -> list[list[int]]:
    """The experts that stay in each layer."""
    n = len(subject.experts[0])
    r = share_of(share, n)
    if method.score == "search":
        stay = []
        for block, experts, seen in zip(
            blocks_of(subject.model), subject.experts, subject.inputs, strict=True
        ):
            candidates = baselines.subsets(n, r, most, rng)
            found = baselines.search(experts, seen.x, seen.logits, candidates, *routing_of(block))
            stay.append(list(candidates[int(found.argmin())]))
        return stay
    values = [
        floats(of.usage if method.score == "usage" else of.score) for of in subject.statistics
    ]
    if method.all_layers:
        return baselines.most_of_all(values, r * len(values))
    return [baselines.most(of_layer, r) for of_layer in values]


def reduced(
    method: Reduction, subject: Subject, share: float, most: int, rng: np.random.Generator
) -> list[Reduced] | None:
    """What a method makes of every layer, from the unmerged model alone; None: nothing.

    Args:
        share: r / n, of the experts that are left.
        most: subsets that O-prune looks at.
        rng: of what is drawn.
    """
    if method.kind == "none":
        return None
    if method.kind == "prune":
        stay = kept_experts(method, subject, share, most, rng)
        return [pruned(e, kept) for e, kept in zip(subject.experts, stay, strict=True)]
    if method.grouping == "m-smoe":
        return m_smoe(subject, share)
    r = share_of(share, len(subject.experts[0]))
    pairs = zip(subject.experts, subject.statistics, strict=True)
    labels = [grouped(method, experts, of, r, rng) for experts, of in pairs]
    return [Reduced(one_each(method, subject, i, own), own) for i, own in enumerate(labels)]


def one_each(method: Reduction, subject: Subject, layer: int, labels: Labels) -> Experts:
    """One expert per group of a layer."""
    experts, of = subject.experts[layer], subject.statistics[layer]
    if method.rule == "fix-dom":
        return fix_dominant(experts, labels, of.output, subject.inputs[layer].x)
    if method.rule == "zip":
        return zip_neurons(experts, labels, of.usage, subject.inputs[layer].x)
    weights = of.usage if method.rule == "frequency" else torch.ones_like(of.usage)
    return merge(experts, labels, weights)


def joins(method: Reduction, subject: Subject) -> list[list[list[float]]]:
    """The joins of each layer in SciPy's format, for dendrograms."""
    pairs = zip(subject.experts, subject.statistics, strict=True)
    return [history(method, experts, of).matrix().tolist() for experts, of in pairs]


def sizes(labels: Sequence[int]) -> list[int]:
    """Members of each group."""
    return np.bincount(labels).tolist()
