"""RS-DisRL-V on I1: value distributions instead of models, everything exact.

Candidates are Z^{pi_j, M_b}, the return laws of each policy pi_j (optimal for M_j) in each M_b;
N^2 of them. Z is judged by how well its own Bellman backup explains the data among the backups by
all models: it is live if for every step h

    loss_h(b) - min_a loss_h(a) <= beta, where, summed over the observations (s, y, a, s', y') at h,
    V-LSR   mean over x of ( (T_{M_a} F_{h+1})(x | s, y, a) - F_{h+1}(x | s', y') )^2
    V-MLE   - log f(z), f the pmf of (T_{M_a} F_{h+1})(. | s, y, a), z ~ F_{h+1}(. | s', y')

F the CDFs of Z itself. The live candidate of largest rho is played. Since the policy belongs to the
candidate, every observation counts for all of them. Losses are brought up to date only when a
candidate's life may hang on it, and those of V-LSR from counts of (s, y, a, s', r): the same sets,
without N^3 H updates per episode.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.rs_disrl.augmented import Policy, bellman_cdf, cdf_tables, law
from papers.rs_disrl.method import (
    FLOOR,
    INSIDE,
    LIVE,
    MLE,
    OPTIMISTIC,
    REGRET,
    Truth,
    sample,
)
from papers.rs_disrl.risk import Array, Risk, jit, rho

LSR_WIDTH = 2  # V-LSR with the square at one x alone, where the models differ most
RECOUNT = 40  # V-LSR: after more episodes than this, summing over counts is cheaper than replay


class ValueClass(NamedTuple):
    """The candidates Z^{pi_j, M_b} of RS-DisRL-V, and what each observation costs each backup."""

    F: Array  # [N, N, H + 1, S, Y, Y], F^{pi_j, M_b}_h(x | s, y), x last
    values: Array  # [N, N], rho of each candidate
    order: NDArray[np.int64]  # [N * N], candidates j N + b from the largest value down
    costs: NDArray[np.float32]  # [N, N, H, S, (H-1) m + 1, A, O, N]: policy, model; step, state, y,
    # action; outcome (LSR: s' R + r; MLE: z); loss of the backup by each model
    steepest: Array  # [N, N]: by how much the losses of two backups can part in one observation


@jit
def fill_value_class(
    models: Array, policies: Policy, start: int, risk: Risk, estimator: int, cls: ValueClass
) -> None:
    """Compute all tables of a :class:`ValueClass` but ``order``, in place."""
    N, H, S, A, _, R = models.shape
    Y = H * (R - 1) + 1
    pred = np.empty((N, Y))
    for j in range(N):
        for b in range(N):
            cls.values[j, b] = rho(law(models[b], policies[j], start), risk)
            steepest = 0.0
            cdf_tables(models[b], policies[j], cls.F[j, b])
            for h in range(H):
                F_next = cls.F[j, b, h + 1]
                for s in range(S):
                    for y in range(h * (R - 1) + 1):
                        for act in range(A):
                            for a in range(N):
                                bellman_cdf(models[a, h, s, act], y, F_next, pred[a])
                            costs = cls.costs[j, b, h, s, y, act]
                            if estimator == MLE:
                                log_losses(pred, costs)
                            else:
                                squared_losses(pred, F_next, y, estimator == LSR_WIDTH, R, costs)
                            for outcome in range(costs.shape[0]):
                                apart = costs[outcome].max() - costs[outcome].min()
                                steepest = max(steepest, apart)
            cls.steepest[j, b] = steepest


@jit
def log_losses(pred: Array, costs: NDArray[np.float32]) -> None:
    """V-MLE: costs [z, a] = - log pmf of z under the CDF pred [a]."""
    for a in range(pred.shape[0]):
        for z in range(pred.shape[1]):
            below = pred[a, z - 1] if z > 0 else 0.0
            costs[z, a] = -math.log(max(pred[a, z] - below, FLOOR))


@jit
def squared_losses(
    pred: Array, F_next: Array, y: int, width: bool, R: int, costs: NDArray[np.float32]
) -> None:
    """V-LSR: costs [s' R + r, a] = mean over x of (pred [a, x] - F_{h+1}(x | s', y + r))^2.

    With ``width`` the square at one x alone, where the predictions of all models differ most.
    """
    N, Y = pred.shape
    first, last = 0, Y
    if width:
        widest = -1.0
        for x in range(Y):
            most, least = -math.inf, math.inf
            for a in range(N):
                most, least = max(most, pred[a, x]), min(least, pred[a, x])
            if most - least > widest + 1e-15:
                first, widest = x, most - least
        last = first + 1
    for outcome in range(costs.shape[0]):
        target = F_next[outcome // R, y + outcome % R]
        for a in range(N):
            total = 0.0
            for x in range(first, last):
                total += (pred[a, x] - target[x]) ** 2
            costs[outcome, a] = total / (last - first)


def value_class(
    models: Array, policies: Policy, start: int, risk: Risk, estimator: int
) -> ValueClass:
    """The candidates and their costs; 134 MB at N = 32, H = S = 4, R = 2."""
    N, H, S, A, _, R = models.shape
    Y, y_max = H * (R - 1) + 1, (H - 1) * (R - 1) + 1
    n_outcomes = Y if estimator == MLE else S * R
    cls = ValueClass(
        F=np.zeros((N, N, H + 1, S, Y, Y)),
        values=np.zeros((N, N)),
        order=np.zeros(N * N, np.int64),
        costs=np.zeros((N, N, H, S, y_max, A, n_outcomes, N), np.float32),
        steepest=np.zeros((N, N)),
    )
    fill_value_class(models, policies, start, risk, estimator, cls)
    cls.order[:] = np.argsort(-cls.values.ravel(), kind="stable")
    return cls


@jit
def quantile(F: Array, u: float) -> int:
    """The least x with u < F(x): the value that the uniform u draws from the CDF F [Y]."""
    for x in range(F.size - 1):
        if u < F[x]:
            return x
    return F.size - 1


class Memory(NamedTuple):
    """What RS-DisRL-V remembers, updated in place."""

    steps: NDArray[np.int8]  # [K, H, 5]: s, y, a, s', r of what was played
    counts: Array  # [H, S, (H-1) m + 1, A, S R], how often each outcome was met
    losses: Array  # [N, N, H, N] (policy j, model b, step, backup by a), of the episodes "seen"
    seen: NDArray[np.int64]  # [N, N], episodes in the losses
    until: NDArray[np.int64]  # [N, N], whether it lives is certain for this number of episodes
    alive: NDArray[np.bool_]  # [N, N]


def new_memory(models: Array, episodes: int) -> Memory:
    """Nothing seen, all alive before the first episode; models [N, H, S, A, S, R]."""
    N, H, S, A, _, R = models.shape
    pairs = (N, N)
    return Memory(
        steps=np.zeros((episodes, H, 5), np.int8),
        counts=np.zeros((H, S, (H - 1) * (R - 1) + 1, A, S * R)),
        losses=np.zeros((*pairs, H, N)),
        seen=np.zeros(pairs, np.int64),
        until=np.zeros(pairs, np.int64),
        alive=np.ones(pairs, np.bool_),
    )


@jit
def catch_up(
    cls: ValueClass, memory: Memory, estimator: int, draws: Array, j: int, b: int, k: int
) -> None:
    """Bring the losses of candidate (j, b) up to date with the first k = all episodes so far."""
    losses, H = memory.losses[j, b], memory.steps.shape[1]
    _, S, n_y, A, n_outcomes = memory.counts.shape
    R = n_outcomes // S
    if estimator != MLE and k - memory.seen[j, b] > RECOUNT:
        losses[:] = 0.0
        for h in range(H):
            for s in range(S):
                for y in range(n_y):
                    for act in range(A):
                        for outcome in range(n_outcomes):
                            n = memory.counts[h, s, y, act, outcome]
                            if n > 0.0:
                                costs = cls.costs[j, b, h, s, y, act, outcome]
                                for a in range(costs.size):
                                    losses[h, a] += n * costs[a]
        memory.seen[j, b] = k
        return
    for e in range(memory.seen[j, b], k):
        for h in range(H):
            step = memory.steps[e, h]
            s, y, act, s2, r = step[0], step[1], step[2], step[3], step[4]
            if estimator == MLE:
                outcome = quantile(cls.F[j, b, h + 1, s2, y + r], draws[e, h])
            else:
                outcome = s2 * R + r
            costs, loss = cls.costs[j, b, h, s, y, act, outcome], losses[h]
            for a in range(loss.size):
                loss[a] += costs[a]
    memory.seen[j, b] = k


@jit
def lives(
    cls: ValueClass,
    memory: Memory,
    estimator: int,
    beta: float,
    draws: Array,
    j: int,
    b: int,
    k: int,
) -> bool:
    """Whether Z^{pi_j, M_b} is within beta of the best backup at every step, after k episodes.

    Own loss minus least loss moves by at most ``steepest`` per episode, so that a candidate far
    from the threshold need not be looked at again for a while.
    """
    if k <= memory.until[j, b]:
        return memory.alive[j, b]
    catch_up(cls, memory, estimator, draws, j, b, k)
    worst = 0.0
    for h in range(memory.losses.shape[2]):
        own = memory.losses[j, b, h, b]
        for a in range(memory.losses.shape[3]):
            worst = max(worst, own - memory.losses[j, b, h, a])
    memory.alive[j, b] = worst <= beta
    certain = abs(worst - beta) / max(cls.steepest[j, b] * (1.0 + 1e-6), 1e-12)
    memory.until[j, b] = k + int(min(certain * (1.0 - 1e-6), 1e9))
    return memory.alive[j, b]


@jit
def play_v(
    cls: ValueClass,
    policies: Policy,
    start: int,
    truth: Truth,
    estimator: int,
    beta: float,
    uniforms: Array,
    draws: Array,
    counted: NDArray[np.bool_],
    first: int,
    last: int,
    memory: Memory,
    record: Array,
) -> None:
    """RS-DisRL-V, episodes first .. last - 1.

    Args:
        cls: candidates and backups.
        policies: [N, H, S, Y].
        start: first state.
        truth: as in :func:`play_m`.
        estimator: MLE, LSR (mean over thresholds) or LSR_WIDTH (the most uncertain one).
        beta: width of the confidence set.
        uniforms: [K, H], one for each step.
        draws: [K, H], the uniforms behind V-MLE's z, common to all candidates.
        counted: [K], the episodes at which the live candidates are counted (else 1 is recorded).
        first: episodes played so far.
        last: episodes played at the end.
        memory: of :func:`new_memory`, updated.
        record: [K, 4] of RECORD; "inside": Z^{pi_j, truth} lives for every j.
    """
    N, _, H, _ = memory.losses.shape
    R = truth.q.shape[-1]
    for k in range(first, last):
        n_live, chosen = 0, -1
        for candidate in cls.order:  # optimistic planning: the live candidate of largest value
            if lives(cls, memory, estimator, beta, draws, candidate // N, candidate % N, k):
                n_live += 1
                if chosen < 0:
                    chosen = candidate
                    if not counted[k]:
                        break
        if chosen < 0:  # no candidate explains its own data: possible in principle, never seen
            chosen = cls.order[0]
        inside = truth.index >= 0
        for j in range(N):
            inside = inside and lives(cls, memory, estimator, beta, draws, j, truth.index, k)
        i = chosen // N
        record[k, REGRET] = truth.regrets[i]
        record[k, OPTIMISTIC] = cls.values[i, chosen % N]
        record[k, INSIDE] = inside
        record[k, LIVE] = n_live
        s, y = start, 0
        for h in range(H):
            a = policies[i, h, s, y]
            s2, r = sample(truth.q[h, s, a], uniforms[k, h])
            step = memory.steps[k, h]
            step[0], step[1], step[2], step[3], step[4] = s, y, a, s2, r
            memory.counts[h, s, y, a, s2 * R + r] += 1.0
            s, y = s2, y + r


def beta_v(estimator: int, n_models: int, horizon: int, delta: float) -> float:
    """Widths of RS-DisRL-V: the union bound also runs over policies and steps."""
    whole = math.log(n_models**2 * horizon / delta)
    return whole if estimator == MLE else 0.5 * whole
