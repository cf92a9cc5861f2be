"""What NSO and UMO² are compared with: rules for the links and for the arrivals.

Max-weight rules (backpressure) activate one entry of a group and observe its capacity alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from papers.umo2.methods import LAST, MEAN, WINDOW
from papers.umo2.task import jit

Vector = NDArray[np.float64]


# -- rules for the links --------------------------------------------------------------------------


@jit
def max_weight(estimate: Vector, gain: Vector, a: Vector) -> int:
    """a [d] = one unit where estimate * (Q_n - Q_m) is largest; idle if it is nowhere positive.

    Args:
        estimate: [d] capacities; infinite where nothing was tried.
        gain: [d] Q_n - Q_m.

    Returns:
        The entry, or -1.
    """
    best, chosen = 0.0, -1
    for i in range(a.size):
        a[i] = 0.0
        if gain[i] > 0.0 and estimate[i] * gain[i] > best:
            best, chosen = estimate[i] * gain[i], i
    if chosen >= 0:
        a[chosen] = 1.0
    return chosen


@jit
def estimate_capacity(
    rule: int, t: int, tried: float, total: float, last: float, window: Vector, scale: float
) -> float:
    """What a max-weight rule believes of an entry's capacity, from the slots that activated it.

    Args:
        rule: LAST, MEAN, UCB or WINDOW.
        t: slot, from 1.
        tried: how often the entry was activated.
        total: sum of the capacities seen: all of them, or of the last W for WINDOW.
        last: the capacity seen last.
        window: [W] the capacities seen last; only its length is read.
        scale: largest capacity.
    """
    if tried == 0.0:
        return scale if rule in (LAST, MEAN) else math.inf
    if rule == LAST:
        return last
    if rule == MEAN:
        return total / tried
    n = min(tried, float(window.size)) if rule == WINDOW else tried
    return total / n + scale * math.sqrt(0.5 * math.log(t) / n)


@jit
def remember(
    rule: int, C: float, e: int, tried: Vector, total: Vector, last: Vector, window: Vector
) -> None:
    """Keep the capacity that entry e showed when it was activated."""
    if rule == WINDOW:
        place = int(tried[e]) % window.shape[1]
        total[e] += C - window[e, place]  # zero before the window is full
        window[e, place] = C
    else:
        total[e] += C
    tried[e] += 1.0
    last[e] = C


# -- rules for the arrivals -----------------------------------------------------------------------


@jit
def drift_plus_penalty(V: float, w: float, Q: float) -> float:
    """argmax over [0, 1] of V w log(1 + 3 lambda) - Q lambda, with the utility known."""
    return min(max(V * w / Q - 1.0 / 3.0, 0.0), 1.0) if Q > 0.0 else 1.0


def constant_bgd(horizon: int, V: float, d: int, G: float) -> tuple[float, float]:
    """Radius and step of one-point gradient descent with the horizon known (Flaxman et al. 2005).

    radius = T^(-1/4) / 2 in [0, 1]^d, step = D radius / (d V G sqrt(T)): tuned for losses of size
    V G, blind to the queues.
    """
    delta = 0.5 * horizon**-0.25
    return delta, math.sqrt(d) * delta / (d * V * G * math.sqrt(horizon))
