"""A task from pixels that needs no OpenGL."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Moving:
    """A bright square that the action moves sideways; paid for being on the right."""

    action_dim, length = 2, 7

    def __init__(self, seed: int, size: int) -> None:
        self.size, self.at = size, seed % size

    def _frame(self) -> NDArray[np.uint8]:
        frame = np.zeros((3, self.size, self.size), np.uint8)
        frame[:, 4:12, max(0, int(self.at) - 4) : int(self.at) + 4] = 255
        return frame

    def reset(self) -> NDArray[np.uint8]:
        return self._frame()

    def step(self, action: NDArray) -> tuple[NDArray[np.uint8], float]:
        self.at = float(np.clip(self.at + 3 * action[0], 0, self.size - 1))
        return self._frame(), self.at / self.size
