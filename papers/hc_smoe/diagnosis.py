"""What explains a result: groups, errors of layers, which distance foretells damage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from papers.hc_smoe.clustering import Floats
from papers.hc_smoe.layers import Inputs, Reduced, blocks_of, routing_of
from papers.hc_smoe.method import Experts, Statistics, distances, merge, outputs, routing
from papers.hc_smoe.reduction import floats
from papers.hc_smoe.subjects import Subject

Numbers = dict[str, float]


@torch.no_grad()
def block_outputs(model: Any, held: Sequence[Inputs]) -> list[Tensor]:
    """Output of each mixture layer, as it is at the moment, on given inputs. [T, D] each."""
    return [block(of.x[None])[0] for block, of in zip(blocks_of(model), held, strict=True)]


def layer_error(model: Any, held: Sequence[Inputs], whole: Sequence[Tensor]) -> float:
    """|y' - y|^2 / |y|^2 of the layers' outputs on the original's inputs, mean over layers."""
    pairs = zip(block_outputs(model, held), whole, strict=True)
    return float(np.mean([float((a - b).square().sum() / b.square().sum()) for a, b in pairs]))


def described(subject: Subject, layers: Sequence[Reduced] | None) -> Numbers:
    """Groups and cost of a reduced model; means over layers."""
    n = len(subject.experts[0])
    if layers is None:
        return {"left": 1.0, "evaluations": float(routing_of(blocks_of(subject.model)[0])[0])}
    found: list[Numbers] = []
    for reduced, of, held, block in zip(
        layers, subject.statistics, subject.held, blocks_of(subject.model), strict=True
    ):
        group = torch.tensor(reduced.labels, device=held.x.device)
        own = {"left": len(reduced.experts) / n}
        logits = held.logits
        if reduced.kept is not None:
            logits = logits[:, torch.tensor(reduced.kept, device=logits.device)]
        else:
            masses = np.bincount(reduced.labels, weights=floats(of.usage))
            members = np.bincount(reduced.labels)
            own |= {"largest": float(members.max()), "singletons": float((members == 1).sum())}
            own["busiest"] = float(masses.max())
        chosen = logits.topk(min(routing_of(block)[0], logits.shape[1])).indices
        hit = torch.nn.functional.one_hot(group[chosen], len(reduced.experts)).amax(1)
        own["evaluations"] = float(hit.float().sum(1).mean())
        found.append(own)
    return {name: float(np.mean([own[name] for own in found])) for name in found[0]}


@torch.no_grad()
def pair_damage(experts: Experts, usage: Tensor, held: Inputs, k: int, normalised: bool) -> Floats:
    """|y' - y|^2 of a layer when experts i and j alone are merged by usage. [n, n], 0 for i = j."""
    n = len(experts)
    P = routing(held.logits, k, normalised)  # [T, n]
    own = outputs(experts, held.x)  # [n, T, D]
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            both = outputs(merge(experts.of([i, j]), [0, 0], usage[[i, j]]), held.x)[0]
            error = P[:, i, None] * (own[i] - both) + P[:, j, None] * (own[j] - both)
            found[i, j] = found[j, i] = float(error.double().square().sum())
    return found


def usage_weighted(apart: Floats, usage: Floats) -> Floats:
    """Ward's linkage of two experts with their usage as masses. [n, n]."""
    return apart * np.sqrt(2 * np.outer(usage, usage) / np.add.outer(usage, usage).clip(1e-12))


def foretold(experts: Experts, of: Statistics, held: Inputs, k: int, normalised: bool) -> Numbers:
    """Rank correlation of each distance between two experts with what merging them costs."""
    damage = pair_damage(experts, of.usage, held, k, normalised)
    at = np.triu_indices(len(experts), 1)
    kinds = {
        kind: distances(kind, experts, of) for kind in ("output", "weight", "router", "tokens")
    }
    kinds["usage"] = usage_weighted(kinds["output"], floats(of.usage))
    pairs = {f"foretells_{name}": (d[at], damage[at]) for name, d in kinds.items()}
    pairs["agrees_tokens"] = (kinds["output"][at], kinds["tokens"][at])
    return {
        name: float(scipy.stats.spearmanr(a, b).statistic) if len(a) > 1 and np.ptp(a) > 0 else 0.0
        for name, (a, b) in pairs.items()
    }


def of_original(subject: Subject) -> Numbers:
    """Whether the experts were trained apart, how evenly they are used; means over layers."""
    found: list[Numbers] = []
    for block, experts, of, held in zip(
        blocks_of(subject.model), subject.experts, subject.statistics, subject.held, strict=True
    ):
        usage, n = floats(of.usage), len(experts)
        apart = distances("tokens", experts, of)[np.triu_indices(n, 1)]
        size = float(of.products.diagonal().sqrt().mean())
        found.append(
            {
                "least_used": float(usage.min() * n),
                "most_used": float(usage.max() * n),
                "dispersion": float(apart.mean()) / size,  # of outputs token by token
                "mean_share": float((of.output.square().sum(1) / of.products.diagonal()).mean()),
                **foretold(experts, of, held, *routing_of(block)),
            }
        )
    return {name: float(np.mean([own[name] for own in found])) for name in found[0]}
