"""From episodes to training windows, and the scales of observations and actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def window_indices(
    length: int, obs_frames: int, horizon: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which observations and actions the windows of one episode hold; one window per step.

    Window t sees observations t - obs_frames + 1 … t (the first one repeated before the start) and
    predicts actions t … t + horizon - 1 (the last one repeated past the end).

    Returns:
        Indices [length, obs_frames] into the observations, [length, horizon] into the actions.
    """
    steps = np.arange(length)[:, None]
    frames = np.maximum(steps + np.arange(1 - obs_frames, 1), 0)
    actions = np.minimum(steps + np.arange(horizon), length - 1)
    return frames, actions


def windows(
    observations: Sequence[Floats], actions: Sequence[Floats], obs_frames: int, horizon: int
) -> tuple[Floats, Floats]:
    """Windows of several episodes, none across a border between two.

    Args:
        observations: per episode [T + 1, ...] (or [T, ...]).
        actions: per episode [T, d].

    Returns:
        Observations [N, obs_frames, ...] and action chunks [N, horizon, d], N = sum of the T.
    """
    seen, chunks = [], []
    for obs, act in zip(observations, actions, strict=True):
        frames, future = window_indices(len(act), obs_frames, horizon)
        seen.append(obs[frames])
        chunks.append(act[future])
    return np.concatenate(seen), np.concatenate(chunks)


@dataclass(frozen=True)
class Standardizer:
    """Per-dimension (x - mean) / max(std, floor): constant dimensions map to 0."""

    mean: Floats  # [d]
    std: Floats  # [d], not below the floor

    @classmethod
    def fit(cls, values: Floats, floor: float = 1e-3) -> Standardizer:
        """Statistics over all but the last axis of ``values`` [..., d]."""
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        std = np.maximum(flat.std(0), floor)
        return cls(flat.mean(0).astype(np.float32), std.astype(np.float32))

    def __call__(self, values: Floats) -> Floats:
        """Standardise ``values`` [..., d]."""
        return ((values - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class MinMax:
    """Per-dimension map of [low, high] to [-1, 1]; a fixed dimension maps to 0 and back."""

    low: Floats  # [d]
    high: Floats  # [d]

    @classmethod
    def fit(cls, values: Floats) -> MinMax:
        """Limits over all but the last axis of ``values`` [..., d]."""
        flat = values.reshape(-1, values.shape[-1])
        return cls(flat.min(0).astype(np.float32), flat.max(0).astype(np.float32))

    @property
    def _half_range(self) -> Floats:
        return ((self.high - self.low) / 2).astype(np.float32)

    def __call__(self, values: Floats) -> Floats:
        """Normalise ``values`` [..., d]."""
        half = self._half_range
        safe = np.where(half > 1e-6, half, 1.0)
        scaled = (values - (self.low + self.high) / 2) / safe
        return np.where(half > 1e-6, scaled, 0.0).astype(np.float32)

    def inverse(self, values: Floats) -> Floats:
        """Back from [-1, 1]; values outside are clipped first."""
        inside = np.clip(values, -1.0, 1.0)
        return (inside * self._half_range + (self.low + self.high) / 2).astype(np.float32)
