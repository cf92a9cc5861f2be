"""Two-dimensional data sets that several papers share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def checkerboard(rng: np.random.Generator, n: int, scale: float = 3.0) -> NDArray[np.float64]:
    """The checkerboard: x1 ~ U(-2, 2), x2 = U(0, 1) - 2 Bernoulli(1/2) + (floor(x1) mod 2). [n, 2].

    Both coordinates are multiplied by ``scale``.
    """
    x1 = rng.uniform(-2, 2, n)
    x2 = rng.uniform(0, 1, n) - 2 * rng.integers(0, 2, n) + np.floor(x1) % 2
    return scale * np.stack([x1, x2], axis=1)
