"""Exponential moving averages of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def follow(slow: Iterable[Tensor], fast: Iterable[Tensor], rate: float) -> None:
    """slow <- (1 - rate) slow + rate fast, tensor by tensor, in one kernel where there is one.

    What moves an average, a target network or a teacher.
    """
    torch._foreach_lerp_(list(slow), [f.detach() for f in fast], rate)


class Ema:
    """theta_ema <- m theta_ema + (1 - m) theta, once per ``update``.

    With ``warm_up`` the n-th update (n = 0, 1, ...) uses m_n = min(m, (1 + n) / (10 + n)), so that
    the average forgets the initialisation; without it m_n = m.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float, warm_up: bool = True) -> None:
        self.parameters = list(parameters)
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay, self.warm_up, self.updates = decay, warm_up, 0

    def update(self) -> None:
        """Moves the averages towards the parameters as they are now."""
        m = self.decay
        if self.warm_up:
            m = min(m, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        follow(self.averages, self.parameters, 1 - m)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the parameters hold the averages; afterwards what they held before."""
        kept = [p.detach().clone() for p in self.parameters]
        self._fill(self.averages)
        try:
            yield
        finally:
            self._fill(kept)

    def _fill(self, values: Iterable[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"averages": list(self.averages), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        self.updates = int(state["updates"])
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.copy_(value)
