"""A mixture of experts from a dense model: every expert starts as (a part of) its feed-forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from papers.hc_smoe.layers import blocks_of


@torch.no_grad()
def upcycle(dense: Any, mixture: Any, *, noise: float, redraw: float, seed: int) -> None:
    """Give a fresh mixture the weights of a dense Llama of the same sizes, in place.

    What both have is copied. Mixtral's kind: every expert is a copy of the feed-forward with
    Gaussian noise of ``noise`` of each matrix' standard deviation. Qwen's kind: the shared expert
    is the feed-forward, every routed expert its first ff neurons, of which a share ``redraw`` of
    its own is drawn anew. Neuron k of one expert so corresponds to neuron k of another. Routers
    stay fresh.
    """
    generator = torch.Generator().manual_seed(seed)
    own = mixture.state_dict()
    for name, value in dense.state_dict().items():
        if name in own and own[name].shape == value.shape:
            own[name].copy_(value)
    for layer, block in zip(dense.model.layers, blocks_of(mixture), strict=True):
        ffn, experts = layer.mlp, block.experts
        parts = (ffn.gate_proj.weight, ffn.up_proj.weight, ffn.down_proj.weight.mT)  # [ff', D]
        if hasattr(block, "shared_expert"):
            block.shared_expert.load_state_dict(ffn.state_dict())
            made = _redrawn(parts, experts, redraw, mixture.config.initializer_range, generator)
        else:
            made = _noisy(parts, len(experts.down_proj), noise, generator)
        gate, up, down = made
        experts.gate_up_proj.copy_(torch.cat([gate, up], dim=1))
        experts.down_proj.copy_(down.mT)


def _noisy(
    parts: tuple[Tensor, ...], n: int, noise: float, generator: torch.Generator
) -> list[Tensor]:
    """Copies with noise. [ff, D] each -> [n, ff, D] each."""
    return [
        w + noise * w.std() * torch.randn(n, *w.shape, generator=generator).to(w.device)
        for w in parts
    ]


def _redrawn(
    parts: tuple[Tensor, ...], experts: Any, share: float, scale: float, generator: torch.Generator
) -> list[Tensor]:
    """The first ff neurons, some of each expert's drawn anew. [ff', D] each -> [n, ff, D] each."""
    n, D, ff = experts.down_proj.shape
    order = torch.rand(n, ff, generator=generator).argsort(1)
    new = torch.zeros(n, ff, 1, dtype=torch.bool)
    new[torch.arange(n)[:, None], order[:, : round(share * ff)]] = True
    fresh = [scale * torch.randn(n, ff, D, generator=generator) for _ in parts]
    return [
        torch.where(new.to(w.device), f.to(w.device), w[:ff])
        for w, f in zip(parts, fresh, strict=True)
    ]
