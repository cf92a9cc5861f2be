"""The methods that are compared: DFAC's, what they are without the mean-shape split, and rivals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.methods import Method, Methods

Mean = Literal["none", "sum", "qmix", "qplex"]
Law = Literal["quantile", "categorical", "per-quantile", "scalar", "exact", "mean", "optimum"]


@dataclass(frozen=True)
class Factorisation(Method):
    """How the law of the joint return is put together.

    Attributes:
        mean: Psi, which mixes the agents' means ("none": the agents learn alone).
        law: quantile functions (IQN), probabilities of atoms (C51), every quantile sample mixed by
            Psi (what Theorem 1 excludes), or no law, a scalar. Of a game's table, not trained: the
            exact laws, point masses at the exact means, the least quantile loss that there is.
        rival: the method of expectations that it extends; its own name where it is one.
        changes: fields of a configuration that it sets.
    """

    mean: Mean = "qmix"
    law: Law = "quantile"
    rival: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def joint(self) -> bool:
        """Whether it has a value or a law of joint actions."""
        return self.mean != "none"

    @property
    def trained(self) -> bool:
        """Whether it is learnt, not read off a game's table."""
        return self.law not in ("exact", "mean", "optimum")


METHODS = Methods(
    Factorisation("dmix", "DMIX", "method", rival="qmix"),
    Factorisation("qmix", "QMIX", "baseline", law="scalar", rival="qmix"),
    Factorisation("ddn", "DDN", "variant", "sum", rival="vdn"),
    Factorisation("vdn", "VDN", "baseline", "sum", "scalar", rival="vdn"),
    Factorisation("dplex", "DPLEX", "variant", "qplex", rival="qplex"),
    Factorisation("qplex", "QPLEX", "baseline", "qplex", "scalar", rival="qplex"),
    Factorisation("naive", "QMIX per quantile", "ablation", law="per-quantile", rival="qmix"),
    Factorisation("diql", "DIQL", "variant", "none", rival="iql"),
    Factorisation("iql", "IQL", "baseline", "none", "scalar", rival="iql"),
    Factorisation("dmix-c51", "DMIX, C51", "variant", law="categorical", rival="qmix"),
    Factorisation("ddn-c51", "DDN, C51", "variant", "sum", "categorical", rival="vdn"),
    Factorisation(
        *("dmix-sharp", "DMIX, κ = .05", "variant"), rival="qmix", changes={"kappa": 0.05}
    ),
    Factorisation(
        *("ddn-sharp", "DDN, κ = .05", "variant", "sum"), rival="vdn", changes={"kappa": 0.05}
    ),
    # kappa beyond all errors: expectiles, whose gradient grows with the error
    Factorisation(
        *("dplex-smooth", "DPLEX, κ = 20", "variant", "qplex"),
        rival="qplex",
        changes={"kappa": 20.0},
    ),
    # a random network's rows: what a metric says of one that has learnt nothing
    Factorisation("untrained", "DMIX, untrained", "ablation", rival="qmix", changes={"updates": 0}),
    Factorisation("exact", "exact laws", "reference", law="exact"),
    Factorisation("true-means", "points at the exact means", "reference", law="mean"),
    Factorisation("dmix-optimum", "DMIX's least loss", "reference", "qmix", "optimum"),
    Factorisation("ddn-optimum", "DDN's least loss", "reference", "sum", "optimum"),
)
