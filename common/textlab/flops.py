"""Floating-point operations of a language model, counted from its shapes and densities.

A multiply-add is two. A linear layer takes 2 nnz per token; attention 4 d A / T per layer and
token, A the pairs of positions that are looked at; the head counts, the look-up of embeddings,
norms, softmax, activations and the optimiser do not. A backward pass takes twice a forward one:
the gradient of the inputs and that of the weights. Of experts those that act are counted, and the
router. Theoretical operations are neither wall time nor memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

Densities = Mapping[str, float]


def matrices(model: nn.Module) -> dict[str, float]:
    """Multiply-adds per token of each weight matrix: name of the parameter -> its size.

    Stacks of experts count by the share that acts; a head that shares the embedding counts under
    its own name.
    """
    from transformers.pytorch_utils import Conv1D

    found: dict[str, float] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear | Conv1D):
            found[f"{prefix}weight"] = float(module.weight.numel())
        elif type(module).__name__.endswith("Experts"):
            share = active_experts(model) / module.gate_up_proj.shape[0]  # type: ignore[operator]
            for part in ("gate_up_proj", "down_proj"):
                found[prefix + part] = share * getattr(module, part).numel()
        elif type(module).__name__.endswith("Router"):
            found[f"{prefix}weight"] = float(module.weight.numel())  # type: ignore[operator]
    return found


def active_experts(model: Any) -> int:
    """Experts that act on a token."""
    return int(model.config.num_experts_per_tok)


def causal_pairs(length: int) -> int:
    """Pairs (query, key) of full causal attention, the diagonal included."""
    return length * (length + 1) // 2


def forward(
    model: Any,
    length: int,
    *,
    density: Densities | None = None,
    pairs: int | None = None,
    head: bool = True,
) -> float:
    """Operations of a forward pass per token. [FLOP].

    Args:
        model: a causal language model of ``transformers``.
        length: T, tokens of a window.
        density: share of the weights that are there, by the parameter's name (else 1).
        pairs: that attention looks at in a window; default: full causal attention.
        head: False leaves the output head out.
    """
    density = density or {}
    config = model.config
    linear = sum(
        2 * size * density.get(name, 1.0)
        for name, size in matrices(model).items()
        if head or not name.startswith("lm_head")
    )
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    looked_at = causal_pairs(length) if pairs is None else pairs
    return linear + 4 * config.num_hidden_layers * width * looked_at / length


def training(forward_flops: float, *, dense: float | None = None) -> float:
    """Operations of an update per token: 3 forward passes. [FLOP].

    Args:
        forward_flops: of the (sparse) network.
        dense: of the dense network, where the gradient of all weights is recorded: then the third
            pass is dense.
    """
    return 3 * forward_flops if dense is None else 2 * forward_flops + dense


__all__ = ["Densities", "active_experts", "causal_pairs", "forward", "matrices", "training"]
