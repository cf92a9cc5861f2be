"""RS-DisRL-M with LSR for linear mixtures T = sum_j theta_j T_j, theta in the simplex (I3).

Regression of the target F^i_{h+1}(x | s'_{i,h}) on the features phi_j = sum T_j F^i_{h+1}(x | .).
Since theta sums to 1, a constant can be taken from features and target alike; taking the mean
feature leaves ridge regression around the uniform mixture, and thresholds at which all base kernels
agree (x = H, say) become uninformative, as they are. The confidence set is

    {theta in the simplex: ||theta - theta_hat||_Lambda^2 <= beta},
    sqrt(beta) = (1/2) sqrt(2 log(1/delta) + log det(Lambda)) + 1    (ridge 1, noise in [0, 1]).

Planning over it is not a dynamic program: the best of a few hundred members is taken, the ends of
the chords of a hit-and-run walk. *Approximate*: optimism is measured, not guaranteed.
"""

from __future__ import annotations

import math

import numpy as np

from papers.rs_disrl.augmented import EXACT, Policy, bellman_cdf, cdf_tables, law, plan
from papers.rs_disrl.method import INSIDE, LIVE, OPTIMISTIC, REGRET, Truth, sample
from papers.rs_disrl.risk import Array, Risk, jit, rho


@jit
def project_simplex(v: Array, out: Array) -> None:
    """Euclidean projection of v [d] on the simplex: out = (v - shift)^+, Newton's method on shift.

    The sum of (v - shift)^+ is convex and piecewise linear, so that Newton's method from the left
    is exact after at most d steps.
    """
    shift = (v.sum() - 1.0) / v.size
    for _ in range(v.size + 1):
        total, positive = 0.0, 0
        for i in range(v.size):
            if v[i] > shift:
                total += v[i]
                positive += 1
        shift = (total - 1.0) / positive
    for i in range(v.size):
        out[i] = max(v[i] - shift, 0.0)


@jit
def times(matrix: Array, v: Array, out: Array) -> None:
    """out = matrix v; small, and without BLAS the same everywhere."""
    for i in range(v.size):
        out[i] = 0.0
        for j in range(v.size):
            out[i] += matrix[i, j] * v[j]


@jit
def inner(u: Array, matrix: Array, v: Array) -> float:
    """u' matrix v."""
    total = 0.0
    for i in range(v.size):
        for j in range(v.size):
            total += u[i] * matrix[i, j] * v[j]
    return total


@jit
def nearest_mixture(theta_hat: Array, Lam: Array) -> Array:
    """argmin over the simplex of ||theta - theta_hat||_Lambda, by accelerated gradients."""
    d = theta_hat.size
    step, slope = 0.0, np.empty(d)
    for i in range(d):
        step += Lam[i, i]
    step = 1.0 / step
    theta = np.full(d, 1.0 / d)
    ahead, after = theta.copy(), np.empty(d)
    momentum = 1.0
    for _ in range(500):
        times(Lam, ahead - theta_hat, slope)
        project_simplex(ahead - step * slope, after)
        grown = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum * momentum))
        moved = 0.0
        for i in range(d):
            moved = max(moved, abs(after[i] - theta[i]))
            ahead[i] = after[i] + (momentum - 1.0) / grown * (after[i] - theta[i])
            theta[i] = after[i]
        momentum = grown
        if moved < 1e-12:
            break
    return theta


@jit
def distance(theta: Array, theta_hat: Array, Lam: Array) -> float:
    """||theta - theta_hat||_Lambda^2."""
    gap = theta - theta_hat
    return inner(gap, Lam, gap)


@jit
def chord(
    theta: Array, direction: Array, theta_hat: Array, Lam: Array, beta: float
) -> tuple[float, float]:
    """The t at which theta + t direction leaves ellipsoid or simplex; theta is inside both."""
    gap = theta - theta_hat
    a, b = inner(direction, Lam, direction), inner(gap, Lam, direction)
    c = inner(gap, Lam, gap) - beta
    root = math.sqrt(max(b * b - a * c, 0.0))
    low, high = (-b - root) / a, (-b + root) / a
    for i in range(theta.size):
        if direction[i] > 0.0:
            low = max(low, -theta[i] / direction[i])
        elif direction[i] < 0.0:
            high = min(high, -theta[i] / direction[i])
    return min(low, 0.0), max(high, 0.0)


@jit
def mix(bases: Array, theta: Array, out: Array) -> None:
    """out = sum_j theta_j T_j."""
    flat, bases_flat = out.reshape(out.size), bases.reshape((theta.size, out.size))
    for i in range(flat.size):
        flat[i] = 0.0
        for j in range(theta.size):
            flat[i] += theta[j] * bases_flat[j, i]


@jit
def confidence_width(log_det: float, delta: float) -> float:
    """beta of the ellipsoid (Abbasi-Yadkori et al. 2011): ridge 1, noise in an interval of 1."""
    return (0.5 * math.sqrt(2.0 * math.log(1.0 / delta) + log_det) + 1.0) ** 2


@jit
def play_mixture(
    bases: Array,
    theta_true: Array,
    truth: Truth,
    start: int,
    objective: Risk,
    risk: Risk,
    delta: float,
    n_candidates: int,
    seed: int,
    uniforms: Array,
    first: int,
    last: int,
    Lam: Array,
    inverse: Array,
    moment: Array,
    log_det: Array,
    policy: Policy,
    record: Array,
) -> None:
    """Episodes first .. last - 1.

    Args:
        bases: [d, H, S, A, S, R], the known kernels.
        theta_true: [d], for the evaluator.
        truth: steps are drawn from it; V* is read from it.
        start: first state.
        objective: what is planned for.
        risk: what counts.
        delta: confidence level of the ellipsoid.
        n_candidates: mixtures looked at per plan; 0: only the one nearest the estimate (greedy).
        seed: of the walk; each episode has its own stream.
        uniforms: [K, H], one for each step.
        first: episodes played so far.
        last: episodes played at the end.
        Lam: [d, d], updated; begins as the identity.
        inverse: [d, d], its inverse, updated.
        moment: [d], sum of features times targets, updated; begins as 0.
        log_det: [1], log det(Lam), updated.
        policy: [H, S, Y] of the last plan, overwritten.
        record: [K, 4] of ``method.RECORD``; "live" is log det(Lambda) here.
    """
    d, H, S, A, _, R = bases.shape
    Y = H * (R - 1) + 1
    V = np.zeros((objective.utilities.shape[0], H + 1, S, Y))
    no_counts = np.zeros((H, S, A))
    trial = np.zeros((H, S, Y), np.int64)
    q, F, row = np.empty_like(truth.q), np.zeros((H + 1, S, Y, Y)), np.empty(Y)
    phi, direction, candidate = np.empty((Y, d)), np.empty(d), np.empty(d)
    theta_hat, image = np.empty(d), np.empty(d)
    for k in range(first, last):
        times(inverse, moment, theta_hat)
        for i in range(d):
            theta_hat[i] += 1.0 / d
        beta = confidence_width(log_det[0], delta)
        theta = nearest_mixture(theta_hat, Lam)
        chosen = theta.copy()
        mix(bases, theta, q)
        value = plan(q, no_counts, 0.0, EXACT, objective, start, V, policy)
        if distance(theta, theta_hat, Lam) < beta:
            np.random.seed((seed * 1_000_003 + k) % 4_294_967_291)  # noqa: NPY002
            for _ in range(n_candidates):
                for i in range(d):
                    direction[i] = np.random.standard_normal()  # noqa: NPY002
                direction -= direction.mean()
                low, high = chord(theta, direction, theta_hat, Lam, beta)
                end = low if np.random.random() < 0.5 else high  # noqa: NPY002
                for i in range(d):
                    candidate[i] = max(theta[i] + end * direction[i], 0.0)
                candidate /= candidate.sum()
                mix(bases, candidate, q)
                other = plan(q, no_counts, 0.0, EXACT, objective, start, V, trial)
                if other > value:
                    value = other
                    policy[:] = trial
                    chosen[:] = candidate
                stay = low + (high - low) * np.random.random()  # noqa: NPY002
                for i in range(d):
                    theta[i] = max(theta[i] + stay * direction[i], 0.0)
                theta /= theta.sum()
        record[k, REGRET] = truth.optimum - rho(law(truth.q, policy, start), risk)
        record[k, OPTIMISTIC] = value
        record[k, INSIDE] = distance(theta_true, theta_hat, Lam) <= beta
        record[k, LIVE] = log_det[0]
        mix(bases, chosen, q)
        cdf_tables(q, policy, F)
        s, y = start, 0
        for h in range(H):
            a = policy[h, s, y]
            s2, r = sample(truth.q[h, s, a], uniforms[k, h])
            for j in range(d):
                bellman_cdf(bases[j, h, s, a], y, F[h + 1], row)
                phi[:, j] = row
            best, widest, centre = 0, -1.0, 0.0
            for x in range(Y):  # the most uncertain threshold
                mean = phi[x].mean()
                phi[x] -= mean
                width = inner(phi[x], inverse, phi[x])
                if width > widest + 1e-15:
                    best, widest, centre = x, width, mean
            target = F[h + 1, s2, y + r, best] - centre
            for i in range(d):
                moment[i] += phi[best, i] * target
                for j in range(d):
                    Lam[i, j] += phi[best, i] * phi[best, j]
            times(inverse, phi[best], image)  # Sherman and Morrison
            for i in range(d):
                for j in range(d):
                    inverse[i, j] -= image[i] * image[j] / (1.0 + widest)
            log_det[0] += math.log1p(widest)
            s, y = s2, y + r
