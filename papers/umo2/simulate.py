"""One slot after the other: who sees what, and when. One compiled loop for all policies.

The order within a slot: (1) the network draws capacities, hidden; (2) the arrivals are chosen;
(3) the links are allocated; (4) packets are served, the capacities of entries with a > 0 and the
value of the utility are revealed; (5) learners update, with the queues before the slot; (6) queues
move. Only CURRENT, which is marked as knowing, looks at (1) in (3).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.umo2 import baselines, method
from papers.umo2.baselines import (
    ADABGD,
    CONSTANT_BGD,
    CURRENT,
    DRIFT_PLUS_PENALTY,
    EXOGENOUS,
    FIXED,
    NSO,
    OGD,
    WINDOW,
    Policy,
    drift_plus_penalty,
    estimate_capacity,
    max_weight,
    remember,
)
from papers.umo2.method import (
    adabgd_update,
    adapfol_predict,
    adapfol_update,
    combine,
    exploration,
    explore,
    link_loss,
    meta_weights,
    one_point_gradient,
    project,
    radius,
    shrink,
)
from papers.umo2.task import (
    MEASURED,
    UTILITY_BOUND,
    UTILITY_LIPSCHITZ,
    WINDOWS,
    Network,
    draw_arrivals,
    draw_capacities,
    jit,
    next_queues,
    sphere,
    stream_key,
    uniform,
    utility,
    utility_weight,
)

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
NO_LOG = np.empty((0, 0))


class Plan(NamedTuple):
    """What a policy is told; the same type for all, so that there is one compiled loop."""

    links: int  # rule for the links
    arrivals: int  # rule for the arrivals
    activated: bool  # serve one entry per group, drawn from the allocation
    V: float  # weight of the utility
    rate: float  # of static arrivals
    fixed: Vector  # [E] allocation of FIXED
    step: float  # of OGD, for losses of size 1
    bgd_radius: float  # of CONSTANT_BGD
    bgd_step: float  # of CONSTANT_BGD


class State(NamedTuple):
    """Everything that the next slots depend on, besides the counters of random numbers."""

    Q: Vector  # [n_queues]
    x: Matrix  # [J, E] experts of the groups' learners
    cumulative: Matrix  # [n_groups, J]
    sums: Matrix  # [n_groups, 2]
    tried: Vector  # [E] activations, of the max-weight rules
    total: Vector  # [E]
    last: Vector  # [E]
    window: Matrix  # [E, W]
    y: Matrix  # [copies, A] AdaBGD's points
    y_cumulative: Vector  # [copies]
    y_sums: Vector  # [2]


def make_plan(policy: Policy, net: Network, V: float = 0.0) -> Plan:
    """The plan of a policy on a network."""
    delta, step = baselines.constant_bgd(net.horizon, max(V, 1e-9), len(net.arrival), UTILITY_BOUND)
    fixed = np.zeros(len(net.source))
    if policy.links == FIXED:
        fixed = baselines.fixed_allocation(net, policy.fixed)
    return Plan(
        links=policy.links,
        arrivals=policy.arrivals,
        activated=policy.activated,
        V=float(V),
        rate=float(policy.rate),
        fixed=fixed,
        step=1.0 / math.sqrt(net.horizon),
        bgd_radius=delta,
        bgd_step=step,
    )


def new_state(policy: Policy, net: Network, experts: int = 8) -> State:
    """Empty queues, experts at the barycentre, arrivals at the centre of their box."""
    n_entries, n_groups = len(net.source), len(net.starts) - 1
    J = experts if policy.links == NSO else 1
    W = math.ceil(math.sqrt(net.horizon)) if policy.links == WINDOW else 1
    return State(
        Q=np.zeros(len(net.delivered)),
        x=method.barycentres(net.starts, J),
        cumulative=np.zeros((n_groups, J)),
        sums=np.zeros((n_groups, 2)),
        tried=np.zeros(n_entries),
        total=np.zeros(n_entries),
        last=np.zeros(n_entries),
        window=np.zeros((n_entries, W)),
        y=np.full((policy.copies, len(net.arrival)), 0.5),
        y_cumulative=np.zeros(policy.copies),
        y_sums=np.zeros(2),
    )


def new_measurements() -> Matrix:
    """[WINDOWS, 4] sums of ``task.MEASURED``."""
    return np.zeros((WINDOWS, len(MEASURED)))


@jit
def sample(a: Vector, u: float) -> int:
    """Entry drawn from a [d], sum a <= 1, by inversion; -1 (idle) with what is left."""
    cumulative = 0.0
    for i in range(a.size):
        cumulative += a[i]
        if u < cumulative:
            return i
    return -1


@jit
def write_log(
    row: Vector, net: Network, Q: Vector, arrivals: Vector, mu: Vector, a: Vector, gamma: float
) -> None:
    """One slot as a row: Q, lambda by queue, mu, a, gamma."""
    n, n_entries = Q.size, mu.size
    for q in range(n):
        row[q], row[n + q] = Q[q], 0.0
    for i in range(arrivals.size):
        row[n + net.arrival[i]] += arrivals[i]
    for e in range(n_entries):
        row[2 * n + e], row[2 * n + n_entries + e] = mu[e], a[e]
    row[2 * n + 2 * n_entries] = gamma


@jit
def simulate(
    net: Network,
    plan: Plan,
    seed: int,
    first: int,
    last: int,
    state: State,
    measured: Matrix,
    log: Matrix,
) -> None:
    """Play slots first + 1 … last of a seed.

    Args:
        net: the network.
        plan: of :func:`make_plan`.
        seed: of all streams of random numbers.
        first: slots played so far.
        last: slots played at the end.
        state: of :func:`new_state`, updated in place.
        measured: of :func:`new_measurements`, added to.
        log: [last - first, 2 n_queues + 2 E + 1]: Q before the slot, lambda by queue, mu, a and
            the value of the utility; or ``NO_LOG``.
    """
    Q, x, cumulative, sums, tried, total, last_seen, window, y, y_cumulative, y_sums = state
    n_queues, n_entries, n_groups, d = (
        Q.size,
        net.source.size,
        net.starts.size - 1,
        net.arrival.size,
    )
    capacity_key, arrival_key = stream_key(seed, net.stream, 0), stream_key(seed, net.stream, 1)
    u_key, activation_key = stream_key(seed, net.stream, 2), stream_key(seed, net.stream, 3)
    link, C, a = np.empty(net.level.shape[1]), np.empty(n_entries), np.empty(n_entries)
    served, mu, loss = np.empty(n_entries), np.empty(n_entries), np.empty(n_entries)
    gain, estimate = np.empty(n_entries), np.empty(n_entries)
    arrivals, u, point, gradient = np.empty(d), np.empty(d), np.empty(d), np.empty(d)
    Q_arrival, inflow = np.empty(d), np.empty(n_queues)
    w, y_w = np.empty(cumulative.shape[1]), np.empty(y_cumulative.size)
    rule, V = plan.links, plan.V
    learns = rule in (NSO, OGD)
    G, L = UTILITY_BOUND, UTILITY_LIPSCHITZ
    for t in range(first + 1, last + 1):
        # (1) the network
        draw_capacities(net, capacity_key, t, link, C)

        # (2) arrivals
        delta, norm = 0.0, 0.0
        for q in range(n_queues):
            norm += Q[q] * Q[q]
        for i in range(d):
            Q_arrival[i] = Q[net.arrival[i]]
        if plan.arrivals == EXOGENOUS:
            draw_arrivals(net, arrival_key, t, arrivals)
        elif plan.arrivals == ADABGD or plan.arrivals == CONSTANT_BGD:
            delta = plan.bgd_radius
            if plan.arrivals == ADABGD:
                delta = radius(t, math.sqrt(norm), V, d, G, L)
            meta_weights(y_cumulative, y_sums[1], y_w)
            combine(y, y_w, point)
            shrink(point, delta)
            sphere(u_key, t, u)
            for i in range(d):
                arrivals[i] = point[i] + delta * u[i]
        else:
            for i in range(d):
                arrivals[i] = plan.rate
                if plan.arrivals == DRIFT_PLUS_PENALTY:
                    weight = utility_weight(t, net.horizon, i)
                    arrivals[i] = drift_plus_penalty(V, weight, Q_arrival[i])

        # (3) links
        for e in range(n_entries):
            gain[e] = Q[net.source[e]] - Q[net.sink[e]]
        share = exploration(t, plan.activated)
        for g in range(n_groups):
            low, high = net.starts[g], net.starts[g + 1]
            if rule == NSO:
                adapfol_predict(x[:, low:high], cumulative[g], sums[g], w, a[low:high])
                explore(a[low:high], share)
            elif rule == OGD:
                for e in range(low, high):
                    a[e] = x[0, e]
                explore(a[low:high], share)
            elif rule == FIXED:
                for e in range(low, high):
                    a[e] = plan.fixed[e]
            else:
                for e in range(low, high):
                    if rule == CURRENT:
                        estimate[e] = C[e]
                    else:
                        estimate[e] = estimate_capacity(
                            rule, t, tried[e], total[e], last_seen[e], window[e], net.scale
                        )
                max_weight(estimate[low:high], gain[low:high], a[low:high])
            for e in range(low, high):
                served[e] = a[e]
            if plan.activated:
                chosen = sample(a[low:high], uniform(activation_key, t, g))
                for e in range(low, high):
                    served[e] = 1.0 if e - low == chosen else 0.0

        # (4) service and what it reveals
        for e in range(n_entries):
            mu[e] = C[e] * served[e]
        gamma = 0.0
        if plan.arrivals != EXOGENOUS:
            gamma = utility(t, net.horizon, arrivals)
        if log.shape[0] > 0:
            write_log(log[t - first - 1], net, Q, arrivals, mu, a, gamma)
        place = (t - 1) * measured.shape[0] // net.horizon
        measured[place, 0] += 1.0
        for q in range(n_queues):
            measured[place, 1] += Q[q]
        measured[place, 2] += gamma
        for i in range(d):
            measured[place, 3] += arrivals[i]

        # (5) learners: from mu, never from C
        if learns:
            for e in range(n_entries):
                loss[e] = 0.0
                if served[e] > 0.0:
                    loss[e] = link_loss(mu[e] / served[e], Q[net.source[e]], Q[net.sink[e]])
                    if plan.activated:
                        loss[e] /= a[e]  # importance weighting
        for g in range(n_groups):
            low, high = net.starts[g], net.starts[g + 1]
            if rule == NSO:
                adapfol_update(loss[low:high], x[:, low:high], cumulative[g], sums[g])
            elif rule == OGD:
                for e in range(low, high):
                    x[0, e] -= plan.step / net.scale * loss[e]
                project(x[0, low:high])
            elif rule != FIXED:
                for e in range(low, high):
                    if served[e] > 0.0:
                        remember(rule, mu[e] / served[e], e, tried, total, last_seen, window)
        if plan.arrivals == ADABGD or plan.arrivals == CONSTANT_BGD:
            one_point_gradient(Q_arrival, V, gamma, u, delta, gradient)
            if plan.arrivals == ADABGD:
                square = (V * d * G / delta) ** 2
                for i in range(d):
                    square += Q_arrival[i] * Q_arrival[i]
                adabgd_update(gradient, square, delta, y, y_cumulative, y_sums)
            else:
                for i in range(d):
                    y[0, i] -= plan.bgd_step * gradient[i]
                shrink(y[0], delta)

        # (6) queues
        next_queues(net, Q, arrivals, mu, inflow)
