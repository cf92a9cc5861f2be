"""A GPT-2 written out in the style of nanoGPT: the peer of the benchmark, and of a test.

Without biases and dropout, tied head, fused attention; the steps that the project's loop adds
(masks, patterns, another library's modules) are not there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.ln_2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.ln_1(x)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        hidden = F.gelu(self.up(self.ln_2(x)), approximate="tanh")
        return x + self.down(hidden)


class PlainGPT(nn.Module):
    """A decoder with learned positions."""

    def __init__(self, vocabulary: int, length: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next tokens. [B, T] -> [B, T, V]."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.tokens.weight)


@torch.no_grad()
def plain_of(model: Any) -> PlainGPT:
    """The same decoder with the weights of one of ``transformers``' (:func:`task.model_of`)."""
    config, body = model.config, model.transformer
    plain = PlainGPT(
        config.vocab_size, config.n_positions, config.n_layer, config.n_embd, config.n_head
    )
    pairs = [
        (plain.tokens, body.wte.weight),
        (plain.positions, body.wpe.weight),
        (plain.ln_f, body.ln_f.weight),
    ]
    for own, theirs in zip(plain.blocks, body.h, strict=True):
        pairs += [
            (own.ln_1, theirs.ln_1.weight),
            (own.qkv, theirs.attn.c_attn.weight.T),
            (own.out, theirs.attn.c_proj.weight.T),
            (own.ln_2, theirs.ln_2.weight),
            (own.up, theirs.mlp.c_fc.weight.T),
            (own.down, theirs.mlp.c_proj.weight.T),
        ]
    for module, weight in pairs:
        module.weight.copy_(weight)
    return plain


__all__ = ["PlainGPT", "plain_of"]
