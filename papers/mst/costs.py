"""Eq. 8: operations that a training takes, from its course and from the masks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from common.textlab import flops
from papers.mst.method import Bools, Course, Floats


@dataclass(frozen=True)
class Costs:
    """Eq. 8: operations of a dense forward pass per token. [FLOP]; a multiply-add is two.

    Attributes:
        sparse: of the layers that have masks, ``2 sum_l N_l``.
        dense: of those that have none (the head, where it is not masked), likewise.
        head: of the head, masked or not.
        attention: full, ``4 d L A / n``.
        kept: share of the pairs (i, j) that sparse attention looks at.
    """

    sparse: float
    dense: float
    head: float
    attention: float
    kept: float

    def forward(self, sparsity: Floats, cut: Bools) -> Floats:
        """``F(s, A)`` per token."""
        attention = self.attention * np.where(cut, self.kept, 1.0)
        return (1 - sparsity) * self.sparse + self.dense + attention

    def training(self, course: Course, *, gradient: bool) -> Floats:
        """Per token and iteration: 3 F, and ``2 F + F_dense`` where dense gradients are recorded.

        Args:
            gradient: the topology's updates look at gradients. [T].
        """
        F = self.forward(course.sparsity, course.cut)
        recorded = course.update & gradient
        return 3 * F + np.where(recorded, course.sparsity * self.sparse, 0.0)

    @property
    def whole(self) -> float:
        """A dense iteration per token."""
        return 3 * (self.sparse + self.dense + self.attention)


def prunable(model: Any, *, head: bool) -> dict[str, nn.Parameter]:
    """The weights that get masks: every linear layer's, by the name of its module.

    Args:
        head: the output head as well, which is the embedding of the tokens too (public code).
    """
    output = model.get_output_embeddings()
    modules = dict(model.named_modules())
    found = {name: modules[name.removesuffix(".weight")] for name in flops.matrices(model)}
    return {name: layer.weight for name, layer in found.items() if head or layer is not output}


def head_name(model: Any) -> str:
    """Name of the output head's weight among the matrices."""
    output = model.get_output_embeddings()
    return next(f"{name}.weight" for name, layer in model.named_modules() if layer is output)


def costs_of(model: Any, length: int, pattern: Tensor, full: Tensor, *, mask_head: bool) -> Costs:
    """Of a model (its shapes; the "meta" device will do) on windows of some length.

    Args:
        pattern: sparse attention. [n, n].
        full: full attention. [n, n].
        mask_head: the head is masked like the other layers.
    """
    sizes = flops.matrices(model)
    head = 2 * sizes.pop(head_name(model))
    body = 2 * sum(sizes.values())
    pairs = int(full.sum())
    attention = flops.forward(model, length, pairs=pairs) - body - head
    masked = body + head if mask_head else body
    share = int(pattern.sum()) / pairs
    return Costs(masked, body + head - masked, head, attention, share)


@dataclass(frozen=True)
class Pass:
    """A forward pass per token, counted from masks. [FLOP].

    Attributes:
        whole, body: with the output head and without it.
        dense, dense_body: the same with all connections, and the same attention.
    """

    whole: float
    body: float
    dense: float
    dense_body: float


def counted(model: Any, length: int, densities: Mapping[str, float], pairs: int) -> Pass:
    """What a forward pass takes.

    Args:
        densities: of the masked layers, by name.
        pairs: (i, j) that attention looks at in a window.
    """
    name = head_name(model)
    head = 2 * flops.matrices(model)[name]
    whole = flops.forward(model, length, density=densities, pairs=pairs)
    dense = flops.forward(model, length, pairs=pairs)
    return Pass(whole, whole - head * densities.get(name, 1.0), dense, dense - head)


__all__ = ["Costs", "Pass", "costs_of", "counted", "head_name", "prunable"]
