"""Networks of all seeds stacked on a leading axis, so that one batched matmul serves them all.

Every seed's parameters come from its own generator (PyTorch's default initialisation), so a stack
of seeds (3, 5) holds exactly the networks that the stacks (3,) and (5,) hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from common.stacked import StackedLinear, adam


class StackedMLP(nn.Module):
    """LeakyReLU MLP for every seed; the last layer holds all heads (torso shared, "tied")."""

    def __init__(self, generators: Sequence[torch.Generator], sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StackedLinear(generators, a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[S, ..., in] or [B, in] -> [S, ..., out]."""
        lead = None
        if x.dim() > 3:
            lead = x.shape[1:-1]
            x = x.flatten(1, -2)
        x = self._after_first(self.layers[0](x))
        return x if lead is None else x.unflatten(1, lead)

    def from_active_inputs(self, index: Tensor) -> Tensor:
        """The same on inputs of zeros and ones, given by the positions of the ones. [S, ..., k]."""
        first = self.layers[0]
        assert isinstance(first, StackedLinear)
        n_seeds, n_in, width = first.weight.shape
        flat = index.flatten(1, -2)
        if n_seeds > 1:
            flat = flat + (torch.arange(n_seeds, device=index.device) * n_in).view(-1, 1, 1)
        rows = nn.functional.embedding_bag(
            flat.flatten(0, 1), first.weight.view(n_seeds * n_in, width), mode="sum"
        )
        x = self._after_first(rows.view(n_seeds, -1, width) + first.bias)
        return x.unflatten(1, index.shape[1:-1])

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """(weight [S, in, out], bias [S, 1, out]) of the layers."""
        return [(m.weight, m.bias) for m in self.layers if isinstance(m, StackedLinear)]

    def _after_first(self, x: Tensor) -> Tensor:
        for i in range(1, len(self.layers)):
            x = self.layers[i](nn.functional.leaky_relu(x, inplace=True))
        return x


class StackedTransformer(nn.Module):
    """Post-norm transformer encoder for every seed (PyTorch's TransformerEncoderLayer, ReLU)."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        n_tokens: int,
        n_positions: int,
        n_out: int,
        *,
        width: int = 64,
        n_heads: int = 8,
        feed_forward: int = 64,
        n_layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        n_seeds = len(generators)
        self.n_heads, self.dropout, self.n_layers = n_heads, dropout, n_layers
        embedding = [torch.randn(n_tokens, width, generator=g) for g in generators]
        self.embedding = nn.Parameter(torch.stack(embedding))  # [S, tokens, width]
        self.qkv = nn.ModuleList()
        self.out = nn.ModuleList()
        self.up = nn.ModuleList()
        self.down = nn.ModuleList()
        for _ in range(n_layers):
            self.qkv.append(StackedLinear(generators, width, 3 * width))
            self.out.append(StackedLinear(generators, width, width))
            self.up.append(StackedLinear(generators, width, feed_forward))
            self.down.append(StackedLinear(generators, feed_forward, width))
        self.norm_scale = nn.Parameter(torch.ones(n_seeds, 1, 2 * n_layers, width))
        self.norm_shift = nn.Parameter(torch.zeros(n_seeds, 1, 2 * n_layers, width))
        self.head = StackedLinear(generators, width, n_out)
        place = torch.arange(n_positions).unsqueeze(1)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        positions = torch.zeros(n_positions, width)
        positions[:, 0::2] = torch.sin(place * rate)
        positions[:, 1::2] = torch.cos(place * rate)
        self.positions: Tensor
        self.register_buffer("positions", positions)

    def _norm(self, x: Tensor, which: int) -> Tensor:
        normed = nn.functional.layer_norm(x, x.shape[-1:])
        return normed * self.norm_scale[:, :, which] + self.norm_shift[:, :, which]

    def forward(self, tokens: Tensor) -> Tensor:
        """[S, B, P] token numbers -> [S, B, P, out]."""
        n_seeds, batch, length = tokens.shape
        drop = self.dropout if self.training else 0.0
        flat = tokens.reshape(n_seeds, -1)
        rows = torch.arange(n_seeds, device=tokens.device).unsqueeze(-1)
        x = self.embedding[rows, flat].view(n_seeds, batch, length, -1) + self.positions[:length]
        x = nn.functional.dropout(x, drop).view(n_seeds, batch * length, -1)
        for i in range(self.n_layers):
            qkv = self.qkv[i](x).view(n_seeds * batch, length, 3, self.n_heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=drop)
            mixed = mixed.transpose(1, 2).reshape(n_seeds, batch * length, -1)
            x = self._norm(x + nn.functional.dropout(self.out[i](mixed), drop), 2 * i)
            hidden = nn.functional.dropout(torch.relu(self.up[i](x)), drop)
            x = self._norm(x + nn.functional.dropout(self.down[i](hidden), drop), 2 * i + 1)
        return self.head(x).view(n_seeds, batch, length, -1)


def adam_with_log_Z(
    net: nn.Module,
    log_Z: nn.Parameter | None,
    *,
    lr: float,
    lr_log_Z: float,
    weight_decay: float = 0.0,
) -> tuple[torch.optim.Adam, list[Tensor]]:
    """Adam on a network and, if there is one, on log Z at its own rate; and their parameters."""
    groups: list[dict[str, Any]] = [{"params": list(net.parameters())}]
    if log_Z is not None:
        groups.append({"params": [log_Z], "lr": lr_log_Z})
    parameters = [p for group in groups for p in group["params"]]
    return adam(groups, weight_decay=weight_decay, lr=lr), parameters
