"""What RS-DisRL is compared with, and how each method of ``methods.METHODS`` is set up on a task.

All learn from the same steps in the loops of the method; they differ in what they plan for
(``neutral``: the mean), in the class of policies (``markov``: no y), or in the width (``greedy``:
0).
The references know the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError
from papers.rs_disrl import method, method_v, mixture, tabular
from papers.rs_disrl.augmented import EXACT, HOEFFDING, KL, Policy, law, optimum
from papers.rs_disrl.method import LSR, FiniteClass, Truth
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.methods import Learner as Entry
from papers.rs_disrl.risk import Array, Risk, jit, make_risk, rho
from papers.rs_disrl.task import DRAWS, STEPS, Problem, checkpoints, uniforms

DELTA = 0.1  # confidence level of every set
TUNED_SCALE = 0.25  # of the widths of I2 that are tuned and not valid
MOST_MARKOV_POLICIES = 1_000_000


# -- policies ---------------------------------------------------------------------------------


def n_markov(q: Array) -> int:
    """Number of deterministic Markov-in-s policies from one first state."""
    H, S, A = q.shape[:3]
    return int(A ** (1 + S * (H - 1)))


@jit
def best_markov(q: Array, risk: Risk, start: int, policy: Policy) -> float:
    """The best policy that sees s and not y, by enumeration; ``policy`` [H, S, Y] is overwritten.

    Policies are counted like numbers, the last step's actions fastest, and the laws of (s, y) up to
    the step that changed are kept.
    """
    H, S, A, _, R = q.shape
    Y = H * (R - 1) + 1
    D = np.zeros((H + 1, S, Y))
    D[0, start, 0] = 1.0
    actions, best_actions = np.zeros((H, S), np.int64), np.zeros((H, S), np.int64)
    best, changed = -math.inf, 0
    pmf = np.empty(Y)
    while True:
        for h in range(changed, H):
            D[h + 1] = 0.0
            for s in range(S):
                step = q[h, s, actions[h, s]]
                for y in range(h * (R - 1) + 1):
                    mass = D[h, s, y]
                    if mass > 0.0:
                        for s2 in range(S):
                            for r in range(R):
                                D[h + 1, s2, y + r] += mass * step[s2, r]
        for y in range(Y):
            pmf[y] = 0.0
            for s in range(S):
                pmf[y] += D[H, s, y]
        value = rho(pmf, risk)
        if value > best:
            best = value
            best_actions[:] = actions
        changed = -1
        for h in range(H - 1, -1, -1):
            for s in range(S - 1, -1, -1):
                if h == 0 and s != start:
                    continue
                if actions[h, s] + 1 < A:
                    actions[h, s] += 1
                    changed = h
                    break
                actions[h, s] = 0
            if changed >= 0:
                break
        if changed < 0:
            break
    for h in range(H):
        for s in range(S):
            policy[h, s] = best_actions[h, s]
    return best


def markov_optimum(q: Array, risk: Risk, start: int) -> tuple[float, Policy]:
    """Value and policy of :func:`best_markov`; the value is nan where there are too many."""
    H, S, _, _, R = q.shape
    policy = np.zeros((H, S, H * (R - 1) + 1), np.int64)
    if n_markov(q) > MOST_MARKOV_POLICIES:
        return math.nan, policy
    return best_markov(q, risk, start, policy), policy


def uniformly_random(q: Array, start: int) -> Array:
    """Law of the return [Y] when every action is drawn uniformly."""
    blind = np.ascontiguousarray(q.mean(axis=2, keepdims=True))
    H, S, _, _, R = q.shape
    return law(blind, np.zeros((H, S, H * (R - 1) + 1), np.int64), start)


# -- learners ---------------------------------------------------------------------------------


class Learner(NamedTuple):
    """A method set up on a problem: ``play(first, last)`` moves ``state`` and writes ``record``."""

    play: Callable[[int, int], None]
    state: dict[str, np.ndarray]  # all that the next episodes depend on, changed in place
    record: Array  # [K, 4] of method.RECORD
    policy: Callable[[], Policy | None]  # after the last episode: what it plays, if it is a policy


class Setting(NamedTuple):
    """What a learner is set up for."""

    problem: Problem
    risk_name: str
    task: str
    seed: int
    episodes: int  # K
    replan: int  # I2: episodes between plans

    @property
    def risk(self) -> Risk:
        return make_risk(self.risk_name, self.problem.size.H, self.problem.size.m)

    @property
    def mean(self) -> Risk:
        return make_risk("mean", self.problem.size.H, self.problem.size.m)


def fixed_policy(known: str, at: Setting) -> Learner:
    """A policy of the known model, or the uniformly random one: constant regret per episode."""
    q, start, risk = at.problem.truth, at.problem.start, at.risk
    best, chosen = optimum(q, risk, start)
    value, policy = {
        "optimal": lambda: (best, chosen),
        "markov": lambda: markov_optimum(q, risk, start),
        "random": lambda: (rho(uniformly_random(q, start), risk), None),
    }[known]()
    record = np.zeros((at.episodes, len(method.RECORD)))

    def play(first: int, last: int) -> None:
        record[first:last, method.REGRET] = best - value
        record[first:last, method.OPTIMISTIC] = value

    return Learner(play, {}, record, lambda: policy)


def finite_class(at: Setting, objective: Risk, markov: bool) -> FiniteClass:
    """Own optimum of every model: over augmented policies, or over those of s alone."""
    solve = markov_optimum if markov else optimum
    solved = [solve(q, objective, at.problem.start) for q in at.problem.models]
    values = np.array([value for value, _ in solved])
    policies = np.array([policy for _, policy in solved])
    order = np.argsort(-values, kind="stable")
    models, start = at.problem.models, at.problem.start
    return FiniteClass(models, method.models_last(models), policies, values, order, start)


def known_truth(at: Setting, policies: Policy) -> Truth:
    """What the evaluator knows, with the regret of each policy [n, H, S, Y] under the truth."""
    q, start, risk = at.problem.truth, at.problem.start, at.risk
    best, _ = optimum(q, risk, start)
    regrets = np.array([best - rho(law(q, policy, start), risk) for policy in policies])
    return Truth(q, at.problem.index, best, regrets)


def set_up_finite(m: Entry, at: Setting) -> Learner:
    """I1."""
    size = at.problem.size
    N, H, K = size.number, size.H, at.episodes
    objective = at.mean if m.objective == "mean" else at.risk
    cls = finite_class(at, objective, m.markov)
    truth = known_truth(at, cls.policies)
    steps = uniforms(at.seed, at.task, STEPS, at.episodes)
    record = np.zeros((at.episodes, len(method.RECORD)))
    if not m.values:
        losses = np.zeros(N)
        beta = 0.0 if m.greedy else method.beta_m(m.estimator, N, H, DELTA, m.tuned)
        arguments = (cls, truth, m.estimator, beta, steps)

        def play(first: int, last: int) -> None:
            method.play_m(*arguments, first, last, losses, record)

        def next_policy() -> Policy:
            live = losses - losses.min() <= beta
            return cls.policies[next(n for n in cls.order if live[n])]

        return Learner(play, {"losses": losses}, record, next_policy)

    candidates = method_v.value_class(cls.models, cls.policies, cls.start, objective, m.estimator)
    memory = method_v.new_memory(cls.models, at.episodes)
    beta = method_v.beta_v(m.estimator, N, H, DELTA)
    draws = uniforms(at.seed, at.task, DRAWS, at.episodes)
    counted = np.zeros(at.episodes, np.bool_)
    counted[np.array(checkpoints(at.episodes)) - 1] = True
    given = (candidates, cls.policies, cls.start, truth, m.estimator, beta, steps, draws, counted)

    def play_v(first: int, last: int) -> None:
        method_v.play_v(*given, first, last, memory, record)

    def next_of_v() -> Policy:
        after = (memory, m.estimator, beta, draws)
        live = (c for c in candidates.order if method_v.lives(candidates, *after, c // N, c % N, K))
        return cls.policies[next(live, candidates.order[0]) // N]

    return Learner(play_v, memory._asdict(), record, next_of_v)


def set_up_tabular(m: Entry, at: Setting) -> Learner:
    """I2."""
    size, q = at.problem.size, at.problem.truth
    kind = EXACT if m.greedy else HOEFFDING if m.estimator == LSR else KL
    scale = TUNED_SCALE if m.tuned else 1.0
    width = tabular.beta_tabular(size.H, size.S, size.A, at.episodes, DELTA, scale)
    objective = at.mean if m.objective == "mean" else at.risk
    Y = size.H * size.m + 1
    state = {
        "counts": np.zeros_like(q),
        "policy": np.zeros((size.H, size.S, Y), np.int64),
        "scalars": np.array([0.0, 0.0, 0.0, 1.0]),
    }
    record = np.zeros((at.episodes, len(method.RECORD)))
    truth = known_truth(at, np.zeros((1, size.H, size.S, Y), np.int64))
    steps = uniforms(at.seed, at.task, STEPS, at.episodes)
    given = (truth, at.problem.start, objective, at.risk, kind, width, at.replan, steps)

    def play(first: int, last: int) -> None:
        tabular.play_tabular(*given, first, last, *state.values(), record)

    return Learner(play, state, record, lambda: state["policy"])


def set_up_mixture(m: Entry, at: Setting, n_candidates: int) -> Learner:
    """I3."""
    problem, size = at.problem, at.problem.size
    d = size.number
    state = {"Lam": np.eye(d), "inverse": np.eye(d), "moment": np.zeros(d), "log_det": np.zeros(1)}
    state["policy"] = np.zeros((size.H, size.S, size.H * size.m + 1), np.int64)
    objective = at.mean if m.objective == "mean" else at.risk
    record = np.zeros((at.episodes, len(method.RECORD)))
    truth = known_truth(at, np.zeros((1, size.H, size.S, size.H * size.m + 1), np.int64))
    steps = uniforms(at.seed, at.task, STEPS, at.episodes)
    given: tuple[Any, ...] = (problem.models, problem.theta, truth, problem.start, objective)
    given += (at.risk, DELTA, 0 if m.greedy else n_candidates, at.seed, steps)

    def play(first: int, last: int) -> None:
        mixture.play_mixture(*given, first, last, *state.values(), record)

    return Learner(play, state, record, lambda: state["policy"])


def set_up(name: str, at: Setting, n_candidates: int = 200) -> Learner:
    """The method ``name`` on a problem.

    Raises:
        UserError: if the method does not exist for this kind of task.
    """
    m, kind = METHODS[name], at.problem.size.kind
    if kind not in m.kinds:
        offered = ", ".join(other for other in METHODS if kind in METHODS[other].kinds)
        raise UserError(f"{name} is not a method for {at.task}; it has {offered}")
    if m.known:
        return fixed_policy(m.known, at)
    if kind == "finite":
        return set_up_finite(m, at)
    if kind == "tabular":
        return set_up_tabular(m, at)
    return set_up_mixture(m, at, n_candidates)
