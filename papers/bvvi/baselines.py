"""What BVVI is compared with: a learner that takes o for s, exact values of what knows the model.

The learner has the signatures of ``method.py``; ``methods.METHODS`` lists all that learns, the
planners without one of BVVI's ideas included.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papers.bvvi import method
from papers.bvvi.method import MYOPIC, Setup
from papers.bvvi.task import (
    POMDP,
    Array,
    Integers,
    blind,
    evaluate,
    exact_J,
    fully_observed,
    growth_of,
    jit,
    level_starts,
    rollout,
)

RISK_NEUTRAL = 1e-6  # gamma of the risk-neutral planner: its values are off by gamma/2 Var


# -- observations taken for states ----------------------------------------------------------------


def new_sums(model: POMDP) -> tuple[Array, Array]:
    """Counts [H, O, A] and sums of e^(gamma r) by next observation [H, O, A, O]."""
    H, A, _, _ = model.T.shape
    n_obs = model.O.shape[2]
    return np.zeros((H, n_obs, A)), np.zeros((H, n_obs, A, n_obs))


@jit
def rsvi2_plan(
    sums: tuple, gamma: float, scale: float, iota: float, n_states: int
) -> tuple[NDArray[np.int8], float]:
    """RSVI2 (Fei et al., NeurIPS 2021) with o in the place of the state.

    w_h(o,a) = mean of e^(gamma (r_h + V_(h+1)(o'))) over the visits; to it, for gamma > 0, is added
    b = |e^(gamma (H-h)) - 1| min{1, 3c sqrt(S iota / N)} (doubly decaying), for gamma < 0 it is
    taken off; the range clips; what was never tried is as good as can be.

    Returns:
        the action of every (h, o) [H, O], and max_o V_1(o).
    """
    visits, growth = sums
    H, n_obs, A = visits.shape
    sign = 1.0 if gamma > 0 else -1.0
    actions = np.zeros((H, n_obs), np.int8)
    ahead, here = np.ones(n_obs), np.ones(n_obs)  # e^(gamma V)
    for h in range(H - 1, -1, -1):
        best_possible, worst_possible = math.exp(gamma * (H - h)), 1.0
        low, high = min(best_possible, worst_possible), max(best_possible, worst_possible)
        for o in range(n_obs):
            for a in range(A):
                n = visits[h, o, a]
                g = best_possible
                if n > 0:
                    w = 0.0
                    for o2 in range(n_obs):
                        w += growth[h, o, a, o2] * ahead[o2]
                    width = min(1.0, 3.0 * scale * math.sqrt(n_states * iota / n))
                    g = w / n + sign * (high - low) * width
                    g = min(high, max(low, g))
                if a == 0 or sign * (g - here[o]) > method.TIE * here[o]:
                    here[o] = g
                    actions[h, o] = a
        ahead[:] = here
    return actions, math.log(ahead.max() if gamma > 0 else ahead.min()) / gamma


@jit
def rsvi2_learn(
    env: POMDP,
    setup: Setup,
    uniforms: Array,
    starts: Integers,
    first: int,
    last: int,
    sums: tuple,
    tally: Array,
) -> None:
    """Episodes of the learner that is Markov in o; rewards are known once states are revealed."""
    H, n_obs = env.T.shape[0], env.O.shape[2]
    growth = growth_of(setup.gamma, env.r)
    policy = np.zeros(starts[H], np.int8)
    states, observations = np.empty(H + 1, np.int64), np.empty(H + 1, np.int64)
    actions = np.empty(H, np.int64)
    for k in range(first, last):
        table, value = rsvi2_plan(sums, setup.gamma, setup.scale, setup.iota, env.mu.size)
        for h in range(H):
            for f in range(starts[h + 1] - starts[h]):
                policy[starts[h] + f] = table[h, f % n_obs]
        tally[0] += setup.v_star - evaluate(env, growth, setup.gamma, policy, starts)
        tally[1] += value >= setup.v_star - 1e-9
        tally[2] = value
        rollout(env, policy, starts, uniforms[k], states, observations, actions)
        for h in range(H):
            o, a = observations[h], actions[h]
            sums[0][h, o, a] += 1.0
            sums[1][h, o, a, observations[h + 1]] += growth[h, states[h], a]


def rsvi2_policy(env: POMDP, setup: Setup, sums: tuple) -> NDArray[np.int8]:
    """The policy [F] that it would play next: a function of step and observation."""
    table, _ = rsvi2_plan(sums, setup.gamma, setup.scale, setup.iota, env.mu.size)
    sizes = np.diff(level_starts(env))  # the last observation of history f is f % O
    levels = [acts[np.arange(n) % len(acts)] for acts, n in zip(table, sizes, strict=True)]
    return np.concatenate(levels)


# -- exact values, knowing the model --------------------------------------------------------------


def random_value(model: POMDP, gamma: float) -> float:
    """J of uniformly random actions: observations are of no use to it, states suffice."""
    w = model.mu
    for T, r in zip(model.T, model.r, strict=True):
        w = np.einsum("ast,sa,s->t", T, np.exp(gamma * r), w) / len(T)
    return math.log(w.sum()) / gamma


def exact_values(model: POMDP, gamma: float, *, enumerated: bool = False) -> dict[str, float]:
    """V* and J of planners that know the model but lack something.

    Args:
        model: the truth.
        gamma: risk parameter.
        enumerated: also the best of all policy trees, one by one.
    """
    values = {
        "v_star": method.solve(model, gamma).value,
        "v_full": method.solve(fully_observed(model), gamma).value,
        "v_blind": method.solve(blind(model), gamma).value,
        "j_risk_neutral": exact_J(model, gamma, method.solve(model, RISK_NEUTRAL).policy),
        "j_myopic": exact_J(model, gamma, method.solve(model, gamma, q_bonus=MYOPIC).policy),
        "j_ignores_first": exact_J(
            model, gamma, method.solve(model, gamma, exact_first=False).policy
        ),
        "j_random": random_value(model, gamma),
    }
    if enumerated:
        values["v_enumerated"] = best_policy_tree(model, gamma)[0]
    return values


def tree_nodes(model: POMDP) -> int:
    """Decisions of a policy tree: O + O^2 + ... + O^H, one per sequence of observations."""
    n_obs = model.O.shape[2]
    return sum(n_obs**h for h in range(1, len(model.T) + 1))


@jit
def enumerate_trees(
    model: POMDP, growth: Array, gamma: float, first: int, n_trees: int, n_nodes: int
) -> tuple[float, int]:
    """The best J among policy trees ``first`` ... ``first + n_trees - 1``, and its number.

    A tree's number, written in base A, holds its actions, the root level first. What is computed
    is E e^(gamma sum r) by recursion over states and observations, without risk beliefs.
    """
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    actions = np.empty(n_nodes, np.int64)
    expected = np.empty((n_nodes, S))  # of e^(gamma sum of rewards from this node on), given s
    best, best_number = -np.inf, -1
    for number in range(first, first + n_trees):
        rest = number
        for i in range(n_nodes):
            actions[i] = rest % A
            rest //= A
        level_end, width = n_nodes, n_obs**H
        for h in range(H - 1, -1, -1):
            begin = level_end - width
            for i in range(width):
                a = actions[begin + i]
                for s in range(S):
                    ahead = 1.0
                    if h < H - 1:
                        ahead = 0.0
                        for s2 in range(S):
                            inner = 0.0
                            for o in range(n_obs):
                                child = level_end + i * n_obs + o
                                inner += model.O[h + 1, s2, o] * expected[child, s2]
                            ahead += model.T[h, a, s, s2] * inner
                    expected[begin + i, s] = growth[h, s, a] * ahead
            level_end, width = begin, width // n_obs
        total = 0.0
        for o in range(n_obs):
            for s in range(S):
                total += model.mu[s] * model.O[0, s, o] * expected[o, s]
        J = math.log(total) / gamma
        if J > best:
            best, best_number = J, number
    return best, best_number


def best_policy_tree(model: POMDP, gamma: float) -> tuple[float, int]:
    """J and number of the best deterministic history-dependent policy, by trying them all.

    Raises:
        ValueError: if there are more than ten million.
    """
    n_nodes = tree_nodes(model)
    n_trees = model.T.shape[1] ** n_nodes
    if n_trees > 10_000_000:
        raise ValueError(f"{n_trees:.3g} policy trees are too many")
    growth = growth_of(gamma, model.r)
    found: Any = enumerate_trees(model, growth, gamma, 0, n_trees, n_nodes)
    return found
