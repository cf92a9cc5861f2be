"""scikit-learn's digits (1,797 images of 8 x 8 pixels with 17 grey levels) for density models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIM = 64
LEVELS = 17
N_TRAIN, N_VALID = 1197, 300


@dataclass(frozen=True)
class Split:
    """Images as integers 0..16 and their classes."""

    x: NDArray[np.int64]  # [N, 64]
    y: NDArray[np.int64]  # [N]


def splits() -> dict[str, Split]:
    """ "train" (1,197 images), "valid" (300) and "test" (300): one fixed random split."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.split(order, [N_TRAIN, N_TRAIN + N_VALID])
    return {
        name: Split(x[rows].astype(np.int64), y[rows].astype(np.int64))
        for name, rows in zip(("train", "valid", "test"), parts, strict=True)
    }


def dequantise(
    x: NDArray[np.int64], rng: np.random.Generator, n_levels: int = LEVELS
) -> NDArray[np.float64]:
    """(x + U[0, 1)) / n_levels, in [0, 1)."""
    return (x + rng.random(x.shape)) / n_levels


def bits_per_dim(nll: float, dim: int = DIM, n_levels: int = LEVELS) -> float:
    """Negative log-likelihood in nats of data scaled by 1 / n_levels -> bits per dimension.

    Of the integers with bins of width 1: nll / (dim ln 2) + log2(n_levels).
    """
    return nll / (dim * math.log(2)) + math.log2(n_levels)
