"""What is compared: CommFormer, its variants, the same network with other graphs, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods

GraphKind = Literal["learned", "random", "full", "none"]


@dataclass(frozen=True)
class Scheme(Method):
    """Who may listen to whom, and what else differs from CommFormer.

    Attributes:
        graph: learned; k random edges per row, drawn once per seed; all edges; none but the own.
        gate: an agent decides at every step whether it receives (the extension).
        gate_penalty: lambda_g, weight of the mean gate in the loss.
        exclude_diagonal: the own edge is always on and does not take one of the k places.
        tokens: an agent's token in the decoder is its predecessor's action, or always the start
            symbol ("silent"): without that, actions travel whatever the graph says.
        relations: edge embeddings in the scores, and self edges added to the graph.
        sparsity: S; None: the configuration's.
        graph_lr: of the graph; None: the configuration's.
        as_released: scores scaled twice, relations of the reversed edge, and edge classes by
            truncation, as in the authors' code.
        policy: a network; uniform actions; or the shortest way, which nobody can know.
    """

    graph: GraphKind = "learned"
    gate: bool = False
    gate_penalty: float = 0.0
    exclude_diagonal: bool = False
    tokens: Literal["shifted", "silent"] = "shifted"
    relations: bool = True
    sparsity: float | None = None
    graph_lr: float | None = None
    as_released: bool = False
    policy: Literal["network", "uniform", "oracle"] = "network"


METHODS = Methods(
    Scheme("commformer", "CommFormer", "method"),
    Scheme("commformer-gate", "CommFormer, gated", "variant", gate=True, gate_penalty=0.01),
    Scheme("commformer-others", "CommFormer, k others", "variant", exclude_diagonal=True),
    Scheme("random", "random graph", "ablation", "random"),
    Scheme("full", "full graph", "baseline", "full"),
    Scheme("none", "no communication", "baseline", "none", tokens="silent"),
    Scheme("commformer-gate-free", "CommFormer, gated, λ = 0", "variant", gate=True),
    Scheme("commformer-s20", "CommFormer, S = 0.2", "variant", sparsity=0.2),
    Scheme("commformer-s60", "CommFormer, S = 0.6", "variant", sparsity=0.6),
    Scheme("commformer-s80", "CommFormer, S = 0.8", "variant", sparsity=0.8),
    Scheme("commformer-released", "CommFormer, as released", "variant", as_released=True),
    Scheme("random-others", "random graph, k others", "ablation", "random", exclude_diagonal=True),
    Scheme("mat", "MAT", "baseline", "full", relations=False),
    Scheme("shifted", "C = I, actions shifted", "baseline", "none"),
    Scheme("uniform", "uniform actions", "baseline", policy="uniform"),
    Scheme("oracle", "perfect information", "reference", policy="oracle"),
)
