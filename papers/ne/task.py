"""Noisy observations of a curve: normal noise, and noise with heavy tails of the same scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.stacked import rand, randn

TASKS = ("normal", "student")
NOISE = 0.3


def curve(x: Tensor) -> Tensor:
    """The true curve at x. [...] -> [...]."""
    return torch.sin(4 * x)


def observe(task: str, generators: Sequence[torch.Generator], n: int) -> tuple[Tensor, Tensor]:
    """``n`` observations per seed: x and y, [S, n, 1] each.

    Student's t with one degree of freedom is a ratio of two normal draws.
    """
    x = 2 * rand(generators, n, 1) - 1
    noise = randn(generators, n, 1)
    if task == "student":
        noise = noise / randn(generators, n, 1).abs().clamp(min=1e-3)
    return x, curve(x) + NOISE * noise
