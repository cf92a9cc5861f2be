"""Multi-hop queueing networks whose link capacities an oblivious adversary sets: what is true.

A network has nodes, links and commodities. An *entry* is a pair (link, commodity); the entries are
partitioned into *resource groups* g, in each of which the scheduler splits one unit of a resource:
a >= 0, sum over g of a <= 1. Served is mu = C a; queue (n, k) is ``n * n_commodities + k``.
Net-A: a group is a node (a radio that must pick a link). Net-B: a group is a link.

Random numbers are a pure function of (stream, seed, slot, index): SplitMix64 of a counter. Network,
exploration and activation have streams of their own, so that all policies of a seed meet the same
capacities and arrivals whatever they do.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.jit import jit_of
from common.random_bits import SOURCE as RANDOM_BITS
from common.random_bits import mix64
from common.random_bits import uniform as uniform_of

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

TASKS = ("net-a", "net-a-static", "net-b", "net-b-50", "utility")
RHOS = (0.30, 0.38, 0.42)  # arrival rate of each commodity of Net-A
KAPPAS = (0.4, 0.75)  # the capacities switch T^kappa times
WINDOWS = 200  # a run is measured in this many equal windows
MEASURED = ("slots", "queue", "utility", "arrivals")  # sums over the slots of a window
QUEUE, VALUE = MEASURED.index("queue"), MEASURED.index("utility")

UTILITY_BOUND = math.log(4.0)  # G: 0 <= g <= log 4 on [0, 1]^2
UTILITY_LIPSCHITZ = 3.0  # L, in the Euclidean norm
UTILITY_CYCLES = 6  # periods of the weights over the horizon

jit = jit_of(
    *(
        Path(__file__).with_name(f"{name}.py")
        for name in ("task", "methods", "method", "baselines", "simulate", "olo")
    ),
    RANDOM_BITS,
)


class Network(NamedTuple):
    """A network and its capacities over time; what the scheduler must not see ahead of time."""

    source: Index  # [E] queue that an entry takes from
    sink: Index  # [E] queue that it feeds
    draw: Index  # [E] which capacity it uses: commodities of a link share one on Net-A
    starts: Index  # [n_groups + 1] group g is entries starts[g] … starts[g + 1] - 1
    delivered: NDArray[np.bool_]  # [n_queues] queues of a commodity at its destination: always 0
    arrival: Index  # [A] queues that packets arrive at
    rate: Vector  # [A] probability of an arrival per slot (stability tasks)
    level: Vector  # [n_types, n_draws] mean capacity in phases p with p mod n_types = row
    wave: Vector  # [n_draws] relative amplitude of the sinusoid on top
    shift: Vector  # [n_draws] its offset, in periods
    cycles: float  # its periods over the horizon
    n_phases: int  # equal blocks of the horizon
    scale: float  # unit of capacities and arrivals
    horizon: int  # T, slots
    stream: int  # number of the network's stream of random numbers


# -- random numbers -------------------------------------------------------------------------------


@jit
def uniform(key: int, t: int, index: int) -> float:
    """The uniform of stream ``key`` at slot t and index < 65536, in (0, 1)."""
    return uniform_of(key, np.uint64(t) * np.uint64(65536) + np.uint64(index))


@jit
def stream_key(seed: int, stream: int, purpose: int) -> int:
    """Key of a stream; purposes: 0 capacities, 1 arrivals, 2 exploration, 3 activation."""
    key = mix64(mix64(mix64(np.uint64(seed) + np.uint64(1)) + np.uint64(stream)))
    return np.int64(mix64(key + np.uint64(purpose)) >> np.uint64(1))


@jit
def sphere(key: int, t: int, u: Vector) -> None:
    """A direction u [d], uniform on the unit sphere: normalised Gaussians by Box and Muller."""
    square = 0.0
    for i in range(u.size):
        radius = math.sqrt(-2.0 * math.log(uniform(key, t, 2 * i)))
        u[i] = radius * math.cos(2.0 * math.pi * uniform(key, t, 2 * i + 1))
        square += u[i] * u[i]
    for i in range(u.size):
        u[i] /= math.sqrt(square)


# -- what the adversary does ----------------------------------------------------------------------


@jit
def phase_kind(net: Network, t: int) -> int:
    """Row of ``level`` that holds in slot t (1 … T)."""
    return (t - 1) * net.n_phases // net.horizon % net.level.shape[0]


@jit
def mean_capacity(level: float, wave: float, periods: float) -> float:
    """Mean of a capacity, in units of ``scale``: that of the phase, with a sinusoid on top."""
    return level * (1.0 + wave * math.sin(2.0 * math.pi * periods)) if wave != 0.0 else level


@jit
def draw_capacities(net: Network, key: int, t: int, link: Vector, C: Vector) -> None:
    """C [E] of slot t: Bernoulli of the mean, one draw per link (or per entry on Net-B).

    ``link`` [n_draws] is room to work in.
    """
    kind = phase_kind(net, t)
    periods = net.cycles * t / net.horizon
    for c in range(link.size):
        mean = mean_capacity(net.level[kind, c], net.wave[c], periods + net.shift[c])
        link[c] = net.scale if uniform(key, t, c) < mean else 0.0
    for e in range(C.size):
        C[e] = link[net.draw[e]]


@jit
def draw_arrivals(net: Network, key: int, t: int, arrivals: Vector) -> None:
    """Exogenous arrivals [A] of slot t, Bernoulli."""
    for i in range(arrivals.size):
        arrivals[i] = net.scale if uniform(key, t, i) < net.rate[i] else 0.0


@jit
def utility_weight(t: int, horizon: int, k: int) -> float:
    """w_0 = 0.5 + 0.4 sin(12 pi t / T) for even commodities, 1 - w_0 for odd ones."""
    w = 0.5 + 0.4 * math.sin(2.0 * math.pi * UTILITY_CYCLES * t / horizon)
    return w if k % 2 == 0 else 1.0 - w


@jit
def utility(t: int, horizon: int, arrivals: Vector) -> float:
    """g_t(lambda) = sum_k w_k(t) log(1 + 3 lambda_k), divided by the number of pairs."""
    total = 0.0
    for i in range(arrivals.size):
        total += utility_weight(t, horizon, i) * math.log(1.0 + 3.0 * arrivals[i])
    return total * 2.0 / arrivals.size


@jit
def next_queues(net: Network, Q: Vector, arrivals: Vector, mu: Vector, inflow: Vector) -> None:
    """Q <- [Q + lambda + in - out]_+ in place; ``inflow`` [n_queues] is lambda + in - out.

    mu enters the next queue in full even when the sender held less (dummy packets), for all
    policies alike.
    """
    inflow[:] = 0.0
    for i in range(arrivals.size):
        inflow[net.arrival[i]] += arrivals[i]
    for e in range(mu.size):
        inflow[net.source[e]] -= mu[e]
        inflow[net.sink[e]] += mu[e]
    for q in range(Q.size):
        Q[q] = 0.0 if net.delivered[q] else max(Q[q] + inflow[q], 0.0)


# -- networks -------------------------------------------------------------------------------------


def network(
    *,
    entries: list[tuple[int, int, int, int, int]],
    destinations: list[int],
    n_nodes: int,
    arrivals: list[tuple[int, int]],
    rate: float,
    level: Vector,
    horizon: int,
    n_phases: int,
    wave: Vector | None = None,
    shift: Vector | None = None,
    cycles: float = 0.0,
    scale: float = 1.0,
    stream: int = 0,
) -> Network:
    """Complete a network from its entries (group, tail, head, commodity, draw), sorted by group."""
    n_k = len(destinations)
    group, tail, head, k, draw = np.array(entries, np.int64).T
    assert (np.diff(group) >= 0).all(), "entries of a group stand together"
    delivered = np.zeros(n_nodes * n_k, bool)
    delivered[[d * n_k + i for i, d in enumerate(destinations)]] = True
    n_draws = level.shape[1]
    return Network(
        source=tail * n_k + k,
        sink=head * n_k + k,
        draw=draw.copy(),  # contiguous, like the others: one compilation
        starts=np.append(np.flatnonzero(np.diff(group, prepend=-1)), len(group)).astype(np.int64),
        delivered=delivered,
        arrival=np.array([n * n_k + i for n, i in arrivals], np.int64),
        rate=np.full(len(arrivals), float(rate)),
        level=np.ascontiguousarray(level, float),
        wave=np.zeros(n_draws) if wave is None else wave,
        shift=np.zeros(n_draws) if shift is None else shift,
        cycles=float(cycles),
        n_phases=int(n_phases),
        scale=float(scale),
        horizon=int(horizon),
        stream=int(stream),
    )


def net_a(rho: float, kappa: float | None, horizon: int, scale: float = 1.0) -> Network:
    """Net-A: source 0, relays 1 and 2, destinations 3 and 4; one radio per node.

    Args:
        rho: arrival rate of each commodity at node 0.
        kappa: floor(T^kappa) equal phases; None: frozen in phase 0.
        horizon: T, slots.
        scale: unit of capacities and arrivals.
    """
    entries = [(0, 0, 1, 0, 0), (0, 0, 1, 1, 0), (0, 0, 2, 0, 1), (0, 0, 2, 1, 1)]
    entries += [(1, 1, 3, 0, 2), (1, 1, 4, 1, 3), (2, 2, 3, 0, 4), (2, 2, 4, 1, 5)]
    to_relays = {0: (1.0, 0.15), 1: (0.15, 1.0)}
    to_destinations = {0: (0.9, 0.5), 1: (0.5, 0.9)}
    types = range(1 if kappa is None else 4)
    level = [to_relays[p % 2] + 2 * to_destinations[p // 2] for p in types]
    return network(
        entries=entries,
        destinations=[3, 4],
        n_nodes=5,
        arrivals=[(0, 0), (0, 1)],
        rate=rho,
        level=np.array(level),
        horizon=horizon,
        n_phases=1 if kappa is None else int(horizon**kappa + 1e-9),
        scale=scale,
    )


def geometric_dag(
    n_nodes: int, n_commodities: int, radius: float, rng: np.random.Generator
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """A random geometric graph directed from left to right, every commodity's end reachable.

    Returns:
        links (tail, head) with nodes numbered from left to right, sources and destinations [K].
    """
    while True:
        points = rng.uniform(size=(n_nodes, 2))
        points = points[np.argsort(points[:, 0])]
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        links = [
            (i, j) for i in range(n_nodes) for j in range(i + 1, n_nodes) if distance[i, j] < radius
        ]
        sources = [k % max(1, n_nodes // 5) for k in range(n_commodities)]
        destinations = [n_nodes - 1 - k % max(1, n_nodes // 4) for k in range(n_commodities)]
        reach = reachable(links, n_nodes)
        if all(reach[s, d] for s, d in zip(sources, destinations, strict=True)):
            return links, sources, destinations


def reachable(links: list[tuple[int, int]], n_nodes: int) -> NDArray[np.bool_]:
    """[n, m]: whether m can be reached from n, n itself included; heads exceed tails."""
    reach = np.eye(n_nodes, dtype=bool)
    for i, j in sorted(links, reverse=True):
        reach[i] |= reach[j]
    return reach


def net_b(rho: float, kappa: float, horizon: int, n_nodes: int = 10, graph: int = 5) -> Network:
    """Net-B: a random geometric DAG, 4 commodities, one group per link, a capacity per entry.

    Which commodity a link carries well changes by phase (4 kinds of phases, high or low at random)
    and by a sinusoid, so that a link must know its capacities to split itself. Entries from which
    the destination cannot be reached, or that lie behind no source, are left out.

    Args:
        rho: arrival rate of each commodity at its source.
        kappa: floor(T^kappa) equal phases.
        horizon: T, slots.
        n_nodes: number of nodes.
        graph: seed of the network, the same for all seeds of a run; with 5 the best fixed
            allocation and the adaptive reference part: 0.433 and 0.588 (50 nodes: 0.638, 0.800).
    """
    rng = np.random.default_rng([graph, n_nodes])
    radius = 1.5 * math.sqrt(1.0 / n_nodes)
    links, sources, destinations = geometric_dag(n_nodes, 4, radius, rng)
    reach = reachable(links, n_nodes)
    entries: list[tuple[int, int, int, int, int]] = []
    group = 0
    for i, j in links:
        useful = [
            k
            for k, (s, d) in enumerate(zip(sources, destinations, strict=True))
            if reach[s, i] and reach[j, d]
        ]
        entries += [(group, i, j, k, len(entries) + n) for n, k in enumerate(useful)]
        group += bool(useful)
    n_entries = len(entries)
    level = np.where(rng.uniform(size=(4, n_entries)) < 0.5, 0.75, 0.1)
    return network(
        entries=entries,
        destinations=destinations,
        n_nodes=n_nodes,
        arrivals=[(s, k) for k, s in enumerate(sources)],
        rate=rho,
        level=level,
        horizon=horizon,
        n_phases=int(horizon**kappa + 1e-9),
        wave=np.full(n_entries, 0.3),
        shift=rng.uniform(size=n_entries),
        cycles=UTILITY_CYCLES,
        stream=1,
    )


def make_network(task: str, rho: float, kappa: float, horizon: int) -> Network:
    """The network of ``task`` (see TASKS).

    Raises:
        UserError: if there is no such task, or the horizon is shorter than the windows.
    """
    choose("task", task, TASKS)
    if horizon < WINDOWS:
        raise UserError(f"--horizon must be {WINDOWS} or more (one slot per window), not {horizon}")
    if task == "net-a-static":
        return net_a(rho, None, horizon)
    if task.startswith("net-b"):
        return net_b(rho, kappa, horizon, n_nodes=50 if task.endswith("-50") else 10)
    return net_a(rho, kappa, horizon)  # the utility task chooses its arrivals itself
