"""RS-DisRL-M on a finite class of models, everything exact (instantiation I1).

Model class M = {M_1 .. M_N}. With pi_i the optimal augmented policy of M_i, the optimistic planner
argmax over policies and live models of rho is the live model of largest own optimum, a lookup.
A set of estimates is {losses within beta of the least loss}:

    M-MLE   loss(T) = - sum log T(s'_{i,h} | ...)                                    play_m
    M-LSR   loss(T) = sum ( <T_h, F^i_{h+1}(x_{i,h})> - F^i_{h+1}(x_{i,h} | s'_{i,h}) )^2
            F^i the CDFs of the pair played in episode i, frozen; x the most uncertain threshold
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.rs_disrl.augmented import Policy, cdf_tables
from papers.rs_disrl.risk import Array, jit

RECORD = ("regret", "optimistic", "inside", "live")  # what an episode leaves behind
REGRET, OPTIMISTIC, INSIDE, LIVE = range(4)

MLE, LSR = 0, 1  # estimators
FLOOR = 1e-12  # of probabilities in likelihoods


class FiniteClass(NamedTuple):
    """A class of models and what is known of each before the first episode; no truth in it."""

    models: Array  # [N, H, S, A, S, R]
    rows: Array  # [H, S, A, S R, N], the same with the models last
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


def models_last(models: Array) -> Array:
    """[N, H, S, A, S, R] -> [H, S, A, S R, N]."""
    N, H, S, A, _, R = models.shape
    return np.ascontiguousarray(np.moveaxis(models.reshape(N, H, S, A, S * R), 0, -1))


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
    rows: Array, live: NDArray[np.bool_], y: int, F_next: Array, pred: Array
) -> int:
    """x_{k,h}: where the live models disagree most on F_h(x | s, y, a), the first if tied.

    Args:
        rows: [S R, N], q_h(s', r | s, a) of all models.
        live: [N].
        y: reward so far.
        F_next: [S, Y, Y], F_{h+1}(x | s', y').
        pred: [Y, N], overwritten by the predictions sum T_n F_{h+1}(x | .) of all models.
    """
    Y, N = pred.shape
    R = rows.shape[0] // F_next.shape[0]
    best, widest = 0, -1.0
    for x in range(Y):
        for n in range(N):
            pred[x, n] = 0.0
        for outcome in range(rows.shape[0]):
            weight = F_next[outcome // R, y + outcome % R, x]
            for n in range(N):
                pred[x, n] += weight * rows[outcome, n]
        least, most = math.inf, -math.inf
        for n in range(N):
            if live[n]:
                least, most = min(least, pred[x, n]), max(most, pred[x, n])
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
    F, pred = np.zeros((H + 1, S, Y, Y)), np.zeros((Y, N))
    tabled = -1  # the model whose CDFs are in F
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
        if estimator == LSR and i != tabled:
            tabled = i
            cdf_tables(cls.models[i], cls.policies[i], F)
        s, y = cls.start, 0
        for h in range(H):
            a = cls.policies[i, h, s, y]
            s2, r = sample(truth.q[h, s, a], uniforms[k, h])
            if estimator == LSR:
                x = widest_threshold(cls.rows[h, s, a], live, y, F[h + 1], pred)
                target = F[h + 1, s2, y + r, x]
                for n in range(N):
                    losses[n] += (pred[x, n] - target) ** 2
            else:
                for n in range(N):
                    losses[n] -= math.log(max(cls.rows[h, s, a, s2 * R + r, n], FLOOR))
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
