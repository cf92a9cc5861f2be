"""BVVI (Zhang, Chen and Huang, ICML 2024): risk beliefs, beta vectors, bonus, one episode.

Under the reference measure P' the observations are uniform and say nothing; dP/dP' is the product
of O * O_h(o_h|s_h), O = number of observations. With a = pi_h(f), per history f:

    sigma_1(o)          = O diag(O_1(o|.)) mu                                      risk_beliefs
    sigma_(h+1)(f,a,o') = O diag(O_(h+1)(o'|.)) T_(h,a) diag(e^(gamma r)) sigma_h(f)
    beta_(H+1)          = 1
    beta^a_h(f)[s]      = e^(gamma r(s,a)) sum_s' T(s'|s,a) sum_o' O(o'|s') beta_(h+1)(f,a,o')[s']
    J(pi)               = (1/gamma) log (1/O) sum_o <sigma_1(o), beta_1(o)>        plan

Why. *Linearity*: under P' the next observation is independent of everything, so sigma moves
linearly and keeps the real exponent; a normalised filter could not carry it. *Adjoint pair*:
averaging sigma_(h+1) over o' removes the emission, so that

    (1/O) sum_o' <sigma_(h+1)(f,a,o'), beta_(h+1)(f,a,o')> = <sigma_h(f), beta^a_h(f)>,

<sigma_h, beta_h> is a martingale under P', starts at E^pi e^(gamma sum r) and ends at the sum of
sigma_(H+1). The code uses the right-hand side: the last level, which is the largest, is never
built. *Principle of optimality*: given sigma_h(f) the best continuation maximises (gamma < 0:
minimises) a linear function of it; beta depends on the continuation policy after f and is stored
per history, not per state. *Range*: r in [0, 1] puts e^(gamma future) between e^(gamma^- (H-h))
and e^(gamma^+ (H-h)), H - h steps being left: hence the clip, the size of the bonus, and with 1/
(|gamma| min beta) as the Lipschitz constant of (1/gamma) log the factor (e^(|gamma| H) - 1)/
|gamma| of the regret, the same for both signs. *Hindsight*: with the states revealed T and O are
estimated by counting; the bonus adds the deviation of O, pushed back through T, to that of T.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.bvvi.task import POMDP, Array, Integers, evaluate, growth_of, jit, level_starts, rollout

NEXT, SELF, MYOPIC = 0, 1, 2  # what an action is judged by; see plan
TALLY = ("regret", "optimistic", "value")  # what a run counts, in this order
REGRET, OPTIMISTIC, VALUE = range(3)
TIE = 1e-12  # relative; saturated bonuses make exact ties, which rounding must not break


class Setup(NamedTuple):
    """What a learner is told, and how it plans."""

    gamma: float  # risk parameter that it is judged by
    plan_gamma: float  # risk parameter that it plans with
    scale: float  # c, multiplies the paper's constant 3 in both residuals
    iota: float  # ln(K H S O A / delta)
    v_star: float  # exact optimum: for counting regret; no learner reads it
    q_bonus: int  # NEXT, SELF or MYOPIC
    exact_first: bool  # sigma_1 = O diag(O_1(o|.)) mu; else mu, whatever o_1 was


def iota(model: POMDP, episodes: int, delta: float = 0.2) -> float:
    """ln(K H S O A / delta)."""
    H, A, S, _ = model.T.shape
    return math.log(episodes * H * S * model.O.shape[2] * A / delta)


def regret_bound(model: POMDP, gamma: float, episodes: int, delta: float = 0.2) -> float:
    """Theorem 6.1 with constant 1: what regret stays below with probability 1 - 4 delta.

    (e^(|gamma| H) - 1) / (|gamma| H) * H^2 sqrt(K S^2 O A) sqrt(H iota).
    """
    H, A, S, _ = model.T.shape
    factor = math.expm1(abs(gamma) * H) / (abs(gamma) * H)
    spread = episodes * S * S * model.O.shape[2] * A * H * iota(model, episodes, delta)
    return factor * H**2 * math.sqrt(spread)


@jit
def risk_beliefs(
    model: POMDP, growth: Array, exact_first: bool, starts: Integers, sigma: Array
) -> None:
    """Line 3: sigma_h(f) for all histories, forward.

    Args:
        model: the empirical (or true) kernels.
        growth: [H, S, A], e^(gamma r).
        exact_first: whether sigma_1 knows o_1.
        starts: [H + 1].
        sigma: [F, S], overwritten.
    """
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    for o in range(n_obs):
        for s in range(S):
            likelihood = n_obs * model.O[0, s, o] if exact_first else 1.0
            sigma[o, s] = likelihood * model.mu[s]
    after = np.empty(S)
    for h in range(H - 1):
        for f in range(starts[h + 1] - starts[h]):
            for a in range(A):
                after[:] = 0.0
                for s in range(S):
                    mass = growth[h, s, a] * sigma[starts[h] + f, s]
                    for s2 in range(S):
                        after[s2] += model.T[h, a, s, s2] * mass
                child = starts[h + 1] + (f * A + a) * n_obs
                for o in range(n_obs):
                    for s2 in range(S):
                        sigma[child + o, s2] = n_obs * model.O[h + 1, s2, o] * after[s2]


@jit
def bonuses(model: POMDP, counts: tuple, gamma: float, scale: float, iota: float) -> Array:
    """Lines 1 and 2: b_h(s,a) [H, S, A] from the counts of :func:`new_counts`.

    t_h(s,a) = min{1, 3c sqrt(S H iota / N_h(s,a))}, o_h(s) = min{1, 3c sqrt(O H iota / N_h(s))},
    b_h(s,a) = |e^(gamma (H-h)) - 1| min{1, t_h(s,a) + sum_s' T(s'|s,a) o_(h+1)(s')}.
    """
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    b = np.empty((H, S, A))
    emission = np.empty(S)
    for h in range(H):
        size = abs(math.exp(gamma * (H - h)) - 1.0)
        for s in range(S):
            n = max(1.0, counts[2][h + 1, s].sum())
            emission[s] = min(1.0, 3.0 * scale * math.sqrt(n_obs * H * iota / n))
        for a in range(A):
            for s in range(S):
                n = max(1.0, counts[1][h, a, s].sum())
                residual = min(1.0, 3.0 * scale * math.sqrt(S * H * iota / n))
                for s2 in range(S):
                    residual += model.T[h, a, s, s2] * emission[s2]
                b[h, s, a] = size * min(1.0, residual)
    return b


@jit
def plan(
    model: POMDP,
    growth: Array,
    gamma: float,
    bonus: Array,
    q_bonus: int,
    exact_first: bool,
    starts: Integers,
    sigma: Array,
    beta: Array,
    policy: NDArray[np.int8],
) -> float:
    """Lines 3 to 9: the policy that is optimal under the model, and its (optimistic) value.

    An action a is judged at f by Q_h(f,a) = (1/gamma) log of
      NEXT    <sigma_h(f), beta^a_h(f)>: the bonus of the steps after this one, as line 6 stands;
      SELF    <sigma_h(f), clip(beta^a_h(f) + sign(gamma) b_h(., a))>: of this step too;
      MYOPIC  <sigma_h(f), e^(gamma r_h(., a))>: beta = 1, what the authors' code amounts to.
    For gamma < 0 the largest Q has the smallest inner product. Ties go to the lowest action.

    Args:
        model: empirical kernels (or the truth, with bonus 0).
        growth: [H, S, A], e^(gamma r).
        gamma: risk parameter, not 0.
        bonus: [H, S, A].
        q_bonus: NEXT, SELF or MYOPIC.
        exact_first: see :func:`risk_beliefs`.
        starts: [H + 1].
        sigma: [F, S], overwritten.
        beta: [F, S], overwritten.
        policy: [F], overwritten.

    Returns:
        V_1 = (1/gamma) log (1/O) sum_o <sigma_1(o), beta_1(o)>.
    """
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    sign = 1.0 if gamma > 0 else -1.0
    risk_beliefs(model, growth, exact_first, starts, sigma)
    v, after = np.empty((A, S)), np.empty(S)
    for h in range(H - 1, -1, -1):
        low, high = math.exp(min(gamma, 0.0) * (H - h)), math.exp(max(gamma, 0.0) * (H - h))
        for f in range(starts[h], starts[h + 1]):
            best, best_score = 0, 0.0
            for a in range(A):
                child = starts[h + 1] + ((f - starts[h]) * A + a) * n_obs
                for s2 in range(S):  # sum_o' O(o'|s') beta_(h+1)(f, a, o')[s']
                    after[s2] = 1.0
                    if h < H - 1:
                        after[s2] = 0.0
                        for o in range(n_obs):
                            after[s2] += model.O[h + 1, s2, o] * beta[child + o, s2]
                score = 0.0
                for s in range(S):
                    ahead = 1.0
                    if h < H - 1:
                        ahead = 0.0
                        for s2 in range(S):
                            ahead += model.T[h, a, s, s2] * after[s2]
                    v[a, s] = growth[h, s, a] * ahead  # beta^a_h(f)[s], line 8 without its bonus
                    judged_by = v[a, s]
                    if q_bonus == SELF:
                        judged_by = min(high, max(low, v[a, s] + sign * bonus[h, s, a]))
                    elif q_bonus == MYOPIC:
                        judged_by = growth[h, s, a]
                    score += sigma[f, s] * judged_by
                if a == 0 or sign * (score - best_score) > TIE * best_score:
                    best, best_score = a, score
            policy[f] = best
            for s in range(S):  # lines 8 and 9
                beta[f, s] = min(high, max(low, v[best, s] + sign * bonus[h, s, best]))
    total = 0.0
    for f in range(n_obs):
        for s in range(S):
            total += sigma[f, s] * beta[f, s]
    return math.log(total / n_obs) / gamma


class Plan(NamedTuple):
    """What :func:`solve` returns."""

    value: float  # V_1
    policy: NDArray[np.int8]  # [F]
    sigma: Array  # [F, S]
    beta: Array  # [F, S]


def solve(
    model: POMDP,
    gamma: float,
    *,
    bonus: Array | None = None,
    q_bonus: int = NEXT,
    exact_first: bool = True,
) -> Plan:
    """Plan on a model; without bonus the optimum over all history-dependent policies."""
    starts = level_starts(model)
    F, S = int(starts[-1]), len(model.mu)
    sigma, beta, policy = np.empty((F, S)), np.empty((F, S)), np.zeros(F, np.int8)
    bonus = np.zeros(model.r.shape) if bonus is None else bonus
    growth = growth_of(gamma, model.r)
    value = plan(model, growth, gamma, bonus, q_bonus, exact_first, starts, sigma, beta, policy)
    return Plan(value, policy, sigma, beta)


# -- learning from hindsight ----------------------------------------------------------------------


def new_counts(model: POMDP) -> tuple[Array, Array, Array]:
    """Counts of s_1 [S], of (s,a,s') [H, A, S, S'] and of (s,o) [H + 1, S, O], a table per step."""
    return np.zeros_like(model.mu), np.zeros_like(model.T), np.zeros_like(model.O)


@jit
def normalise(counts: Array, kernel: Array) -> None:
    """Empirical distribution of the counts; uniform where nothing was seen."""
    n = counts.sum()
    for i in range(counts.size):
        kernel[i] = counts[i] / n if n > 0 else 1.0 / counts.size


@jit
def estimate(model: POMDP, counts: tuple) -> None:
    """The empirical kernels of all counts, written into ``model``."""
    H, A, S, _ = model.T.shape
    normalise(counts[0], model.mu)
    for s in range(S):
        for h in range(H):
            for a in range(A):
                normalise(counts[1][h, a, s], model.T[h, a, s])
        for h in range(H + 1):
            normalise(counts[2][h, s], model.O[h, s])


@jit
def learn_from_hindsight(
    model: POMDP, counts: tuple, states: Integers, observations: Integers, actions: Integers
) -> None:
    """Line 10: count the revealed states and observations, and estimate anew what they changed."""
    H = actions.size
    counts[0][states[0]] += 1.0
    normalise(counts[0], model.mu)
    for h in range(H + 1):
        s = states[h]
        counts[2][h, s, observations[h]] += 1.0
        normalise(counts[2][h, s], model.O[h, s])
        if h < H:
            a = actions[h]
            counts[1][h, a, s, states[h + 1]] += 1.0
            normalise(counts[1][h, a, s], model.T[h, a, s])


def current_policy(model: POMDP, setup: Setup, counts: tuple) -> NDArray[np.int8]:
    """The policy [F] that is played next, given the counts so far.

    Args:
        model: for its sizes and rewards; its kernels are not read.
        setup: what the learner is told.
        counts: of :func:`new_counts`.
    """
    estimated = POMDP(*(np.empty_like(x) for x in model[:3]), model.r)
    estimate(estimated, counts)
    bonus = bonuses(estimated, counts, setup.plan_gamma, setup.scale, setup.iota)
    return solve(
        estimated,
        setup.plan_gamma,
        bonus=bonus,
        q_bonus=setup.q_bonus,
        exact_first=setup.exact_first,
    ).policy


@jit
def learn(
    env: POMDP,
    setup: Setup,
    uniforms: Array,
    starts: Integers,
    first: int,
    last: int,
    counts: tuple,
    tally: Array,
) -> None:
    """Episodes first + 1 ... last: plan, act, receive the states in hindsight.

    Args:
        env: the truth; only sampled from and, for the regret, evaluated on.
        setup: what the learner is told; rewards are known, kernels are not.
        uniforms: [K, H + 1, 2].
        starts: [H + 1].
        first: episodes played so far.
        last: episodes played at the end.
        counts: of :func:`new_counts`, updated in place; all that the next episodes depend on.
        tally: [3] of TALLY, updated in place: sum of V* - J(pi^k), episodes with V_1 >= V*, the
            last V_1.
    """
    H, S = env.T.shape[0], env.mu.size
    F = starts[H]
    model = POMDP(np.empty_like(env.mu), np.empty_like(env.T), np.empty_like(env.O), env.r)
    estimate(model, counts)
    growth, planned_growth = growth_of(setup.gamma, env.r), growth_of(setup.plan_gamma, env.r)
    sigma, beta, policy = np.empty((F, S)), np.empty((F, S)), np.zeros(F, np.int8)
    states, observations = np.empty(H + 1, np.int64), np.empty(H + 1, np.int64)
    actions = np.empty(H, np.int64)
    for k in range(first, last):
        bonus = bonuses(model, counts, setup.plan_gamma, setup.scale, setup.iota)
        value = plan(
            model,
            planned_growth,
            setup.plan_gamma,
            bonus,
            setup.q_bonus,
            setup.exact_first,
            starts,
            sigma,
            beta,
            policy,
        )
        tally[0] += setup.v_star - evaluate(env, growth, setup.gamma, policy, starts)
        tally[1] += value >= setup.v_star - 1e-9
        tally[2] = value
        rollout(env, policy, starts, uniforms[k], states, observations, actions)
        learn_from_hindsight(model, counts, states, observations, actions)
