"""Heavy-tailed bandits: loss tables, the loss generator, and what is true about them.

A loss is l_{t,i} = offset_{t,i} + slope_{t,i} * P, where P is Pareto of tail index ``tail`` scaled
to mean 1: its moments are finite up to ``tail`` = alpha + 0.05, so the alpha-th is and the second
is not. Means are offset + slope. Tables are piecewise constant in t (``starts``).

Random numbers are a pure function of (stream, seed, round, arm): SplitMix64 of a counter. The loss
of an arm at a round therefore does not depend on what was played before, and all methods at a
(environment, seed) meet the same losses and draw their actions with the same uniforms.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.jit import jit_of
from common.random_bits import SOURCE as RANDOM_BITS
from common.random_bits import mix64, uniform

TAIL_ABOVE_ALPHA = 0.05  # tail index minus alpha: the alpha-th moment is finite, barely
GAP = 0.2  # Delta of E2, E3
TASKS = ("e1", "e1-k2", "e1-k10", "e1-k50", "e2", "e3-s1", "e3-s20", "e3-s100", "e4")
ALPHAS = (1.3, 1.5, 1.8)

TALLY = ("regret", "best_pulls", "skipped")  # what a run counts, in this order
REGRET, BEST_PULLS, SKIPPED = range(3)


_FILES = ("task", "method", "baselines")
jit = jit_of(*(Path(__file__).with_name(f"{name}.py") for name in _FILES), RANDOM_BITS)


class Bandit(NamedTuple):
    """A bandit of K arms and P phases; what the learner must not see."""

    slope: NDArray[np.float64]  # [P, K], factor of the unit-mean Pareto variable
    offset: NDArray[np.float64]  # [P, K]
    starts: NDArray[np.int64]  # [P], first round of each phase; starts[0] = 1
    gaps: NDArray[np.float64]  # [P, K], mean minus the mean of the best fixed arm
    best: int  # the best fixed arm over the horizon, i*
    tail: float  # tail index of the Pareto variable
    stream: int  # number of the environment's stream of random numbers
    horizon: int  # T, rounds


class Known(NamedTuple):
    """What a learner may be told; each method says in its docstring what it reads."""

    horizon: float  # T, rounds
    sigma: float  # scale: E|l|^alpha <= sigma^alpha
    alpha: float  # tail parameter in (1, 2]


# -- random numbers and losses ------------------------------------------------------------------


@jit
def stream_keys(seed: int, stream: int) -> tuple[int, int]:
    """Keys of the loss stream and of the action stream of a (seed, environment)."""
    key = mix64(mix64(np.uint64(seed) + np.uint64(1)) + np.uint64(stream))
    losses, actions = mix64(key ^ np.uint64(0x6C6F73736573)), mix64(key ^ np.uint64(0x616374696F6E))
    # 63 bits: an int64 from Python as from here, hence one compiled version of what takes a key
    return np.int64(losses >> np.uint64(1)), np.int64(actions >> np.uint64(1))


@jit
def loss_uniform(loss_key: int, t: int, arm: int) -> float:
    """Uniform behind the loss of ``arm`` (< 256) at round t, whatever was played."""
    return uniform(loss_key, np.uint64(t) * np.uint64(256) + np.uint64(arm))


@jit
def action_uniform(action_key: int, t: int) -> float:
    """Uniform with which a randomised method draws its action at round t."""
    return uniform(action_key, t)


@jit
def draw_loss(env: Bandit, loss_key: int, phase: int, t: int, arm: int) -> float:
    """Loss of ``arm`` at round t; ``phase`` is the row of the tables that holds at t."""
    pareto = loss_uniform(loss_key, t, arm) ** (-1.0 / env.tail)
    unit_mean = pareto * (env.tail - 1.0) / env.tail
    return env.offset[phase, arm] + env.slope[phase, arm] * unit_mean


@jit
def phase_at(starts: NDArray[np.int64], t: int) -> int:
    """Row of the tables that holds at round t."""
    return np.searchsorted(starts, t, side="right") - 1


@jit
def sample(x: NDArray[np.float64], u: float) -> int:
    """Arm drawn from the distribution x [K] by inversion."""
    cumulative = 0.0
    for i in range(x.size - 1):
        cumulative += x[i]
        if u < cumulative:
            return i
    return x.size - 1


@jit
def count(env: Bandit, phase: int, arm: int, skipped: bool, tally: NDArray[np.float64]) -> None:
    """Add a round to ``tally``: pseudo-regret by means (never by losses), pulls of i*, skips."""
    tally[0] += env.gaps[phase, arm]
    tally[1] += arm == env.best
    tally[2] += skipped


# -- environments -------------------------------------------------------------------------------


def bandit(
    *,
    slope: NDArray[np.float64],
    offset: NDArray[np.float64],
    starts: NDArray[np.int64],
    tail: float,
    stream: int,
    horizon: int,
) -> Bandit:
    """Complete the tables with the best fixed arm over the horizon and the gaps to it."""
    slope, offset = np.ascontiguousarray(slope, float), np.ascontiguousarray(offset, float)
    starts = np.ascontiguousarray(starts, np.int64)
    means = slope + offset  # [P, K]
    ends = np.append(starts[1:], horizon + 1)
    lengths = np.clip(np.minimum(ends, horizon + 1) - starts, 0, None)
    best = int(np.argmin(lengths @ means))
    gaps = means - means[:, best : best + 1]
    return Bandit(slope, offset, starts, gaps, best, tail, stream, horizon)


def phase_starts(horizon: int, growth: float = 1.6) -> NDArray[np.int64]:
    """First rounds of the phases of E2: n(t) = floor(log_growth(t + 1)) changes there."""
    starts, n = [1], 1
    while (start := math.ceil(growth**n) - 1) <= horizon:
        if start > starts[-1]:
            starts.append(start)
        n += 1
    return np.array(starts, np.int64)


def make_env(name: str, alpha: float, horizon: int) -> Bandit:
    """The environment ``name`` (see TASKS) with tail parameter alpha over ``horizon`` rounds.

    Raises:
        UserError: if there is no such environment or alpha is not in (1, 2].
    """
    choose("task", name, TASKS)
    if not 1 < alpha <= 2:
        raise UserError(f"alpha must be in (1, 2], not {alpha}")
    tail = alpha + TAIL_ABOVE_ALPHA
    family, _, variant = name.partition("-")
    starts = np.array([1], np.int64)
    offset = np.zeros((1, 4))
    if family == "e1":  # stochastic; one arm of mean 0.2, the others 0.4
        n_arms = int(variant[1:] or 4)
        slope = np.full((1, n_arms), 0.4)
        slope[0, 0] = 0.2
        offset = np.zeros((1, n_arms))
    elif family == "e2":  # stochastically constrained adversary: the gap stays, the level jumps
        starts = phase_starts(horizon)
        n = np.floor(np.log(starts + 1.0 + 1e-9) / math.log(1.6)).astype(int)
        base = np.where(n % 2 == 0, 0.0, 1.0 - GAP)
        slope = np.repeat(base[:, None], 4, axis=1)
        slope[:, 1:] += GAP
        offset = np.zeros_like(slope)
    elif family == "e3":  # heavy negative outliers on the arms that are not the best
        scale = float(variant[1:])
        slope = scale * np.array([[0.2, -0.3, -0.3, -0.3]])
        offset = scale * (0.5 + GAP) * np.array([[0.0, 1.0, 1.0, 1.0]])
    else:  # e4: oblivious switch at half time
        slope = np.array([[0.2, 0.4, 0.6, 0.6], [0.6, 0.2, 0.6, 0.6]])
        offset = np.zeros((2, 4))
        starts = np.array([1, horizon // 2 + 1], np.int64)
    return bandit(
        slope=slope,
        offset=offset,
        starts=starts,
        tail=tail,
        stream=int(family[1:]),
        horizon=horizon,
    )


def absolute_moment(offset: float, slope: float, alpha: float, tail: float) -> float:
    """E|offset + slope * P|^alpha of the unit-mean Pareto variable P.

    With P = c U^(-1/s), c = (s-1)/s and U = V^(s/(s-alpha)) the integrand loses its singularity:
    the moment is s/(s-alpha) * int_0^1 |offset * v^(1/(s-alpha)) + slope * c|^alpha dv, smooth but
    for one kink, at which Gauss-Legendre quadrature is split.
    """
    power, c = 1.0 / (tail - alpha), (tail - 1.0) / tail
    kinks = [0.0, 1.0]
    if offset * slope < 0 and (ratio := -slope * c / offset) < 1:
        kinks.insert(1, ratio ** (1.0 / power))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    total = 0.0
    for a, b in itertools.pairwise(kinks):
        v = (a + b) / 2 + (b - a) / 2 * nodes
        total += (b - a) / 2 * float(weights @ np.abs(offset * v**power + slope * c) ** alpha)
    return tail * power * total


def true_sigma(env: Bandit, alpha: float) -> float:
    """Smallest sigma with E|l_{t,i}|^alpha <= sigma^alpha for all arms and rounds."""
    cells = {
        (float(o), float(s))
        for o, s in zip(env.offset.ravel(), env.slope.ravel(), strict=True)
        if o or s
    }
    return max(absolute_moment(o, s, alpha, env.tail) for o, s in cells) ** (1.0 / alpha)


def checkpoints(horizon: int, n: int = 25, first: int = 100) -> list[int]:
    """n log-spaced rounds from ``first`` to the horizon; the decade before the end is among them.

    For horizons that are not a power of ten times ``first`` the rounds nearest to the grid.
    """
    grid = np.geomspace(min(first, horizon), horizon, n)
    rounds = {round(float(t)) for t in grid} | {max(1, horizon // 10), horizon}
    return sorted(rounds)
