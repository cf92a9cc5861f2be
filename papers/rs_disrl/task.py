"""Markov decision processes with known kernels: ensembles, a rare crisis, the two-step example.

Kernels are joint, q [H, S, A, S, R] (see ``augmented``). A seed is a draw of the model and of the
uniforms behind its steps: uniform [k, h] decides step h of episode k whatever is played, so that
methods are paired.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from common.errors import UserError, choose
from papers.rs_disrl.augmented import law, optimum
from papers.rs_disrl.risk import Array, Risk, make_risk, rho

CLOSENESS = 0.15  # epsilon: M_i = (1 - eps) base + eps own draw, of transition and reward rows
LEAST_GAP = 0.02  # accepted draws: V* - rho(risk-neutral optimum) is at least this
MOST_DRAWS = 100_000

MODEL, STEPS, DRAWS = range(3)  # streams of a seed


class Size(NamedTuple):
    """Shape of a task."""

    kind: str  # finite | tabular | mixture | fixed: what the learner knows of the model
    S: int
    A: int
    H: int
    m: int  # rewards in {0, 1/m, ..., 1}
    number: int  # models in the class (finite), base kernels (mixture), else 1
    gated: bool = False  # draws are accepted by their gap
    label: str = ""  # in tables and figures


TASKS = {
    "i1": Size("finite", 4, 2, 4, 1, 100, True, "I1"),
    "i1-n32": Size("finite", 4, 2, 4, 1, 32, True, "I1 N=32"),
    # another horizon, draws of its own
    "i1-n32-long": Size("finite", 4, 2, 4, 1, 32, True, "I1 N=32 long"),
    "i1-n20": Size("finite", 4, 2, 4, 1, 20, True, "I1 N=20"),
    "i2": Size("tabular", 3, 2, 3, 1, 1, True, "I2"),
    "i2-rare": Size("tabular", 3, 2, 3, 1, 1, False, "I2 crisis"),
    "i2-large": Size("tabular", 10, 4, 6, 1, 1, False, "I2 large"),
    "i3": Size("mixture", 4, 2, 4, 1, 5, True, "I3"),
    "tiny": Size("fixed", 2, 2, 3, 1, 1, False, "40 tiny draws"),
    "two-step": Size("fixed", 1, 2, 2, 3, 1, False, "two-step"),
}


class Problem(NamedTuple):
    """A drawn task."""

    size: Size
    truth: Array  # [H, S, A, S, R]
    models: Array  # [number, H, S, A, S, R]: the class (the truth among it), the base kernels, -
    index: int  # of the truth in the class; -1: not in it
    theta: Array  # [number], weights of the base kernels in the truth (mixture)
    rejected: int  # draws that were not accepted
    start: int = 0


def draw_rows(rng: np.random.Generator, size: Size) -> tuple[Array, Array]:
    """Transition rows [H, S, A, S] and reward rows [H, S, A, R], each Dirichlet(1)."""
    shape = (size.H, size.S, size.A)
    return rng.dirichlet(np.ones(size.S), shape), rng.dirichlet(np.ones(size.m + 1), shape)


def joint(P: Array, rewards: Array) -> Array:
    """q(s', r) = P(s') R(r)."""
    return np.ascontiguousarray(P[..., :, None] * rewards[..., None, :])


def close_to(
    base: tuple[Array, Array], own: tuple[Array, Array], closeness: float = CLOSENESS
) -> Array:
    """(1 - eps) base + eps own, of transition rows and reward rows."""
    P, rewards = (
        (1 - closeness) * common + closeness * mine for common, mine in zip(base, own, strict=True)
    )
    return joint(P, rewards)


def neutral_gap(q: Array, risk: Risk, mean: Risk, start: int = 0) -> float:
    """V* - rho(return of the risk-neutral optimal policy), both in the model q."""
    _, neutral = optimum(q, mean, start)
    return optimum(q, risk, start)[0] - rho(law(q, neutral, start), risk)


def crisis() -> Array:
    """Three steps with a crisis (state 1) that comes with probability 0.1 whatever is done.

    State 0 pays 1 with probability 0.9 (action 0) or 0.8 (action 1). In the crisis nothing is paid;
    action 1 leads back to state 0 with probability 0.8, action 0 with 0.3, else to ruin (state 2)
    that pays nothing for ever. The mean hardly sees the crisis, the lower tail does.
    """
    q = np.zeros((3, 3, 2, 3, 2))
    for a, pays in enumerate((0.9, 0.8)):
        for s2, p in ((0, 0.9), (1, 0.1)):
            q[:, 0, a, s2] = p * np.array([1 - pays, pays])
    for a, back in enumerate((0.3, 0.8)):
        q[:, 1, a, 0, 0], q[:, 1, a, 2, 0] = back, 1 - back
    q[:, 2, :, 2, 0] = 1.0
    return q


def two_step() -> Array:
    """One state, two steps: 0 or 2/3, then 1/3 for sure (action 0) or 0 or 1 (action 1)."""
    q = np.zeros((2, 1, 2, 1, 4))
    q[0, 0, :, 0, [0, 2]] = 0.5
    q[1, 0, 0, 0, 1] = 1.0
    q[1, 0, 1, 0, [0, 3]] = 0.5
    return q


def generator(seed: int, task: str, stream: int) -> np.random.Generator:
    """The random numbers of one purpose, for a seed of a task."""
    return np.random.default_rng([seed, sorted(TASKS).index(task), stream])


def make_problem(name: str, risk_name: str, seed: int) -> Problem:
    """The task ``name`` as seed ``seed`` draws it for a risk measure.

    Gated tasks are drawn anew until the truth has a gap of LEAST_GAP between the optimum and the
    risk-neutral optimal policy, so that risk matters; for the mean, where there can be no gap, the
    truth is the one of CVaR 0.25.

    Raises:
        UserError: if no draw is accepted.
    """
    size = TASKS[choose("task", name, TASKS)]
    none = np.zeros((1, 1, 1, 1, 1, 1))
    if name in ("two-step", "i2-rare"):
        fixed = two_step() if name == "two-step" else crisis()
        return Problem(size, fixed, none, -1, np.ones(1), 0)
    rng = generator(seed, name, MODEL)
    if name == "tiny":
        return Problem(size, joint(*draw_rows(rng, size)), none, -1, np.ones(1), 0)
    gating = "cvar25" if risk_name == "mean" else risk_name
    risk, mean = make_risk(gating, size.H, size.m), make_risk("mean", size.H, size.m)
    rejected = 0
    while rejected < MOST_DRAWS:
        bases, theta = none, np.ones(1)
        if size.kind == "mixture":
            bases = np.array([joint(*draw_rows(rng, size)) for _ in range(size.number)])
            theta = rng.dirichlet(np.ones(size.number))
            truth = np.tensordot(theta, bases, 1)
        else:
            base = draw_rows(rng, size)
            truth = close_to(base, draw_rows(rng, size))
        if not size.gated or neutral_gap(truth, risk, mean) >= LEAST_GAP:
            break
        rejected += 1
    else:
        raise UserError(f"no draw of {name} has a gap of {LEAST_GAP} for {risk_name}")
    if size.kind != "finite":
        return Problem(size, truth, bases, -1, theta, rejected)
    others = [close_to(base, draw_rows(rng, size)) for _ in range(size.number - 1)]
    index = int(rng.integers(size.number))
    models = np.array([*others[:index], truth, *others[index:]])
    return Problem(size, truth, models, index, np.ones(1), rejected)


def uniforms(seed: int, task: str, stream: int, episodes: int) -> Array:
    """[episodes, H] uniforms; row k is the same whatever the number of episodes."""
    return generator(seed, task, stream).random((episodes, TASKS[task].H))


def checkpoints(episodes: int) -> list[int]:
    """25 log-spaced episodes from 10 on, and those that the claims look at."""
    grid = {round(float(k)) for k in np.geomspace(min(10, episodes), episodes, 25)}
    return sorted(grid | set(decade(episodes)) | {k for k in (10, 100, 1000) if k <= episodes})


def decade(episodes: int) -> list[int]:
    """Eight episodes of the end: K/20, and seven of the last decade from K/10 over K/2 to K."""
    fractions = (0.05, 0.1, 0.15, 0.22, 0.33, 0.5, 0.7, 1.0)
    return sorted({max(1, round(episodes * f)) for f in fractions})
