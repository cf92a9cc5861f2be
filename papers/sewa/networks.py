"""The networks whose snapshots are averaged: a policy, residual networks, an encoder of text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def policy(observed: int, actions: int, width: int = 128, layers: int = 3) -> nn.Module:
    """Observations -> actions in [-1, 1]: ReLU layers with dropout .1, tanh at the end."""
    parts: list[nn.Module] = []
    for size in [observed, *[width] * (layers - 1)]:
        parts += [nn.Linear(size, width), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*parts, nn.Linear(width, actions), nn.Tanh())


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(outside)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] -> [B, outside, H', W']."""
        y = F.relu(self.norm(self.first(x)))
        return F.relu(self.norm_2(self.second(y)) + self.shortcut(x))


def resnet(channels: int, widths: Sequence[int], classes: int, halved: Sequence[int]) -> nn.Module:
    """Images -> logits: a convolution, a block for each further width, mean over pixels.

    Args:
        channels: of the images.
        widths: of the convolution and of each block.
        halved: numbers of the blocks (from 0) that halve the image.
    """
    first = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
    parts: list[nn.Module] = [first, nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for i in range(len(widths) - 1):
        parts.append(Block(widths[i], widths[i + 1], 2 if i in halved else 1))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(widths[-1], classes))  # fmt: skip


class Encoder(nn.Module):
    """Tokens -> logits: a transformer encoder, classes from what stands at the first place.

    Number 0 is padding, and nobody attends to it.
    """

    def __init__(
        self, vocabulary: int, length: int, classes: int, width: int, layers: int, heads: int,
        hidden: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(length + 1, width))
        self.first = nn.Parameter(0.02 * torch.randn(width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, classes]."""
        first = self.first.expand(len(ids), 1, -1)
        x = torch.cat([first, self.tokens(ids)], 1) + self.places[: ids.shape[1] + 1]
        hidden = F.pad(ids == 0, (1, 0), value=False)
        found: Tensor = self.head(self.layers(x, src_key_padding_mask=hidden)[:, 0])
        return found


__all__ = ["Encoder", "policy", "resnet"]
