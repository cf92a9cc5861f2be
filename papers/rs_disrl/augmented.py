"""The augmented MDP: the state is (s, y), y the reward so far, and return laws are expectations.

A model is its joint kernel q [H, S, A, S, R], q[h, s, a, s', r] = P(s', reward r/m | s, a) with
R = m + 1, and T_h(s', y' | s, y, a) = q[h, s, a, s', y' - y]. A policy is an array [H, S, Y] of
actions: Markov in (s, y), which is as good as any history-dependent one. Steps count from 0, y is
in units of 1/m; at step h only y <= h m can occur, and entries beyond are left at 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from papers.rs_disrl.risk import Array, Risk, jit, link

Policy = NDArray[np.int64]

EXACT, KL, HOEFFDING = range(3)  # a backup takes the kernel at its word, or a ball around it
TIE = 1e-12  # actions whose values are closer count as equal: rounding decides nothing


@jit
def law(q: Array, policy: Policy, start: int) -> Array:
    """Law of the return, pmf [Y], of a policy from (start, 0): the forward recursion."""
    H, S, _, _, R = q.shape
    Y = H * (R - 1) + 1
    now = np.zeros((S, Y))
    now[start, 0] = 1.0
    for h in range(H):
        after = np.zeros((S, Y))
        for s in range(S):
            for y in range(h * (R - 1) + 1):
                if now[s, y] > 0.0:
                    step = q[h, s, policy[h, s, y]]
                    for s2 in range(S):
                        for r in range(R):
                            after[s2, y + r] += now[s, y] * step[s2, r]
        now = after
    pmf = np.zeros(Y)
    for s in range(S):
        pmf += now[s]
    return pmf


@jit
def bellman_cdf(step: Array, y: int, F_next: Array, out: Array) -> None:
    """Distributional Bellman backup of CDFs, out [Y] = F_h(. | s, y, a).

    F_h(x | s, y, a) = sum_{s', r} q_h(s', r | s, a) F_{h+1}(x | s', y + r): for each x an ordinary
    expectation, which is what makes regression on CDFs possible.

    Args:
        step: [S, R], q[h, s, a].
        y: reward so far.
        F_next: [S, Y, Y], F_{h+1}(x | s', y') under the policy, x last.
        out: [Y], overwritten.
    """
    S, R = step.shape
    out[:] = 0.0
    for s2 in range(S):
        for r in range(R):
            p = step[s2, r]
            for x in range(out.size):
                out[x] += p * F_next[s2, y + r, x]


@jit
def cdf_tables(q: Array, policy: Policy, F: Array) -> None:
    """F [H + 1, S, Y, Y]: F_h^pi(x | s, y) of the total return, x last; F_H = 1{y <= x}."""
    H, S, _, _, R = q.shape
    Y = H * (R - 1) + 1
    for s in range(S):
        for y in range(Y):
            for x in range(Y):
                F[H, s, y, x] = 1.0 if y <= x else 0.0
    for h in range(H - 1, -1, -1):
        for s in range(S):
            for y in range(h * (R - 1) + 1):
                bellman_cdf(q[h, s, policy[h, s, y]], y, F[h + 1], F[h, s, y])


@jit
def kl_max(p: Array, v: Array, kappa: float) -> float:
    """max <p', v> over distributions p' with KL(p || p') <= kappa (Filippi et al. 2010).

    The optimum is p'_i = p_i / (lam - v_i) / sum, lam > max v the root of
    f(lam) = sum p_i log(lam - v_i) + log sum p_i / (lam - v_i) = kappa, and f decreases. If p has
    no mass on argmax v and f(max v) < kappa, the outcome never seen gets 1 - exp(f(max v) - kappa).
    Newton's method on t = lam - max v inside the bracket (0, w / (2 sqrt(kappa))], w the range of v
    on the support: there f <= w^2 / (4 t^2) by Kantorovich's inequality.
    """
    top, low, on_top, mean, square = -math.inf, math.inf, 0.0, 0.0, 0.0
    for i in range(p.size):
        top = max(top, v[i])
    for i in range(p.size):
        if p[i] > 0.0:
            low = min(low, v[i])
            mean += p[i] * (top - v[i])
            square += p[i] * (top - v[i]) ** 2
            if v[i] == top:
                on_top += p[i]
    width = top - low
    if width <= 0.0:
        return top
    if kappa <= 0.0:
        return top - mean
    if on_top == 0.0:
        logs, inverse = 0.0, 0.0
        for i in range(p.size):
            if p[i] > 0.0:
                logs += p[i] * math.log(top - v[i])
                inverse += p[i] / (top - v[i])
        f = logs + math.log(inverse)
        if f < kappa:
            return top - math.exp(f - kappa) / inverse
    left, right = 0.0, width / (2.0 * math.sqrt(kappa)) * (1.0 + 1e-9)
    t = math.sqrt(max(square - mean * mean, 0.0) / (2.0 * kappa)) - mean
    if not left < t < right:
        t = 0.5 * right
    inverse = 1.0
    for _ in range(200):
        logs, inverse, squares = 0.0, 0.0, 0.0
        for i in range(p.size):
            if p[i] > 0.0:
                distance = t + (top - v[i])
                logs += p[i] * math.log(distance)
                inverse += p[i] / distance
                squares += p[i] / (distance * distance)
        excess = logs + math.log(inverse) - kappa
        if abs(excess) <= 1e-13 * (1.0 + kappa) or right - left <= 1e-15 * right:
            break
        if excess > 0.0:
            left = t
        else:
            right = t
        t -= excess / (inverse - squares / inverse)
        if not left < t < right:
            t = 0.5 * (left + right)
    return top + t - 1.0 / inverse


@jit
def backup(kind: int, p: Array, n: float, width: float, v: Array) -> float:
    """Value of an action: <p, v>, or its largest value in the confidence set of n observations.

    KL: {p': n KL(p || p') <= width}. HOEFFDING: min(<p, v> + sqrt(width / (2 n)) range(v), max v).
    Never tried: max v, unless EXACT.
    """
    if kind == KL and n > 0.0:
        return kl_max(p, v, width / n)
    mean, top, bottom = 0.0, -math.inf, math.inf
    for i in range(p.size):
        mean += p[i] * v[i]
        top, bottom = max(top, v[i]), min(bottom, v[i])
    if kind == EXACT:
        return mean
    return min(mean + math.sqrt(width / (2.0 * n)) * (top - bottom), top) if n > 0.0 else top


@jit
def plan(
    q: Array,
    counts: Array,
    width: float,
    kind: int,
    risk: Risk,
    start: int,
    V: Array,
    policy: Policy,
) -> float:
    """max over policies (and kernels in the confidence set) of rho(Z), by dynamic programming.

    For each c: V_H = u_c(y), V_h(s, y) = max_a backup of V_{h+1}(s', y + r); the best c wins. The
    confidence set may choose another kernel at each (h, s, y, a): a superset, hence optimistic.

    Args:
        q: [H, S, A, S, R] kernel, or its estimate.
        counts: [H, S, A] observations behind the estimate; unused if EXACT.
        width: of the confidence set; unused if EXACT.
        kind: EXACT, KL or HOEFFDING.
        risk: the objective.
        start: first state.
        V: [C, H + 1, S, Y], overwritten by the values.
        policy: [H, S, Y], overwritten by the best policy.
    """
    H, S, A, _, R = q.shape
    Y = H * (R - 1) + 1
    v = np.empty(S * R)
    trial = np.zeros((H, S, Y), np.int64)
    best = -math.inf
    for c in range(risk.utilities.shape[0]):
        for s in range(S):
            V[c, H, s] = risk.utilities[c]
        for h in range(H - 1, -1, -1):
            for y in range(h * (R - 1) + 1):
                for s2 in range(S):
                    for r in range(R):
                        v[s2 * R + r] = V[c, h + 1, s2, y + r]
                for s in range(S):
                    if h == 0 and s != start:
                        continue
                    V[c, h, s, y] = -math.inf
                    for a in range(A):
                        step = q[h, s, a].reshape(S * R)
                        value = backup(kind, step, counts[h, s, a], width, v)
                        if value > V[c, h, s, y] + TIE:
                            trial[h, s, y] = a
                        V[c, h, s, y] = max(V[c, h, s, y], value)
        if V[c, 0, start, 0] > best + TIE:
            policy[:] = trial
        best = max(best, V[c, 0, start, 0])
    return link(best, risk.beta)


def values_buffer(q: Array, risk: Risk) -> Array:
    """[C, H + 1, S, Y] for :func:`plan`."""
    H, S = q.shape[:2]
    return np.zeros((len(risk.utilities), H + 1, S, risk.utilities.shape[1]))


def optimum(q: Array, risk: Risk, start: int) -> tuple[float, Policy]:
    """V* = max over all policies of rho(Z) in the model q, and a policy that attains it."""
    H, S, A, _, R = q.shape
    policy = np.zeros((H, S, H * (R - 1) + 1), np.int64)
    counts, V = np.zeros((H, S, A)), values_buffer(q, risk)
    return plan(q, counts, 0.0, EXACT, risk, start, V, policy), policy
