"""Random numbers as a pure function of a key and a counter: SplitMix64, for compiled loops.

What does not depend on the order of the draws need not be stored: all methods of a seed meet the
same losses, arrivals or actions whatever they do in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.jit import jit_of

SOURCE = Path(__file__)  # for ``jit_of`` of those whose loops compile these functions in
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # increment of SplitMix64: 2^64 over the golden ratio

jit = jit_of(SOURCE)


@jit
def mix64(z: Any) -> Any:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014) on a uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def uniform(key: Any, counter: Any) -> Any:
    """The ``counter``-th (from 0) uniform of stream ``key``, in (0, 1): 52 bits, and a half."""
    z = mix64(np.uint64(key) + (np.uint64(counter) + np.uint64(1)) * GOLDEN)
    return (np.float64(z >> np.uint64(12)) + 0.5) * 2.0**-52
