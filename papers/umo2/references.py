"""What a scheduler that knew the means could do: linear programs over the phases' capacities.

They give the rates that a network can carry, the best fixed allocation, and the utilities that
UMO² is measured against.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from papers.umo2.task import UTILITY_CYCLES, Network, net_a, utility_weight

Vector = NDArray[np.float64]
GRID = 80  # rates of the first arrival in [0, 1] where its frontier is computed
TIMES = 1_000  # points of a period of the weights


class Flows(NamedTuple):
    """Constraints of the programs: variables are allocations a of each kind of phase, flattened."""

    inflow: NDArray[np.float64]  # [queues, n]: average inflow - outflow of the queues that matter
    each: NDArray[np.float64]  # [queues, A]: arrivals at unit rate, source by source
    groups: NDArray[np.float64]  # [rows, n]: what a group allocates, at most 1

    @property
    def arrivals(self) -> Vector:
        """[queues] arrivals at unit rate from all sources."""
        return self.each.sum(axis=1)


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
    each = np.zeros((n_queues, len(net.arrival)))
    each[net.arrival, np.arange(len(net.arrival))] = net.scale
    matter = np.zeros(n_queues, bool)
    matter[net.source] = matter[net.arrival] = True
    matter &= ~net.delivered
    sizes = np.diff(net.starts)
    member = np.repeat(np.eye(len(sizes)), sizes, axis=1)  # [groups, E]
    return Flows(
        inflow=np.hstack([one[matter] * row for row in weights]),
        each=each[matter],
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


# -- utilities ------------------------------------------------------------------------------------


def best_utility(first: Vector, second: Vector) -> float:
    """Average over the period of the largest g_t on a frontier of rates.

    A concave problem in one variable for each slot.

    Args:
        first: [n] rates of the first arrival, increasing.
        second: [n] the largest rate of the second at each; linear in between.
    """
    fine = np.linspace(first[0], first[-1], 1_001)
    period = TIMES * UTILITY_CYCLES
    w = np.array([utility_weight(t, period, 0) for t in range(1, TIMES + 1)])[:, None]
    g = w * np.log1p(3 * fine) + (1 - w) * np.log1p(3 * np.interp(fine, first, second))
    return float(g.max(axis=1).mean())


@lru_cache
def reference_utility() -> float:
    """The best utility on Net-A over windows of any length: max g_t, lambda_0 + lambda_1 <= 1.

    The radio of node 0 is the bottleneck: the good one of its links has capacity 1 in all phases.
    Relays are overloaded within a phase and recover in the next, so that queues are as long as a
    phase: no reference of the theorem's where phases grow with T.
    """
    return best_utility(np.array([0.0, 1.0]), np.array([1.0, 0.0]))


@lru_cache
def phase_utility() -> float:
    """The best utility on Net-A that is carried within every phase, blind to the slot's capacities.

    It keeps the theorem's condition on windows whatever T is.
    """
    net = net_a(0.0, 0.4, 1_000)
    kinds = [net._replace(level=net.level[kind : kind + 1]) for kind in range(len(net.level))]
    return float(np.mean([best_utility(*frontier(kind)) for kind in kinds]))


def frontier(net: Network) -> tuple[Vector, Vector]:
    """Rates of the first arrival that can be carried, and the largest of the second at each."""
    f = flows(net, adaptive=False)
    n = f.inflow.shape[1]
    A = np.block([[f.inflow, f.each[:, 1:]], [f.groups, np.zeros((len(f.groups), 1))]])
    points = []
    for rate in np.arange(GRID + 1) / GRID:
        b = np.concatenate([-f.each[:, 0] * rate, np.ones(len(f.groups))])
        try:
            most = solve(np.append(np.zeros(n), -1.0), A, b, np.zeros(n + 1))[-1]
        except ValueError:  # the first alone is too much
            break
        points.append((rate, min(most, 1.0)))
    first, second = np.array(points).T
    return first, second
