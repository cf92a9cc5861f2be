"""What is compared: HC-SMoE, its parts replaced one by one, other mergers, pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.hc_smoe.clustering import Linkage
from papers.hc_smoe.method import Representation

Kind = Literal["merge", "prune", "none", "training"]
Grouping = (
    Linkage | Literal["ward-usage", "k-means", "one-shot", "one-shot-output", "m-smoe", "random"]
)
Rule = Literal["frequency", "mean", "fix-dom", "zip"]
Score = Literal["usage", "router", "search"]


@dataclass(frozen=True)
class Reduction(Method):
    """How the experts of a layer become fewer.

    Attributes:
        kind: groups become one expert each; experts are left out; nothing happens; or it is a run
            of the training that the others start from.
        grouping: merge: a linkage, or another way to make groups.
        represent: merge: what experts are compared by.
        rule: merge: how the members of a group become one.
        score: prune: what says which experts stay.
        all_layers: prune: the best over all layers stay, instead of r in each.
        draws: of its random numbers, whose mean is the method's number.
    """

    kind: Kind = "merge"
    grouping: Grouping = "average"
    represent: Representation = "output"
    rule: Rule = "frequency"
    score: Score = "usage"
    all_layers: bool = False
    draws: int = 1


METHODS = Methods(
    Reduction("hc-avg", "HC-SMoE", "method"),
    Reduction("hc-single", "HC, single", "variant", grouping="single"),
    Reduction("hc-complete", "HC, complete", "variant", grouping="complete"),
    Reduction("hc-mean", "HC, plain mean", "variant", rule="mean"),
    Reduction("hc-fixdom", "HC, Fix-Dom", "variant", rule="fix-dom"),
    Reduction("hc-weight", "HC by weights", "ablation", represent="weight"),
    Reduction("hc-router", "HC by router logits", "ablation", represent="router"),
    Reduction("kmeans", "K-means", "ablation", grouping="k-means", draws=3),
    Reduction("oneshot", "one-shot groups", "baseline", grouping="one-shot", represent="router"),
    Reduction("random", "random groups", "ablation", grouping="random", draws=3),
    Reduction("fprune", "F-prune", "baseline", "prune"),
    Reduction("sprune", "S-prune", "baseline", "prune", score="router"),
    Reduction("oprune", "O-prune", "baseline", "prune", score="search"),
    Reduction("original", "original", "reference", "none"),
    Reduction("msmoe", "M-SMoE", "baseline", grouping="m-smoe", represent="router"),
    Reduction("oneshot-output", "one-shot by outputs", "ablation", grouping="one-shot-output"),
    Reduction("hc-tokens", "HC, outputs by token", "variant", represent="tokens"),
    Reduction("hc-ward", "HC, Ward", "variant", grouping="ward"),
    Reduction("hc-zip", "HC, ZipIt-style", "variant", rule="zip"),
    Reduction("fprune-all", "F-prune, all layers", "baseline", "prune", all_layers=True),
    Reduction(
        "sprune-all", "S-prune, all layers", "baseline", "prune", score="router", all_layers=True
    ),
    # the public code's linkages
    Reduction("hc-farthest", "HC, farthest first", "variant", grouping="complete-released"),
    Reduction("hc-ward-code", "HC, Ward unsquared", "variant", grouping="ward-released"),
    # not of the paper: groups of heavily used experts are dear to join
    Reduction("hc-usage", "HC, Ward by usage", "added", grouping="ward-usage"),
    Reduction("dense", "dense, before the experts", "reference", "training"),
    Reduction("moe", "mixture, training", "reference", "training"),
)

__all__ = ["METHODS", "Grouping", "Kind", "Reduction", "Rule", "Score"]
