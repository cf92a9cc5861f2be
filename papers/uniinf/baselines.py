"""What uniINF is compared with, in its signatures: ``simulate`` over rounds, ``new_state`` before.

Every ``*_simulate(env, known, seed, first, last, state, tally)`` plays rounds first + 1 … last with
the losses and the action uniforms of the seed, as ``method.simulate`` does; its docstring says what
of ``known`` it reads.
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
MAX_NEWTON_STEPS = 100
THETA_2 = 1.0 - 2.0 ** (-1.0 / 3.0)  # HTINF's constant at alpha = 2


# -- FTRL with Tsallis regularisers --------------------------------------------------------------


@jit
def tsallis_ftrl(
    L: Vector, inverse_rate: float, alpha: float, lam: float, x: Vector
) -> tuple[float, int]:
    """FTRL with the 1/alpha-Tsallis entropy, Psi(x) = -alpha sum_i x_i^(1/alpha).

    x_i = (eta (L_i - z))^(-q), q = alpha/(alpha-1), with sum_i x_i = 1. Newton's method on the sum
    to the power -1/q, concave and increasing in lambda = min L - z, as in ``log_barrier_ftrl``.

    Args:
        L: [K] cumulative estimated losses.
        inverse_rate: 1/eta.
        alpha: tail parameter in (1, 2].
        lam: where Newton begins; any number.
        x: [K], overwritten by the optimum.

    Returns:
        lambda, and the number of Newton steps.
    """
    q = alpha / (alpha - 1.0)
    lowest = L.min()
    lam = max(lam, inverse_rate)
    steps = 0
    while True:
        total, slope = 0.0, 0.0
        for i in range(L.size):
            distance = L[i] - lowest + lam
            x[i] = (distance / inverse_rate) ** -q
            total += x[i]
            slope += x[i] / distance
        if abs(total - 1.0) < 1e-12 or steps == MAX_NEWTON_STEPS:
            break
        lam = max(inverse_rate, lam + total * (total ** (1.0 / q) - 1.0) / slope)
        steps += 1
    for i in range(L.size):
        x[i] /= total
    return lam, steps


@jit
def tsallis_half_ftrl(L: Vector, inverse_rate: float, lam: float, x: Vector) -> tuple[float, int]:
    """:func:`tsallis_ftrl` at alpha = 2 without powers: x_i = (eta (L_i - z))^(-2)."""
    lowest = L.min()
    lam = max(lam, inverse_rate)
    steps = 0
    while True:
        total, cubes = 0.0, 0.0
        for i in range(L.size):
            root = inverse_rate / (L[i] - lowest + lam)
            x[i] = root * root
            total += x[i]
            cubes += x[i] * root
        if abs(total - 1.0) < 1e-12 or steps == MAX_NEWTON_STEPS:
            break
        step = inverse_rate * total * (math.sqrt(total) - 1.0) / cubes
        lam = max(inverse_rate, lam + step)
        steps += 1
    for i in range(L.size):
        x[i] /= total
    return lam, steps


@jit
def skipping_constant(alpha: float) -> float:
    """Theta_alpha of HTINF: min{1 - 2^(-(alpha-1)/(2 alpha-1)), (2 - 2/alpha)^(1/(2-alpha))}."""
    first = 1.0 - 2.0 ** (-(alpha - 1.0) / (2.0 * alpha - 1.0))
    if alpha >= 2.0:
        return first
    return min(first, (2.0 - 2.0 / alpha) ** (1.0 / (2.0 - alpha)))


def htinf_state(n_arms: int) -> tuple[Vector, Vector]:
    """L [K] and [lambda]."""
    return np.zeros(n_arms), np.zeros(1)


@jit
def htinf_simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """HTINF (Huang, Dai and Huang, ICML 2022); reads sigma and alpha.

    1/eta_t = sigma t^(1/alpha); a loss above Theta_alpha x_i^(1/alpha) / eta_t is skipped.
    """
    L, scalars = state
    lam, alpha = scalars[0], known.alpha
    theta = skipping_constant(alpha)
    loss_key, action_key = stream_keys(seed, env.stream)
    x = np.empty(L.size)
    for t in range(first + 1, last + 1):
        inverse_rate = known.sigma * float(t) ** (1.0 / alpha)
        lam, _ = tsallis_ftrl(L, inverse_rate, alpha, lam, x)
        arm = sample(x, action_uniform(action_key, t))
        phase = phase_at(env.starts, t)
        loss = draw_loss(env, loss_key, phase, t, arm)
        skipped = abs(loss) > theta * inverse_rate * x[arm] ** (1.0 / alpha)
        if not skipped:
            L[arm] += loss / x[arm]
        count(env, phase, arm, skipped, tally)
    scalars[0] = lam


@jit
def _tsallis_half_simulate(
    env: Bandit,
    theta: float,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """FTRL with -2 sum_i sqrt(x_i), 1/eta_t = sqrt(t), skipping above theta sqrt(x_i) / eta_t."""
    L, scalars = state
    lam = scalars[0]
    loss_key, action_key = stream_keys(seed, env.stream)
    x = np.empty(L.size)
    for t in range(first + 1, last + 1):
        inverse_rate = math.sqrt(t)
        lam, _ = tsallis_half_ftrl(L, inverse_rate, lam, x)
        arm = sample(x, action_uniform(action_key, t))
        phase = phase_at(env.starts, t)
        loss = draw_loss(env, loss_key, phase, t, arm)
        skipped = abs(loss) > theta * inverse_rate * math.sqrt(x[arm])
        if not skipped:
            L[arm] += loss / x[arm]
        count(env, phase, arm, skipped, tally)
    scalars[0] = lam


def opttinf_simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """OptTINF (Huang et al. 2022): HTINF at the optimistic alpha = 2, sigma = 1; reads nothing."""
    _tsallis_half_simulate(env, THETA_2, seed, first, last, state, tally)


def tsallis_inf_simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """Tsallis-INF (Zimmert and Seldin 2021) with importance weighting; reads nothing.

    Made for bounded losses: OptTINF without skipping. Their 4/(eta' (L - z))^2 with
    eta' = 2/sqrt(t) is this x.
    """
    _tsallis_half_simulate(env, math.inf, seed, first, last, state, tally)


# -- AdaTINF -------------------------------------------------------------------------------------


def adatinf_state(n_arms: int) -> tuple[Vector, Vector]:
    """L [K] and [lambda, J, S_J]."""
    return np.zeros(n_arms), np.zeros(3)


@jit
def doubling(J: float, spent: float, cost: float, budget: float) -> tuple[float, float]:
    """AdaTINF's doubling: J and S_J after a round of ``cost``; ``budget`` is sqrt(K (T + 1))."""
    spent += cost
    if 2.0**J * budget >= spent:
        return J, spent
    return max(J + 1.0, math.ceil(math.log2(cost / budget)) + 1.0), 0.0


@jit
def adatinf_simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """AdaTINF (Huang et al. 2022), for adversarial losses; reads the horizon.

    1/eta_t = 2^J sqrt(t); skips above Theta_2 sqrt(x_i) / eta_t. A round costs
    2 eta_t l^2 / sqrt(x_i) when kept and |l| when skipped; J moves on once the costs of the present
    J exceed 2^J sqrt(K (T + 1)).
    """
    L, scalars = state
    lam, J, spent = scalars[0], scalars[1], scalars[2]
    budget = math.sqrt(L.size * (known.horizon + 1.0))
    loss_key, action_key = stream_keys(seed, env.stream)
    x = np.empty(L.size)
    for t in range(first + 1, last + 1):
        inverse_rate = 2.0**J * math.sqrt(t)
        lam, _ = tsallis_half_ftrl(L, inverse_rate, lam, x)
        arm = sample(x, action_uniform(action_key, t))
        phase = phase_at(env.starts, t)
        loss = draw_loss(env, loss_key, phase, t, arm)
        skipped = abs(loss) > THETA_2 * inverse_rate * math.sqrt(x[arm])
        if skipped:
            cost = abs(loss)
        else:
            L[arm] += loss / x[arm]
            cost = 2.0 / inverse_rate / math.sqrt(x[arm]) * loss * loss
        J, spent = doubling(J, spent, cost, budget)
        count(env, phase, arm, skipped, tally)
    scalars[0], scalars[1], scalars[2] = lam, J, spent


# -- optimism ------------------------------------------------------------------------------------


@jit
def argmin(index: Vector) -> int:
    """The first arm of least index."""
    best = 0
    for i in range(1, index.size):
        if index[i] < index[best]:
            best = i
    return best


CAPACITY = 1024  # samples per arm whose truncation still lies ahead; see robust_ucb_simulate


def robust_ucb_state(n_arms: int) -> tuple[Vector, Vector, Vector]:
    """[6, K]: sum of kept samples, pulls, 4 sigma n^-..., ends waiting, next end, -; two calendars.

    The calendars [K, CAPACITY] hold the last round of each sample that will leave its mean, and
    its value.
    """
    per_arm = np.zeros((5, n_arms))
    per_arm[4] = math.inf
    return per_arm, np.zeros((n_arms, CAPACITY)), np.zeros((n_arms, CAPACITY))


@jit
def last_round(loss: float, s: float, sigma: float, alpha: float) -> float:
    """The last t at which the s-th sample of an arm is kept: |l|^alpha <= sigma^alpha s / log t^2.

    That is t <= exp(sigma^alpha s / (2 |l|^alpha)); infinite for a loss of zero.
    """
    return math.exp(s / (2.0 * (abs(loss) / sigma) ** alpha))


@jit
def robust_ucb_simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector, Vector],
    tally: Vector,
) -> None:
    """Robust-UCB with the truncated mean (Bubeck, Cesa-Bianchi and Lugosi 2013).

    Reads sigma and alpha, and the horizon as bookkeeping alone. Index of an arm with n pulls:
    (1/n) sum_s l_s 1{|l_s| <= (sigma^alpha s / log t^2)^(1/alpha)}
    - 4 sigma (log t^2 / n)^((alpha-1)/alpha), where s counts the arm's own samples.

    The truncation of a sample depends on t, yet exactly: it is kept up to the round
    ``last_round`` and never again, which is known when it is observed. Samples whose round lies
    within the horizon wait in a calendar; Markov's inequality bounds their expected number by
    2 log T (1 + log n), 440 at T = 1e7, and it is gone through only when one of them leaves. So a
    round costs O(K), and the means are those of the definition up to rounding. "Skipped" counts
    samples that are truncated when they come.

    Raises:
        RuntimeError: if a calendar overflows, which a true sigma does not cause.
    """
    per_arm, ends, values = state
    kept, pulls, width, waiting, next_end = (
        per_arm[0],
        per_arm[1],
        per_arm[2],
        per_arm[3],
        per_arm[4],
    )
    n_arms = kept.size
    exponent = (known.alpha - 1.0) / known.alpha
    loss_key, _ = stream_keys(seed, env.stream)
    index = np.empty(n_arms)
    for t in range(first + 1, last + 1):
        optimism = (2.0 * math.log(t)) ** exponent
        for i in range(n_arms):
            if t > next_end[i]:  # some samples were kept for the last time
                next_end[i], n_left = math.inf, 0
                for j in range(int(waiting[i])):
                    if ends[i, j] < t:
                        kept[i] -= values[i, j]
                    else:
                        ends[i, n_left], values[i, n_left] = ends[i, j], values[i, j]
                        next_end[i] = min(next_end[i], ends[i, j])
                        n_left += 1
                waiting[i] = n_left
            index[i] = kept[i] / pulls[i] - width[i] * optimism if pulls[i] > 0 else -math.inf
        arm = argmin(index)
        phase = phase_at(env.starts, t)
        loss = draw_loss(env, loss_key, phase, t, arm)
        pulls[arm] += 1.0
        width[arm] = 4.0 * known.sigma * pulls[arm] ** -exponent
        end = last_round(loss, pulls[arm], known.sigma, known.alpha)
        if end >= t:
            kept[arm] += loss
            if end < known.horizon:
                j = int(waiting[arm])
                if j == CAPACITY:
                    raise RuntimeError("robust_ucb: more large losses than sigma allows")
                ends[arm, j], values[arm, j] = end, loss
                waiting[arm] = j + 1
                next_end[arm] = min(next_end[arm], end)
        count(env, phase, arm, end < t, tally)


def ucb1_state(n_arms: int) -> tuple[Vector, Vector]:
    """Sums [K] and numbers [K] of the losses seen."""
    return np.zeros(n_arms), np.zeros(n_arms)


@jit
def ucb1_simulate(
    env: Bandit,
    known: Known,
    seed: int,
    first: int,
    last: int,
    state: tuple[Vector, Vector],
    tally: Vector,
) -> None:
    """UCB1 (Auer et al. 2002) on losses: least mean - sqrt(2 log t / n); reads nothing.

    Made for losses in an interval of length 1.
    """
    sums, pulls = state
    loss_key, _ = stream_keys(seed, env.stream)
    index = np.empty(sums.size)
    for t in range(first + 1, last + 1):
        optimism = 2.0 * math.log(t)
        for i in range(sums.size):
            if pulls[i] > 0:
                index[i] = sums[i] / pulls[i] - math.sqrt(optimism / pulls[i])
            else:
                index[i] = -math.inf
        arm = argmin(index)
        phase = phase_at(env.starts, t)
        loss = draw_loss(env, loss_key, phase, t, arm)
        sums[arm] += loss
        pulls[arm] += 1.0
        count(env, phase, arm, False, tally)
