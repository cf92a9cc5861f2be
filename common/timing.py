"""How long alternatives take, measured side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

Sides = Mapping[str, Callable[[], object]]


def alternately(sides: Sides, repeats: int) -> dict[str, float]:
    """Milliseconds of CPU time of each side: medians over repeats in which all take their turn.

    Turns are interleaved, so that a machine that slows down slows all; each side is called once
    before, and that call does not count.

    Args:
        sides: what is called, by name.
        repeats: how often.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for call in sides.values():
        call()
    for _ in range(repeats):
        for side, call in sides.items():
            began = time.process_time()
            call()
            seconds[side].append(time.process_time() - began)
    return {side: 1e3 * median(values) for side, values in seconds.items()}


__all__ = ["Sides", "alternately"]
