"""What NSO and UMO² are compared with, and the table of all policies.

A policy is a rule for the links and, in the utility task, a rule for the arrivals. Max-weight rules
(backpressure) activate one entry of a group and observe its capacity alone. † is told what a
scheduler cannot know: the capacities of the slot, their means over the horizon, or the utility.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from papers.umo2.task import Network, jit

Vector = NDArray[np.float64]

# rules for the links
NSO, CURRENT, LAST, MEAN, UCB, WINDOW, FIXED, OGD = range(8)
# rules for the arrivals
EXOGENOUS, ADABGD, CONSTANT_BGD, DRIFT_PLUS_PENALTY, STATIC = range(5)


class Policy(NamedTuple):
    """A policy of the tables."""

    label: str
    links: int  # a rule for the links
    arrivals: int = EXOGENOUS  # a rule for the arrivals
    activated: bool = False  # one entry of a group is served, drawn from the allocation
    rate: float = 0.0  # of STATIC arrivals
    copies: int = 1  # of AdaBGD
    fixed: str = ""  # of FIXED: "uniform" or "lp"


METHODS = {
    "nso": Policy("NSO", NSO),
    "nso_activated": Policy("NSO, one entry activated", NSO, activated=True),
    "ogd": Policy("OGD, one step-size", OGD),
    "window": Policy("backpressure, sliding-window UCB", WINDOW),
    "ucb": Policy("backpressure, UCB", UCB),
    "mean": Policy("backpressure, empirical mean", MEAN),
    "last": Policy("backpressure, last seen", LAST),
    "uniform": Policy("uniform allocation", FIXED, fixed="uniform"),
    "fixed": Policy("best fixed allocation†", FIXED, fixed="lp"),
    "current": Policy("backpressure, current capacities†", CURRENT),
}
UTILITY_METHODS = {
    "umo2": Policy("UMO²", NSO, ADABGD),
    "umo2_dynamic": Policy("UMO², 4 copies", NSO, ADABGD, copies=4),
    "umo2_activated": Policy("UMO², one entry activated", NSO, ADABGD, activated=True),
    "bgd": Policy("one-point BGD, constants", NSO, CONSTANT_BGD),
    "static30": Policy("static λ = 0.3", NSO, STATIC, rate=0.3),
    "static55": Policy("static λ = 0.55", NSO, STATIC, rate=0.55),
    "dpp_nso": Policy("drift-plus-penalty, known g†", NSO, DRIFT_PLUS_PENALTY),
    "dpp": Policy("drift-plus-penalty, known g and C†", CURRENT, DRIFT_PLUS_PENALTY),
}
ALL = {**METHODS, **UTILITY_METHODS}


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


# -- linear programs -----------------------------------------------------------------------------


class Flows(NamedTuple):
    """Constraints of the programs: variables are allocations a of each kind of phase, flattened."""

    inflow: NDArray[np.float64]  # [queues, n]: average inflow - outflow of the queues that matter
    arrivals: Vector  # [queues] arrivals at unit rate
    groups: NDArray[np.float64]  # [rows, n]: what a group allocates, at most 1


def flows(net: Network, *, adaptive: bool) -> Flows:
    """Average flows when kinds of phases are equally frequent and the sinusoid averages out.

    Args:
        net: the network.
        adaptive: an allocation for each kind of phase, else one for all.
    """
    capacities = net.scale * net.level[:, net.draw]  # [types, E]
    types, n_entries = capacities.shape
    weights = capacities / types if adaptive else capacities.mean(axis=0, keepdims=True)
    n_queues = len(net.delivered)
    one = np.zeros((n_queues, n_entries))
    np.add.at(one, (net.sink, np.arange(n_entries)), 1.0)
    np.add.at(one, (net.source, np.arange(n_entries)), -1.0)
    arrivals = np.zeros(n_queues)
    np.add.at(arrivals, net.arrival, net.scale)
    matter = np.zeros(n_queues, bool)
    matter[net.source] = matter[net.arrival] = True
    matter &= ~net.delivered
    sizes = np.diff(net.starts)
    member = np.repeat(np.eye(len(sizes)), sizes, axis=1)  # [groups, E]
    return Flows(
        inflow=np.hstack([one[matter] * row for row in weights]),
        arrivals=arrivals[matter],
        groups=np.kron(np.eye(len(weights)), member),
    )


def solve(objective: Vector, A: NDArray[np.float64], b: Vector, lower: Vector) -> Vector:
    """argmin <objective, v> subject to A v <= b and v >= lower.

    Raises:
        ValueError: if the program has no solution.
    """
    found = linprog(objective, A_ub=A, b_ub=b, bounds=[(v, None) for v in lower], method="highs")
    if not found.success:
        raise ValueError(f"the linear program failed: {found.message}")
    return np.asarray(found.x)


def largest_rate(net: Network, *, adaptive: bool) -> float:
    """Largest rate of arrivals at each source that policies blind to C(t) can carry.

    With one allocation for all times, or (``adaptive``) one for each kind of phase.
    """
    f = flows(net, adaptive=adaptive)
    n = f.inflow.shape[1]
    A = np.block([[f.inflow, f.arrivals[:, None]], [f.groups, np.zeros((len(f.groups), 1))]])
    b = np.concatenate([np.zeros(len(f.inflow)), np.ones(len(f.groups))])
    return float(solve(np.append(np.zeros(n), -1.0), A, b, np.zeros(n + 1))[-1])


def fixed_allocation(net: Network, kind: str) -> Vector:
    """Allocation [E] that never changes: "uniform" is 1/d in each group, "lp" the best there is.

    The best has the least total growth of the queues, sum_q [net inflow_q]_+ on average; among
    those (a stable network has many) the largest drift of the worst queue.
    """
    sizes = np.diff(net.starts)
    if kind == "uniform":
        return np.repeat(1.0 / sizes, sizes)
    f = flows(net, adaptive=False)
    (m, n), k = f.inflow.shape, len(f.groups)
    # variables: a [n], growth [m] >= 0, drift >= 0; inflow a + rate + drift <= growth
    A = np.block(
        [
            [f.inflow, -np.eye(m), np.ones((m, 1))],
            [f.groups, np.zeros((k, m + 1))],
        ]
    )
    b = np.concatenate([-f.arrivals * net.rate[0], np.ones(k)])
    objective = np.concatenate([np.zeros(n), np.ones(m), [-1e-3]])
    lower = np.zeros(n + m + 1)
    return np.maximum(solve(objective, A, b, lower)[:n], 0.0)
