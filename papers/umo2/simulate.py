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

from papers.umo2 import baselines, method, references
from papers.umo2.baselines import drift_plus_penalty, estimate_capacity, max_weight, remember
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
from papers.umo2.methods import (
    ADABGD,
    CONSTANT_BGD,
    CURRENT,
    DRIFT_PLUS_PENALTY,
    EXOGENOUS,
    FIXED,
    LEARNERS,
    NSO,
    OGD,
    WINDOW,
    Policy,
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
        fixed = references.fixed_allocation(net, policy.fixed)
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


class Room(NamedTuple):
    """Arrays of one slot, made once: what it decides, serves and learns, and room to work in."""

    link: Vector  # [n_draws]
    C: Vector  # [E] capacities: hidden until they are served
    a: Vector  # [E] allocation
    served: Vector  # [E] what is activated of it: a, or one entry per group
    mu: Vector  # [E] C served
    loss: Vector  # [E]
    gain: Vector  # [E] Q_n - Q_m
    estimate: Vector  # [E]
    arrivals: Vector  # [A]
    u: Vector  # [A] direction of exploration
    point: Vector  # [A]
    gradient: Vector  # [A]
    Q_arrival: Vector  # [A] queues that arrivals go to
    inflow: Vector  # [n_queues]
    w: Vector  # [J]
    y_w: Vector  # [copies]


@jit
def new_room(net: Network, state: State) -> Room:
    """Room for a slot."""
    n_entries, d = net.source.size, net.arrival.size
    return Room(
        np.empty(net.level.shape[1]),
        np.empty(n_entries),
        np.empty(n_entries),
        np.empty(n_entries),
        np.empty(n_entries),
        np.empty(n_entries),
        np.empty(n_entries),
        np.empty(n_entries),
        np.empty(d),
        np.empty(d),
        np.empty(d),
        np.empty(d),
        np.empty(d),
        np.empty(state.Q.size),
        np.empty(state.cumulative.shape[1]),
        np.empty(state.y_cumulative.size),
    )


# -- a slot, as the policy sees it ----------------------------------------------------------------


@jit
def admit(net: Network, plan: Plan, t: int, u_key: int, state: State, room: Room) -> float:
    """Choose ``room.arrivals`` by the queues; the radius of exploration.

    Exogenous arrivals are the network's and stay as they are.
    """
    delta, norm = 0.0, 0.0
    for q in range(state.Q.size):
        norm += state.Q[q] * state.Q[q]
    for i in range(net.arrival.size):
        room.Q_arrival[i] = state.Q[net.arrival[i]]
    if plan.arrivals == ADABGD or plan.arrivals == CONSTANT_BGD:
        delta = plan.bgd_radius
        if plan.arrivals == ADABGD:
            d = net.arrival.size
            delta = radius(t, math.sqrt(norm), plan.V, d, UTILITY_BOUND, UTILITY_LIPSCHITZ)
        meta_weights(state.y_cumulative, state.y_sums[1], room.y_w)
        combine(state.y, room.y_w, room.point)
        shrink(room.point, delta)
        sphere(u_key, t, room.u)
        for i in range(net.arrival.size):
            room.arrivals[i] = room.point[i] + delta * room.u[i]
    elif plan.arrivals != EXOGENOUS:
        for i in range(net.arrival.size):
            room.arrivals[i] = plan.rate
            if plan.arrivals == DRIFT_PLUS_PENALTY:
                weight = utility_weight(t, net.horizon, i)
                room.arrivals[i] = drift_plus_penalty(plan.V, weight, room.Q_arrival[i])
    return delta


@jit
def allocate(
    net: Network, plan: Plan, t: int, activation_key: int, state: State, room: Room
) -> None:
    """Choose ``room.a``, and ``room.served`` of it, by the queues and what was learnt.

    Only CURRENT reads ``room.C``.
    """
    rule, Q, a, served = plan.links, state.Q, room.a, room.served
    for e in range(a.size):
        room.gain[e] = Q[net.source[e]] - Q[net.sink[e]]
    share = exploration(t, plan.activated)
    for g in range(net.starts.size - 1):
        low, high = net.starts[g], net.starts[g + 1]
        if rule == NSO:
            x = state.x[:, low:high]
            adapfol_predict(x, state.cumulative[g], state.sums[g], room.w, a[low:high])
            explore(a[low:high], share)
        elif rule == OGD:
            for e in range(low, high):
                a[e] = state.x[0, e]
            explore(a[low:high], share)
        elif rule == FIXED:
            for e in range(low, high):
                a[e] = plan.fixed[e]
        else:
            for e in range(low, high):
                if rule == CURRENT:
                    room.estimate[e] = room.C[e]
                else:
                    room.estimate[e] = estimate_capacity(
                        rule,
                        t,
                        state.tried[e],
                        state.total[e],
                        state.last[e],
                        state.window[e],
                        net.scale,
                    )
            max_weight(room.estimate[low:high], room.gain[low:high], a[low:high])
        for e in range(low, high):
            served[e] = a[e]
        if plan.activated:
            chosen = sample(a[low:high], uniform(activation_key, t, g))
            for e in range(low, high):
                served[e] = 1.0 if e - low == chosen else 0.0


@jit
def learn(net: Network, plan: Plan, gamma: float, delta: float, state: State, room: Room) -> None:
    """Update the learners by ``room.mu`` and the utility gamma, with the queues before the slot.

    Capacities are mu / served where something was served, never ``room.C``.
    """
    rule, Q, mu, served, loss = plan.links, state.Q, room.mu, room.served, room.loss
    if rule in LEARNERS:
        for e in range(mu.size):
            loss[e] = 0.0
            if served[e] > 0.0:
                loss[e] = link_loss(mu[e] / served[e], Q[net.source[e]], Q[net.sink[e]])
                if plan.activated:
                    loss[e] /= room.a[e]  # importance weighting
    for g in range(net.starts.size - 1):
        low, high = net.starts[g], net.starts[g + 1]
        if rule == NSO:
            x = state.x[:, low:high]
            adapfol_update(loss[low:high], x, state.cumulative[g], state.sums[g])
        elif rule == OGD:
            for e in range(low, high):
                state.x[0, e] -= plan.step / net.scale * loss[e]
            project(state.x[0, low:high])
        elif rule != FIXED:
            for e in range(low, high):
                if served[e] > 0.0:
                    C = mu[e] / served[e]
                    remember(rule, C, e, state.tried, state.total, state.last, state.window)
    if plan.arrivals == ADABGD or plan.arrivals == CONSTANT_BGD:
        one_point_gradient(room.Q_arrival, plan.V, gamma, room.u, delta, room.gradient)
        if plan.arrivals == ADABGD:
            square = (plan.V * net.arrival.size * UTILITY_BOUND / delta) ** 2
            for i in range(net.arrival.size):
                square += room.Q_arrival[i] * room.Q_arrival[i]
            adabgd_update(room.gradient, square, delta, state.y, state.y_cumulative, state.y_sums)
        else:
            for i in range(net.arrival.size):
                state.y[0, i] -= plan.bgd_step * room.gradient[i]
            shrink(state.y[0], delta)


# -- all slots ------------------------------------------------------------------------------------


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
    capacity_key, arrival_key = stream_key(seed, net.stream, 0), stream_key(seed, net.stream, 1)
    u_key, activation_key = stream_key(seed, net.stream, 2), stream_key(seed, net.stream, 3)
    room = new_room(net, state)
    Q, arrivals = state.Q, room.arrivals
    for t in range(first + 1, last + 1):
        # (1) the network
        draw_capacities(net, capacity_key, t, room.link, room.C)

        # (2) arrivals
        if plan.arrivals == EXOGENOUS:
            draw_arrivals(net, arrival_key, t, arrivals)
        delta = admit(net, plan, t, u_key, state, room)

        # (3) links
        allocate(net, plan, t, activation_key, state, room)

        # (4) service and what it reveals
        for e in range(room.mu.size):
            room.mu[e] = room.C[e] * room.served[e]
        gamma = 0.0
        if plan.arrivals != EXOGENOUS:
            gamma = utility(t, net.horizon, arrivals)
        if log.shape[0] > 0:
            write_log(log[t - first - 1], net, Q, arrivals, room.mu, room.a, gamma)
        place = (t - 1) * measured.shape[0] // net.horizon
        measured[place, 0] += 1.0
        for q in range(Q.size):
            measured[place, 1] += Q[q]
        measured[place, 2] += gamma
        for i in range(arrivals.size):
            measured[place, 3] += arrivals[i]

        # (5) learners: from mu, never from C
        learn(net, plan, gamma, delta, state, room)

        # (6) queues
        next_queues(net, Q, arrivals, room.mu, room.inflow)
