"""RS-DisRL-M without a finite class: all tabular models (instantiation I2).

    MLE   {T: N_h(s, a) KL(p_hat || p) <= beta at every (h, s, a)}, p over (s', r) jointly
    LSR   {T: <p - p_hat, V> <= sqrt(beta / (2 N)) range(V)} at every value V that planning meets

The set of LSR is one-sided: it holds the kernels that are not much better than the estimate, all
that optimism asks for.

Both are relaxed to choose another kernel at each (h, s, y, a); planning stays optimistic and is a
dynamic program (``augmented.plan``).
"""

from __future__ import annotations

import math

import numpy as np

from papers.rs_disrl.augmented import HOEFFDING, KL, Policy, law, plan
from papers.rs_disrl.method import INSIDE, LIVE, OPTIMISTIC, REGRET, Truth, sample
from papers.rs_disrl.risk import Array, Risk, jit, rho

VALUE, REGRET_NOW, COVERED, DUE = range(4)  # of the last plan; DUE: a count has doubled since


@jit
def covered(
    kind: int, truth: Array, p_hat: Array, counts: Array, width: float, V: Array, start: int
) -> bool:
    """Evaluator: is the true kernel in the confidence set of the last plan?

    Args:
        kind: KL or HOEFFDING.
        truth: [H, S, A, S, R].
        p_hat: [H, S, A, S, R].
        counts: [H, S, A].
        width: beta.
        V: [C, H + 1, S, Y] of the last plan, for HOEFFDING.
        start: first state.
    """
    H, S, A, _, R = truth.shape
    for h in range(H):
        for s in range(S):
            if h == 0 and s != start:
                continue
            for a in range(A):
                n = counts[h, s, a]
                if n == 0.0:
                    continue
                if kind == KL:
                    divergence = 0.0
                    for s2 in range(S):
                        for r in range(R):
                            p = p_hat[h, s, a, s2, r]
                            if p > 0.0:
                                divergence += p * math.log(p / truth[h, s, a, s2, r])
                    if n * divergence > width:
                        return False
                else:
                    for c in range(V.shape[0]):
                        for y in range(h * (R - 1) + 1):
                            shift, most, least = 0.0, -math.inf, math.inf
                            for s2 in range(S):
                                for r in range(R):
                                    v = V[c, h + 1, s2, y + r]
                                    most, least = max(most, v), min(least, v)
                                    shift += (truth[h, s, a, s2, r] - p_hat[h, s, a, s2, r]) * v
                            if shift > math.sqrt(width / (2.0 * n)) * (most - least) + 1e-12:
                                return False
    return True


@jit
def play_tabular(
    truth: Truth,
    start: int,
    objective: Risk,
    risk: Risk,
    kind: int,
    width: float,
    replan: int,
    uniforms: Array,
    first: int,
    last: int,
    counts: Array,
    policy: Policy,
    scalars: Array,
    record: Array,
) -> None:
    """Episodes first .. last - 1 of optimistic planning for ``objective``, regret under ``risk``.

    Args:
        truth: steps are drawn from it; V*, regret and coverage are read from it.
        start: first state.
        objective: what is planned for; ``risk``, but for the risk-neutral baseline.
        risk: what counts.
        kind: KL (M-MLE), HOEFFDING (M-LSR), or EXACT: the plug-in estimate, greedy.
        width: beta.
        replan: episodes between plans; whenever a count doubles there is one as well.
        uniforms: [K, H], one for each step.
        first: episodes played so far.
        last: episodes played at the end.
        counts: [H, S, A, S, R] outcomes so far, updated.
        policy: [H, S, Y] of the last plan, updated.
        scalars: [4]: value, regret and coverage of the last plan, and whether one is due.
        record: [K, 4] of ``method.RECORD``.
    """
    H, S, A, _, R = truth.q.shape
    Y = H * (R - 1) + 1
    V = np.zeros((objective.utilities.shape[0], H + 1, S, Y))
    totals, p_hat = np.zeros((H, S, A)), np.empty_like(truth.q)
    for h in range(H):
        for s in range(S):
            for a in range(A):
                totals[h, s, a] = counts[h, s, a].sum()
                if totals[h, s, a] > 0.0:
                    p_hat[h, s, a] = counts[h, s, a] / totals[h, s, a]
                else:
                    p_hat[h, s, a] = 1.0 / (S * R)  # looked at by the greedy baseline alone
    for k in range(first, last):
        if k % replan == 0 or scalars[DUE] > 0.0:
            scalars[VALUE] = plan(p_hat, totals, width, kind, objective, start, V, policy)
            scalars[REGRET_NOW] = truth.optimum - rho(law(truth.q, policy, start), risk)
            inside = kind in (KL, HOEFFDING)
            if inside:
                inside = covered(kind, truth.q, p_hat, totals, width, V, start)
            scalars[COVERED] = inside
            scalars[DUE] = 0.0
        record[k, OPTIMISTIC] = scalars[VALUE]
        record[k, REGRET] = scalars[REGRET_NOW]
        record[k, INSIDE] = scalars[COVERED]
        record[k, LIVE] = 0.0
        s, y = start, 0
        for h in range(H):
            a = policy[h, s, y]
            s2, r = sample(truth.q[h, s, a], uniforms[k, h])
            counts[h, s, a, s2, r] += 1.0
            totals[h, s, a] += 1.0
            n = int(totals[h, s, a])
            if n & (n - 1) == 0:
                scalars[DUE] = 1.0
            for i in range(S):
                for j in range(R):
                    p_hat[h, s, a, i, j] = counts[h, s, a, i, j] / totals[h, s, a]
            s, y = s2, y + r


def beta_tabular(
    horizon: int, n_states: int, n_actions: int, episodes: int, delta: float, scale: float
) -> float:
    """scale * log(H S A K / delta)."""
    return scale * math.log(horizon * n_states * n_actions * episodes / delta)
