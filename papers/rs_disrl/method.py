"""RS-DisRL-M and RS-DisRL-V on a finite class of models, everything exact (instantiation I1).

Model class M = {M_1 .. M_N}. With pi_i the optimal augmented policy of M_i, the optimistic planner
argmax over policies and live models of rho is the live model of largest own optimum, a lookup.
A set of estimates is {losses within beta of the least loss}:

    M-MLE   loss(T) = - sum log T(s'_{i,h} | ...)                                    play_m
    M-LSR   loss(T) = sum ( <T_h, F^i_{h+1}(x_{i,h})> - F^i_{h+1}(x_{i,h} | s'_{i,h}) )^2
            F^i the CDFs of the pair played in episode i, frozen; x the most uncertain threshold
    V-LSR   Z = Z^{pi_j, M_b}: the loss of its own backup against the backups of all M_a,   play_v
            mean over x of ( (T_{M_a} F)(x | s, y, a) - F_{h+1}(x | s', y') )^2, for each h
    V-MLE   the same with - log f_{T_{M_a} Z}(z), z ~ Z_{h+1}(s', y')
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.rs_disrl.augmented import Policy, bellman_cdf, cdf_tables, law
from papers.rs_disrl.risk import Array, Risk, jit, rho

RECORD = ("regret", "optimistic", "inside", "live")  # what an episode leaves behind
REGRET, OPTIMISTIC, INSIDE, LIVE = range(4)

MLE, LSR, LSR_WIDTH = 0, 1, 2  # estimators; LSR_WIDTH: V-LSR with one threshold per observation
FLOOR = 1e-12  # of probabilities in likelihoods


class FiniteClass(NamedTuple):
    """A class of models and what is known of each before the first episode; no truth in it."""

    models: Array  # [N, H, S, A, S, R]
    policies: Policy  # [N, H, S, Y], the optimal policy of each model
    values: Array  # [N], its value in its own model
    order: NDArray[np.int64]  # [N], models from the largest value down
    start: int  # first state


class Truth(NamedTuple):
    """What the evaluator knows; the learner sees sampled steps alone."""

    q: Array  # [H, S, A, S, R]
    index: int  # position of the truth in the class; -1: not in it
    optimum: float  # V*
    regrets: Array  # [N], V* - rho of each policy of the class under the truth


@jit
def sample(step: Array, u: float) -> tuple[int, int]:
    """(s', r) drawn from step [S, R] by inversion of the uniform u."""
    S, R = step.shape
    total = 0.0
    for s2 in range(S):
        for r in range(R):
            total += step[s2, r]
            if u < total:
                return s2, r
    for i in range(S * R - 1, -1, -1):  # u beyond the rounded total: the last outcome possible
        if step[i // R, i % R] > 0.0:
            break
    return i // R, i % R


@jit
def widest_threshold(
    models: Array,
    live: NDArray[np.bool_],
    h: int,
    s: int,
    a: int,
    y: int,
    F_next: Array,
    pred: Array,
) -> int:
    """x_{k,h}: where the live models disagree most on F_h(x | s, y, a), the first if tied.

    pred [N, Y] is overwritten by the predictions sum T_n F_{h+1}(x | .) of all models.
    """
    N, Y = pred.shape
    for n in range(N):
        bellman_cdf(models[n, h, s, a], y, F_next, pred[n])
    best, widest = 0, -1.0
    for x in range(Y):
        least, most = math.inf, -math.inf
        for n in range(N):
            if live[n]:
                least, most = min(least, pred[n, x]), max(most, pred[n, x])
        if most - least > widest + 1e-15:
            best, widest = x, most - least
    return best


@jit
def play_m(
    cls: FiniteClass,
    truth: Truth,
    estimator: int,
    beta: float,
    uniforms: Array,
    first: int,
    last: int,
    losses: Array,
    record: Array,
) -> None:
    """RS-DisRL-M, episodes first .. last - 1.

    Args:
        cls: the class.
        truth: steps are drawn from it, and regret and coverage are read from it.
        estimator: MLE or LSR.
        beta: width of the confidence set; 0: greedy.
        uniforms: [K, H], one for each step.
        first: episodes played so far.
        last: episodes played at the end.
        losses: [N] so far, updated: all that the learner remembers.
        record: [K, 4] of RECORD, rows first .. last - 1 are written.
    """
    N, H, S, A, _, R = cls.models.shape
    Y = H * (R - 1) + 1
    F, pred = np.zeros((H + 1, S, Y, Y)), np.zeros((N, Y))
    live = np.zeros(N, np.bool_)
    for k in range(first, last):
        least = losses.min()
        n_live = 0
        for n in range(N):
            live[n] = losses[n] - least <= beta
            n_live += live[n]
        i = cls.order[0]
        for n in cls.order:  # optimistic planning: the live model of largest value
            if live[n]:
                i = n
                break
        record[k, REGRET] = truth.regrets[i]
        record[k, OPTIMISTIC] = cls.values[i]
        record[k, INSIDE] = truth.index >= 0 and live[truth.index]
        record[k, LIVE] = n_live
        if estimator == LSR:
            cdf_tables(cls.models[i], cls.policies[i], F)
        s, y = cls.start, 0
        for h in range(H):
            a = cls.policies[i, h, s, y]
            s2, r = sample(truth.q[h, s, a], uniforms[k, h])
            if estimator == LSR:
                x = widest_threshold(cls.models, live, h, s, a, y, F[h + 1], pred)
                target = F[h + 1, s2, y + r, x]
                for n in range(N):
                    losses[n] += (pred[n, x] - target) ** 2
            else:
                for n in range(N):
                    losses[n] -= math.log(max(cls.models[n, h, s, a, s2, r], FLOOR))
            s, y = s2, y + r


class ValueClass(NamedTuple):
    """The candidates Z^{pi_j, M_b} of RS-DisRL-V, and what each observation costs each backup."""

    F: Array  # [N, N, H + 1, S, Y, Y], F^{pi_j, M_b}_h(x | s, y), x last
    values: Array  # [N, N], rho of each candidate
    order: NDArray[np.int64]  # [N * N], candidates j N + b from the largest value down
    costs: NDArray[np.float32]  # [N, N, H, S, (H-1) m + 1, A, O, N]: policy, model; step, state, y,
    # action; outcome (LSR: s' R + r; MLE: z); loss of the backup by each model


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
    )
    fill_value_class(models, policies, start, risk, estimator, cls)
    cls.order[:] = np.argsort(-cls.values.ravel(), kind="stable")
    return cls


@jit
def candidate_lives(losses: Array, b: int, beta: float) -> bool:
    """Whether Z^{pi, M_b} is within beta of the best backup at every step; losses [H, N]."""
    lives = True
    for h in range(losses.shape[0]):
        least = losses[h, b] - beta
        for a in range(losses.shape[1]):
            lives = lives and losses[h, a] >= least
    return lives


@jit
def quantile(F: Array, u: float) -> int:
    """The least x with u < F(x): the value that the uniform u draws from the CDF F [Y]."""
    for x in range(F.size - 1):
        if u < F[x]:
            return x
    return F.size - 1


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
    losses: Array,
    record: Array,
) -> None:
    """RS-DisRL-V, episodes first .. last - 1: off-policy data count for every candidate.

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
        losses: [N, N, H, N] so far (policy j, model b, step, backup by a), updated.
        record: [K, 4] of RECORD; "inside": Z^{pi_j, truth} lives for every j.
    """
    N, _, H, _ = losses.shape
    R = truth.q.shape[-1]
    for k in range(first, last):
        n_live, chosen = 0, -1
        for candidate in cls.order:  # optimistic planning: the live candidate of largest value
            j, b = candidate // N, candidate % N
            if candidate_lives(losses[j, b], b, beta):
                n_live += 1
                if chosen < 0:
                    chosen = candidate
                    if not counted[k]:
                        break
        chosen = max(chosen, 0)  # own losses all too large: possible in principle, never seen
        inside = truth.index >= 0
        if inside:
            for j in range(N):
                inside = inside and candidate_lives(losses[j, truth.index], truth.index, beta)
        i = chosen // N
        record[k, REGRET] = truth.regrets[i]
        record[k, OPTIMISTIC] = cls.values[i, chosen % N]
        record[k, INSIDE] = inside
        record[k, LIVE] = n_live
        s, y = start, 0
        for h in range(H):
            act = policies[i, h, s, y]
            s2, r = sample(truth.q[h, s, act], uniforms[k, h])
            for j in range(N):
                for b in range(N):
                    outcome = s2 * R + r
                    if estimator == MLE:
                        outcome = quantile(cls.F[j, b, h + 1, s2, y + r], draws[k, h])
                    costs, loss = cls.costs[j, b, h, s, y, act, outcome], losses[j, b, h]
                    for a in range(N):
                        loss[a] += costs[a]
            s, y = s2, y + r


def beta_m(estimator: int, n_models: int, horizon: int, delta: float, tuned: bool) -> float:
    """Widths of RS-DisRL-M: MLE log(N H / delta); LSR (1/2) log(N / delta), valid at all times.

    exp(2 (loss(T*) - loss(T))) is a supermartingale by Hoeffding's lemma, hence 1/2; the tuned
    width (1/4) log(N H / delta) has no proof.
    """
    if estimator == MLE:
        return math.log(n_models * horizon / delta)
    if tuned:
        return 0.25 * math.log(n_models * horizon / delta)
    return 0.5 * math.log(n_models / delta)


def beta_v(estimator: int, n_models: int, horizon: int, delta: float) -> float:
    """Widths of RS-DisRL-V: the union bound also runs over policies and steps."""
    whole = math.log(n_models**2 * horizon / delta)
    return whole if estimator == MLE else 0.5 * whole
