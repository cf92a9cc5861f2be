"""A point that is pushed towards the middle: the environment and data of every control task."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from common.control.episodes import Episode


class Point:
    """The state moves by the first action; paid for being near 0. Ends beyond 3."""

    def __init__(self, parts: tuple[str, ...] = ()) -> None:
        self.parts = parts
        self.action_space = Box(-0.5, 0.5, (2,), np.float32)
        self.at = np.zeros(3)

    def _seen(self) -> Any:
        if not self.parts:
            return self.at.copy()
        return {part: self.at[i : i + 2].copy() for i, part in enumerate(self.parts)}

    def reset(self, seed: int) -> tuple[Any, dict[str, Any]]:
        self.at = np.random.default_rng(seed).uniform(-1, 1, 3)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at = self.at + np.array([action[0], action[1], 0.0])
        outside = bool(abs(self.at[0]) > 3)
        return self._seen(), -float(abs(self.at[0])), outside, False, {}


def episodes(width: int = 3, count: int = 6, steps: int = 9) -> list[Episode]:
    """Episodes of random actions."""
    found = []
    for k in range(count):
        rng = np.random.default_rng(k)
        last = np.arange(steps) == steps - 1
        found.append(
            Episode(
                rng.normal(size=(steps + 1, width)).astype(np.float32),
                rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
                rng.normal(size=steps).astype(np.float32),
                last & (k % 2 == 0),
                last & (k % 2 == 1),
            )
        )
    return found
