"""What the method is compared with, in the same signature."""

from __future__ import annotations

from torch import Tensor


def squared(residual: Tensor) -> Tensor:
    """Half the square of each residual. [...] -> [...]."""
    return residual.square() / 2
