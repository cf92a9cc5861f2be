"""The data: images as integers, points in the plane with their exact density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.digits import LEVELS, splits
from common.image_sets import image_set
from common.toy_data import checkerboard
from papers.ebflow.layers import Shape

# --------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Images:
    """Images as integers 0 .. levels - 1, flattened in the order (channel, row, column)."""

    train: Tensor  # [N, D], uint8
    valid: Tensor
    test: Tensor
    shape: Shape
    levels: int

    @property
    def dim(self) -> int:
        """D."""
        return math.prod(self.shape)


def images(name: str) -> Images:
    """ "digits" (1197/300/300), "mnist" (50k/10k/10k) or "cifar10" (40k/10k/10k).

    Raises:
        UserError: if the data are not there and cannot be fetched.
    """
    if name == "digits":
        parts = [torch.from_numpy(s.x.astype(np.uint8)) for s in splits().values()]
        return Images(*parts, shape=(1, 8, 8), levels=LEVELS)
    train, test = (image_set(name, split)[0] for split in ("train", "test"))
    n_valid = 10_000 if len(train) > 20_000 else len(train) // 5  # (tests bring tiny files)
    order = np.random.default_rng(0).permutation(len(train))
    train = train[order]
    shape: Shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    parts = [torch.from_numpy(x.copy()) for x in (train[:-n_valid], train[-n_valid:], test)]
    return Images(*parts, shape=shape, levels=256)


def flip_and_shift(x: Tensor, shape: Shape, draws: Tensor, reach: int = 3) -> Tensor:
    """Each image mirrored with probability 1/2 and shifted by up to ``reach`` pixels, edges kept.

    Args:
        x: [S, B, D].
        shape: channels, height, width.
        draws: uniform in [0, 1). [S, B, 3]
    """
    C, H, W = shape
    image = x.unflatten(-1, shape)
    flip = (draws[..., 0] < 0.5).view(*x.shape[:2], 1, 1, 1)
    image = torch.where(flip, image.flip(-1), image)
    shift = (draws[..., 1:] * (2 * reach + 1)).long() - reach  # [S, B, 2]
    rows = (torch.arange(H, device=x.device) + shift[..., :1]).clamp(0, H - 1)  # [S, B, H]
    columns = (torch.arange(W, device=x.device) + shift[..., 1:]).clamp(0, W - 1)
    places = rows[..., :, None] * W + columns[..., None, :]  # [S, B, H, W]
    places = places.flatten(2).unsqueeze(2).expand(-1, -1, C, -1)
    return image.flatten(3).gather(3, places).flatten(2)


# --------------------------------------------------------------------------- points

SCALES = {"sine": 4.0, "swirl": 2.5 / 3, "checkerboard": 3.0}  # r
FRESH = 5_000  # points on which divergences are measured
GRID = 64  # points per side of the densities in the figure
EXTENTS = {"sine": (10.0, 8.0), "swirl": (10.0, 10.0), "checkerboard": (8.0, 8.0)}  # of figures


def points(name: str, seed: int, n: int) -> Tensor:
    """Clean points; every loss's target is their density smoothed by N(0, sigma^2). [n, 2]."""
    rng = np.random.default_rng([seed, list(SCALES).index(name)])
    r = SCALES[name]
    if name == "sine":  # x ~ U(-2, 2), y = sin 3x + N(0, 1/16)
        x = rng.uniform(-2, 2, n)
        xy = np.stack([x, np.sin(3 * x) + 0.25 * rng.standard_normal(n)], 1)
    elif name == "swirl":  # angle 3 pi sqrt(U), each coordinate less U / 2
        angle = 3 * np.pi * np.sqrt(rng.random(n))
        xy = _spiral(angle) - 0.5 * rng.random((n, 2))
    else:
        return torch.from_numpy(checkerboard(rng, n, r)).float()
    return torch.from_numpy(r * xy).float()


def _spiral(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([angle * np.cos(angle) + 1, -angle * np.sin(angle) + 2], 1)


@dataclass(frozen=True)
class SmoothedDensity:
    """The exact density of smoothed points: quadrature makes it a mixture of Gaussians.

    One dimension of each data set is an integral without closed form; the nodes of the quadrature
    rule are the centres, its weights those of the mixture (errors below 1e-6 nats, tested).
    """

    centres: Tensor  # [K, 2], float64
    log_weights: Tensor  # [K]
    std: Tensor  # [2], of both coordinates

    def log_prob_and_score(self, x: Tensor, entries: int = 4_000_000) -> tuple[Tensor, Tensor]:
        """log p_sigma(x) and its gradient, by log-sum-exp, in float64. [N], [N, 2]."""
        centres = self.centres / self.std
        offset = self.log_weights - 0.5 * centres.square().sum(-1)
        constant = math.log(2 * math.pi) + self.std.log().sum()
        log_p, score = [], []
        for chunk in (x.double() / self.std).split(max(1, entries // len(centres))):
            logits = chunk @ centres.T + offset
            log_p.append(torch.logsumexp(logits, -1) - 0.5 * chunk.square().sum(-1) - constant)
            score.append((torch.softmax(logits, -1) @ centres - chunk) / self.std)
        return torch.cat(log_p), torch.cat(score)


def smoothed_density(name: str, sigma: float) -> SmoothedDensity:
    """p_sigma of ``points(name)``."""
    r = SCALES[name]
    std = np.array([sigma, sigma])
    if name == "sine":
        x, w = _midpoints(-2, 2, 1_000)
        centres = np.stack([x, np.sin(3 * x)], 1)
        std[1] = math.hypot(sigma, 0.25 * r)
    elif name == "swirl":
        # angle 3 pi sqrt(U) has density proportional to the angle
        angle, w = _midpoints(0, 3 * np.pi, 600)
        centres, w = _jittered(_spiral(angle), w * angle, -0.5, 0.0, 4)
    else:
        column, row = np.meshgrid(np.arange(-2, 2), np.arange(2), indexing="ij")
        corners = np.stack([column, column % 2 - 2 * row], -1).reshape(-1, 2)
        centres, w = _jittered(corners, np.ones(len(corners)), 0.0, 1.0, 24)
    log_weights = torch.from_numpy(np.log(w / w.sum()))
    return SmoothedDensity(torch.from_numpy(r * centres), log_weights, torch.from_numpy(std))


def _midpoints(low: float, high: float, n: int) -> tuple[NDArray, NDArray]:
    return low + (high - low) * (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def _jittered(
    centres: NDArray, weights: NDArray, low: float, high: float, n: int
) -> tuple[NDArray, NDArray]:
    """Centres plus a uniform in [low, high)^2, by n x n Gauss-Legendre nodes."""
    nodes, w = np.polynomial.legendre.leggauss(n)
    nodes = low + (high - low) * (nodes + 1) / 2
    offsets = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    moved = centres[:, None] + offsets
    return moved.reshape(-1, 2), (weights[:, None] * np.outer(w, w).ravel()).ravel()


def epoch_order(seeds: Sequence[int], epoch: int, n: int) -> Tensor:
    """The order of the training data in an epoch, a function of (seed, epoch) alone. [S, n]."""
    orders = [np.random.default_rng([seed, epoch, 17]).permutation(n) for seed in seeds]
    return torch.from_numpy(np.stack(orders))
