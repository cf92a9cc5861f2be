"""uniINF (Chen, Huang, Dai and Huang, ICLR 2025): its algorithm, one round per function.

Notation: x [K] the distribution over arms, L [K] cumulative estimated losses, S > 0 the inverse
learning rate, l the observed loss of the played arm i, C the threshold of arm i at this round.

    x        = argmin_{x in simplex} <L, x> - S sum_i log x_i        log_barrier_ftrl
    C        = S / (4 (1 - x_i))                                     threshold
    l_skip   = l if |l| < C else 0;       L_i += l_skip / x_i        skip
    l_clip   = max(-C, min(l, C))                                    clip
    S        = sqrt(S^2 + l_clip^2 (1 - x_i)^2 / (K log T))          next_S

The estimate *skips* large losses, the learning rate *clips* them. Clipping in L would bias the
estimate; skipping in S would keep S from growing, and large losses would be skipped for ever.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from papers.uniinf.task import (
    Bandit,
    Known,
    action_uniform,
    count,
    draw_loss,
    jit,
    phase_at,
    sample,
    stream_keys,
)

Vector = NDArray[np.float64]
S_FIRST = 4.0  # inverse learning rate of the first round
MAX_NEWTON_STEPS = 100  # 12 are the most ever seen at K = 50


@jit
def log_barrier_ftrl(L: Vector, S: float, lam: float, x: Vector) -> tuple[float, int]:
    """FTRL with the log-barrier: x = argmin over the simplex of <L, x> - S sum_i log x_i.

    The optimum is x_i = S / (L_i - z) with z < min L the root of sum_i S / (L_i - z) = 1. In
    lambda = min L - z >= S the reciprocal of that sum, a harmonic mean, is concave and increasing;
    Newton's method on it ascends monotonically from the left of the root, and from the right its
    first step lands on the left. It needs no other safeguard than lambda >= S.

    Args:
        L: [K] cumulative estimated losses.
        S: inverse learning rate.
        lam: where Newton begins, e.g. last round's lambda; any number.
        x: [K], overwritten by the optimum.

    Returns:
        lambda, and the number of Newton steps.
    """
    lowest = L.min()
    lam = max(lam, S)
    steps = 0
    while True:
        total, squares = 0.0, 0.0
        for i in range(L.size):
            x[i] = S / (L[i] - lowest + lam)
            total += x[i]
            squares += x[i] * x[i]
        if abs(total - 1.0) < 1e-12 or steps == MAX_NEWTON_STEPS:
            break
        lam = max(S, lam + S * total * (total - 1.0) / squares)
        steps += 1
    for i in range(L.size):
        x[i] /= total
    return lam, steps


def ftrl(L: Vector, S: float) -> Vector:
    """The distribution [K] that FTRL plays for cumulative losses L [K] and 1/learning rate S."""
    x = np.empty(len(L))
    log_barrier_ftrl(np.asarray(L, float), float(S), 0.0, x)
    return x


@jit
def others(x: Vector, arm: int) -> float:
    """1 - x_arm as the sum of the other coordinates: exact when x_arm rounds to 1."""
    total = 0.0
    for i in range(x.size):
        if i != arm:
            total += x[i]
    return total


@jit
def threshold(S: float, one_minus_x: float) -> float:
    """C = S / (4 (1 - x)): the largest loss after which no probability moves by more than 2 x.

    The FTRL step after a loss l on arm i moves x by a factor governed by l (1 - x_i) / S, which is
    below 1/4 for |l| < C, also when l is negative. Infinite when x = 1: nothing can move.
    """
    return S / (4.0 * one_minus_x) if one_minus_x > 0 else math.inf


@jit
def skip(loss: float, C: float) -> float:
    """The loss that enters the estimate: itself below the threshold, else nothing."""
    return loss if abs(loss) < C else 0.0


@jit
def clip(loss: float, C: float) -> float:
    """The loss that enters the learning rate: itself, moved into [-C, C]."""
    return max(-C, min(loss, C))


@jit
def next_S(S: float, clipped: float, one_minus_x: float, n_arms: int, log_T: float) -> float:
    """Auto-balancing learning rate: S^2 grows by l_clip^2 (1 - x)^2 / (K log T).

    So the price of a round, l^2 (1 - x)^2 / S, equals the price of moving S, (S' - S) K log T, up
    to a factor of 2. A clipped round multiplies S by exactly sqrt(1 + 1 / (16 K log T)).
    """
    moved = clipped * one_minus_x
    return math.sqrt(S * S + moved * moved / (n_arms * log_T))


@jit
def round_update(L: Vector, S: float, x: Vector, arm: int, loss: float, log_T: float) -> float:
    """What one observed loss does: L [K] is updated in place, the next S is returned."""
    one_minus_x = others(x, arm)
    C = threshold(S, one_minus_x)
    L[arm] += skip(loss, C) / x[arm]  # importance weighting
    return next_S(S, clip(loss, C), one_minus_x, x.size, log_T)


def new_state(n_arms: int) -> tuple[Vector, Vector]:
    """L [K] = 0; and [S, lambda], S = 4."""
    return np.zeros(n_arms), np.array([S_FIRST, 0.0])


@jit
def simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """Play rounds first + 1 … last of seed ``seed``; uniINF is told the horizon and nothing else.

    Args:
        env: the bandit; only the played arm's loss is looked at.
        known: ``horizon`` is read.
        first: rounds played so far.
        last: rounds played at the end.
        state: of :func:`new_state`, updated in place; everything that the next rounds depend on.
        tally: [3] of ``task.TALLY``, updated in place.
    """
    L, scalars = state
    S, lam = scalars[0], scalars[1]
    log_T = math.log(known.horizon)
    loss_key, action_key = stream_keys(seed, env.stream)
    x = np.empty(L.size)
    for t in range(first + 1, last + 1):
        lam, _ = log_barrier_ftrl(L, S, lam, x)
        arm = sample(x, action_uniform(action_key, t))
        phase = phase_at(env.starts, t)
        loss = draw_loss(env, loss_key, phase, t, arm)
        skipped = abs(loss) >= threshold(S, others(x, arm))
        S = round_update(L, S, x, arm, loss, log_T)
        count(env, phase, arm, skipped, tally)
    scalars[0], scalars[1] = S, lam
