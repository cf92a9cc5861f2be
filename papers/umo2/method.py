"""NSO and UMO²: linear optimisation on the links, bandit convex optimisation on the arrivals.

The Lyapunov drift of the queues (section numbers are the README's) is, up to a constant,

    <Q, lambda> + sum_g <l_g, a_g>,    l of entry (n -> m, k) = -C (Q_n - Q_m),

so that whoever minimises linear losses l_g against a moving comparator stabilises the network.
The losses grow with the queues: no bound on them is known in advance. NSO is one AdaPFOL learner
per resource group; UMO² adds AdaBGD, which chooses the arrivals from values of the utility alone.

Everything here is compiled and works in place. A learner never meets a capacity that it has not
observed: its arguments are losses and utilities of slots that are over.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from papers.umo2.task import jit

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

STEP = 0.7  # step-size of the first expert, in units of 1 / sqrt(sum of squared losses)
SQUARES, RANGES = 0, 1  # of ``sums``: sum of squared losses; sum of squared ranges over experts


# -- AdaPFOL: linear optimisation without knowing path length or magnitude -------------------------


@jit
def project(x: Vector) -> None:
    """Euclidean projection of x [d] on {a >= 0, sum a <= 1}, in place.

    Clipping at 0 is the projection when the sum is at most 1 then; else the sum is 1 and the
    threshold tau of [x - tau]_+ is found by dropping coordinates below it (Michelot 1986), in at
    most d rounds. tau is counted from the largest coordinate, where it lies in [-1, 0), and never
    falls: rounding brings no dropped coordinate back.
    """
    total, top = 0.0, 0.0
    for i in range(x.size):
        total += max(x[i], 0.0)
        top = max(top, x[i])
    if total <= 1.0:
        for i in range(x.size):
            x[i] = max(x[i], 0.0)
        return
    tau, rising = -1.0, True
    while rising:
        count, total = 0, 0.0
        for i in range(x.size):
            if x[i] - top > tau:
                count += 1
                total += x[i] - top
        following = (total - 1.0) / count
        rising = following > tau
        tau = max(tau, following)
    for i in range(x.size):
        x[i] = max(x[i] - top - tau, 0.0)


@jit
def meta_weights(cumulative: Vector, ranges: float, w: Vector) -> None:
    """Weights w [J] ∝ exp(-alpha cumulative_j), alpha = sqrt(ln J / sum of squared ranges).

    ``ranges`` sums (max - min of the experts' losses)² over the past; uniform while it is 0.
    """
    rate = math.sqrt(math.log(w.size) / ranges) if ranges > 0.0 else 0.0
    lowest = cumulative.min()
    total = 0.0
    for j in range(w.size):
        w[j] = math.exp(-rate * (cumulative[j] - lowest))
        total += w[j]
    for j in range(w.size):
        w[j] /= total


@jit
def combine(x: Matrix, w: Vector, point: Vector) -> None:
    """point [d] = sum_j w_j x_j of the experts x [J, d]."""
    for i in range(point.size):
        point[i] = 0.0
        for j in range(w.size):
            point[i] += w[j] * x[j, i]


@jit
def score(loss: Vector, x: Matrix, cumulative: Vector, sums: Vector) -> None:
    """Charge every expert <loss, x_j>, and add the squared range of these to ``sums``."""
    low, high = math.inf, -math.inf
    for j in range(cumulative.size):
        value = 0.0
        for i in range(loss.size):
            value += loss[i] * x[j, i]
        cumulative[j] += value
        low = min(low, value)
        high = max(high, value)
    sums[RANGES] += (high - low) * (high - low)


@jit
def adapfol_predict(x: Matrix, cumulative: Vector, sums: Vector, w: Vector, a: Vector) -> None:
    """The decision a [d] of a learner: the weighted mean of its experts."""
    meta_weights(cumulative, sums[RANGES], w)
    combine(x, w, a)


@jit
def adapfol_update(loss: Vector, x: Matrix, cumulative: Vector, sums: Vector) -> None:
    """Expert j descends with step 0.7 * 2^j / sqrt(sum of squared losses so far, this one too).

    Multiplying all losses by a constant changes no decision; one of the steps suits the path length
    of any comparator up to a factor of 2, and the meta layer finds it.

    Args:
        loss: [d] of the slot that is over.
        x: [J, d] experts.
        cumulative: [J] their losses.
        sums: [2] sums of squares and of squared ranges.
    """
    square = 0.0
    for i in range(loss.size):
        square += loss[i] * loss[i]
    if square == 0.0:
        return
    score(loss, x, cumulative, sums)
    sums[SQUARES] += square
    step = STEP / math.sqrt(sums[SQUARES])
    for j in range(cumulative.size):
        for i in range(loss.size):
            x[j, i] -= step * loss[i]
        project(x[j])
        step *= 2.0


# -- NSO ------------------------------------------------------------------------------------------


@jit
def exploration(t: int, activated: bool) -> float:
    """Share of the barycentre in the decision: it keeps a > 0, so that all capacities are seen."""
    return float(t) ** (-1.0 / 3.0) if activated else min(0.05, 1.0 / math.sqrt(t))


@jit
def explore(a: Vector, share: float) -> None:
    """Mix a [d] with the barycentre of {a >= 0, sum a <= 1}, all entries 1 / (d + 1)."""
    for i in range(a.size):
        a[i] = (1.0 - share) * a[i] + share / (a.size + 1)


@jit
def link_loss(C: float, Q_tail: float, Q_head: float) -> float:
    """Loss of an entry per unit of allocation, by the queues before the slot."""
    return -C * (Q_tail - Q_head)


def barycentres(starts: NDArray[np.int64], J: int) -> Matrix:
    """First points [J, E] of all experts of all groups."""
    sizes = np.diff(starts)
    return np.tile(np.repeat(1.0 / (sizes + 1.0), sizes), (J, 1))


# -- AdaBGD: arrivals from values of the utility ------------------------------------------------


@jit
def radius(t: int, queues: float, V: float, d: int, G: float, L: float) -> float:
    """Exploration radius: balances the bias radius * (|Q| + V L) and the variance V d G / radius.

    Args:
        t: slot, from 1.
        queues: Euclidean norm of all queues.
        V: weight of the utility.
        d: dimension of the box [0, 1]^d.
        G: bound of the utility.
        L: Lipschitz constant of the utility.
    """
    return min(0.25, math.sqrt(V * d * G / (math.sqrt(t) * (queues + V * L))))


@jit
def shrink(y: Vector, delta: float) -> None:
    """Projection of y [d] on [delta, 1 - delta]^d: [0, 1]^d shrunk about its centre."""
    for i in range(y.size):
        y[i] = min(max(y[i], delta), 1.0 - delta)


@jit
def one_point_gradient(
    Q: Vector, V: float, gamma: float, u: Vector, delta: float, gradient: Vector
) -> None:
    """Gradient estimate [d] of <Q, lambda> - V g(lambda) from the one value gamma = g(y + delta u).

    The linear part is known and not estimated. Unbiased for the utility smoothed over a ball of
    radius delta.
    """
    for i in range(u.size):
        gradient[i] = Q[i] - V * (u.size / delta) * gamma * u[i]


@jit
def adabgd_update(
    gradient: Vector, square: float, delta: float, y: Matrix, cumulative: Vector, sums: Vector
) -> None:
    """Copy j descends with step 2^j D / sqrt(sum of bounds on squared gradients).

    Args:
        gradient: [d], one estimate for all copies.
        square: bound |Q|² + (V d G / delta)² on this slot's squared gradient: G, not gamma.
        delta: radius of this slot.
        y: [copies, d]; one copy is AdaBGD, several adapt to the path of the comparator.
        cumulative: [copies] losses <gradient, y_j>.
        sums: [2] as in :func:`adapfol_update`.
    """
    score(gradient, y, cumulative, sums)
    sums[SQUARES] += square
    step = math.sqrt(gradient.size / sums[SQUARES])  # D = sqrt(d)
    for j in range(cumulative.size):
        for i in range(gradient.size):
            y[j, i] -= step * gradient[i]
        shrink(y[j], delta)
        step *= 2.0
