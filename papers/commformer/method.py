"""CommFormer's contribution: a learned communication graph, and attention along its edges.

Equations are numbered as in the README. Stacked over S training seeds, each with its own weights
and graph; B samples of N agents each. Row i of a graph is the receiver, column j the sender.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.stacked import Initialiser, StackedLinear, rand, zeros

Generators = Sequence[torch.Generator]

small: Initialiser = functools.partial(nn.init.normal_, std=0.02)


# -- the graph ---------------------------------------------------------------------------------


def edges_per_row(n_agents: int, sparsity: float) -> int:
    """Eq. 1: k = max(floor(N S), 1)."""
    return max(math.floor(n_agents * sparsity + 1e-9), 1)


def gumbel(generators: Generators, *shape: int) -> Tensor:
    """Standard Gumbel noise of every seed's generator. [S, *shape]."""
    return -torch.log(-torch.log(rand(generators, *shape).clamp(1e-20, 1 - 1e-7)))


def k_hot(scores: Tensor, k: int) -> Tensor:
    """Ones at the k largest entries of each row, the leftmost of equal ones. [..., N, N]."""
    chosen = scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(scores).scatter(-1, chosen, 1.0)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard``, exactly, with the gradient of ``soft``."""
    return hard + (soft - soft.detach())


def sample_graph(
    alpha: Tensor, k: int, noise: Tensor | None = None, *, exclude_diagonal: bool = False
) -> Tensor:
    """Eq. 2: a k-hot graph whose gradient is that of the softmax (straight through). [S, N, N].

    Args:
        alpha: the graph's parameters. [S, N, N].
        k: edges per row.
        noise: Gumbel noise; None: the exact graph, as at execution.
        exclude_diagonal: no place is given to the own edge.
    """
    scores = alpha if noise is None else alpha + noise
    if exclude_diagonal:
        own = torch.eye(alpha.shape[-1], dtype=torch.bool, device=alpha.device)
        scores = scores.masked_fill(own, -torch.inf)
    soft = scores.softmax(-1)
    return straight_through(k_hot(scores.detach(), k), soft)


@dataclass(frozen=True)
class Graph:
    """Who listens to whom in one pass through the network.

    Attributes:
        connectivity: C, what weights are multiplied by; 0: blocked. [S, N, N], with gates
            [S, B, N, N].
        classes: which of the two edge embeddings a pair has, 0 or 1. [S, N, N].
    """

    connectivity: Tensor
    classes: Tensor

    def first(self, n: int) -> Graph:
        """Of the first n agents."""
        return Graph(self.connectivity[..., :n, :n], self.classes[..., :n, :n])


def make_graph(
    adjacency: Tensor, diagonal: str = "added", *, truncated: bool = False, self_edges: bool = True
) -> Graph:
    """Eq. 3: C = A + I ("added"), or A without its diagonal + I ("replaced"); classes of edges.

    Args:
        adjacency: A, [S, N, N].
        diagonal: "added" or "replaced".
        truncated: classes by A's integer part, as in the authors' code, where raw values just
            below 1 (in the warm-up) become class 0; else by the nearer of 0 and 1.
        self_edges: False: C = A.
    """
    own = torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    rounded = (adjacency.detach().trunc() if truncated else adjacency.detach().round()).clamp(0, 1)
    if not self_edges:
        return Graph(adjacency, rounded)
    return Graph((adjacency if diagonal == "added" else adjacency * (1 - own)) + own, rounded)


def gated(graph: Graph, gate: Tensor) -> Graph:
    """Eq. 8 (extension): agent i receives at this moment where gate_i is 1; the own edge stays.

    Args:
        graph: of all samples, [S, N, N].
        gate: 0 or 1 (with a gradient), [S, B, N].
    """
    C = graph.connectivity.unsqueeze(1)  # [S, 1, N, N]
    own = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    return replace(graph, connectivity=C * own + C * (1 - own) * gate.unsqueeze(-1))


# -- attention with relations ------------------------------------------------------------------


class RelationAttention(nn.Module):
    """Eq. 4 and 5: s_ij = (W_q x_i + r^q_ij) . (W_k x_j + r^k_ij) / sqrt(D), one head.

    Every pair has one of two relations (r^q, r^k) = W_r E(class), so that the products with them
    are computed per class and no tensor of [B, N, N, D] arises.

    Args:
        generators: of the weights, one per seed.
        width: D.
        causal: agent i attends to agents 1 to i only.
        relations: False: s_ij = W_q x_i . W_k x_j / sqrt(D).
        as_released: scaled twice, and the relation of the reversed edge.
    """

    def __init__(
        self,
        generators: Generators,
        width: int,
        *,
        causal: bool = False,
        relations: bool = True,
        as_released: bool = False,
    ) -> None:
        super().__init__()
        make = functools.partial(StackedLinear, generators, weight_init=small, bias_init=zeros)
        self.query, self.key, self.value, self.out = (make(width, width) for _ in range(4))
        self.relation = make(width, 2 * width) if relations else None
        self.causal, self.as_released = causal, as_released

    def forward(self, q: Tensor, k: Tensor, v: Tensor, graph: Graph, embedding: Tensor) -> Tensor:
        """Eq. 5, messages: W_o sum_j w_ij v_j. [S, B, N, D].

        Args:
            q, k, v: W_q x, W_k x, W_v x of the agents. [S, B, N, D].
            graph: who listens to whom.
            embedding: E, [S, 2, D].
        """
        scores = q @ k.mT  # [S, B, N, N]
        scale = 1 / math.sqrt(q.shape[-1])
        if self.relation is not None:
            scores = scores + self._relations(q, k, graph.classes, embedding)
            scale = scale**2 if self.as_released else scale
        C = graph.connectivity if graph.connectivity.dim() == 4 else graph.connectivity.unsqueeze(1)
        blocked = C == 0
        if self.causal:
            n = q.shape[-2]
            blocked = blocked | torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
        weights = (scores * scale).masked_fill(blocked, -torch.inf).softmax(-1)
        # the only way by which a gradient comes to the graph: masking has none
        return per_token(self.out, (weights * C) @ v)

    def _relations(self, q: Tensor, k: Tensor, classes: Tensor, embedding: Tensor) -> Tensor:
        """Eq. 4 less q_i . k_j: q_i . r^k_ij + r^q_ij . k_j + r^q_ij . r^k_ij. [S, B, N, N]."""
        assert self.relation is not None
        of_q, of_k = self.relation(embedding).chunk(2, dim=-1)  # [S, 2, D] each
        with_q = q @ of_k.unsqueeze(1).mT  # [S, B, N, 2]
        with_k = k @ of_q.unsqueeze(1).mT
        both = (of_q * of_k).sum(-1)[:, None, None]  # [S, 1, 1, 2]
        each = with_q.unsqueeze(-2) + (with_k + both).unsqueeze(-3)  # [S, B, N, N, 2]
        c = (classes.mT if self.as_released else classes).unsqueeze(1)
        return each[..., 0] + c * (each[..., 1] - each[..., 0])


def per_token(layer: nn.Module, x: Tensor) -> Tensor:
    """A stacked layer on [S, ..., D]."""
    result: Tensor = layer(x.flatten(1, -2)).unflatten(1, x.shape[1:-1])
    return result
