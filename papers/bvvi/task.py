"""POMDPs with known rewards: the authors' environment, a gamble, random ones; rollouts; exact J.

A POMDP has S hidden states, O observations, A actions, H steps, kernels of its own at every step
and one more observation after the last. In code h runs from 0 to H - 1, so that H - h steps are
left. The learner plans on an estimate that has the same type as the truth.

A history f_h = (o_1, a_1, ..., o_h) has a number within its level: with f' = (f, a, o'),
number(f') = (number(f) A + a) O + o'. All levels stand behind one another in flat arrays [F, ...];
level h begins at ``starts[h]``.

Random numbers are drawn for all episodes before the first, whatever is played: all methods meet
the same ones.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.jit import jit_of

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

TASKS = {
    "off": "E-off",
    "off-full": "E-off, state seen",
    "gamble": "E-gamble",
    "gamble-full": "E-gamble, state seen",
    "rand": "E-rand",
    "rand-full": "E-rand, state seen",
}
N_RANDOM = 5  # random POMDPs; a seed meets number seed % 5

jit = jit_of(*(Path(__file__).with_name(f"{name}.py") for name in ("task", "method", "baselines")))


class POMDP(NamedTuple):
    """Kernels of a finite-horizon POMDP, true or estimated."""

    mu: Array  # [S], distribution of the first state
    T: Array  # [H, A, S, S], T[h, a, s, s'] = probability of s' after (s, a)
    O: Array  # [H + 1, S, O], O[h, s, o] = probability of o in s  # noqa: E741
    r: Array  # [H, S, A], rewards in [0, 1]; known, but not seen while acting


# -- environments -------------------------------------------------------------------------------


def pomdp(mu: Any, T: Any, O: Any, r: Any) -> POMDP:  # noqa: E741
    """A POMDP from arrays in any memory layout, checked.

    Raises:
        ValueError: if a kernel is not a distribution or a reward lies outside [0, 1].
    """
    model = POMDP(*(np.ascontiguousarray(x, np.float64) for x in (mu, T, O, r)))
    for kernel in model[:3]:
        if (kernel < 0).any() or not np.allclose(kernel.sum(-1), 1, atol=1e-12):
            raise ValueError("a kernel is not a distribution")
    if (model.r < 0).any() or (model.r > 1).any():
        raise ValueError("rewards must lie in [0, 1]")
    return model


def stationary(mu: list, T: list, O: list, r: list, horizon: int) -> POMDP:  # noqa: E741
    """The same kernels at every step, from columns as papers print them.

    Args:
        mu: [S].
        T: [A][S'][S], rows are next states; columns are normalised.
        O: [O][S], rows are observations; columns are normalised.
        r: [S][A].
        horizon: H, steps.
    """
    columns, emission = np.array(T, float), np.array(O, float)
    rows = (columns / columns.sum(1, keepdims=True)).transpose(0, 2, 1)  # [A, S, S']
    emission = (emission / emission.sum(0)).T  # [S, O]
    return pomdp(mu, [rows] * horizon, [emission] * (horizon + 1), [np.array(r, float)] * horizon)


def off(horizon: int = 4) -> POMDP:
    """E-off, the environment of the authors' repository: actions do not move the state."""
    T = [[0.03, 0.04, 0.89], [0.95, 0.02, 0.10], [0.02, 0.94, 0.01]]
    O = [[0.83, 0.08, 0.09], [0.05, 0.79, 0.06], [0.02, 0.09, 0.89]]  # noqa: E741
    return stationary([1, 0, 0], [T, T], O, [[1, 0], [0, 1], [1, 0]], horizon)


def gamble(horizon: int = 4) -> POMDP:
    """E-gamble: 0.4 a step for certain, or 0.2 once and then a sticky good or bad state."""
    safe = [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    risky = [[0, 0, 0], [0.6, 0.9, 0.1], [0.4, 0.1, 0.9]]
    O = [[0.9, 0.05, 0.05], [0.05, 0.8, 0.15], [0.05, 0.15, 0.8]]  # noqa: E741
    return stationary([1, 0, 0], [safe, risky], O, [[0.4, 0.2], [0.4, 1], [0.4, 0]], horizon)


def random_pomdp(
    number: int, n_states: int = 3, n_obs: int = 2, n_actions: int = 2, horizon: int = 3
) -> POMDP:
    """E-rand: kernels drawn from uniform Dirichlet distributions, rewards uniform in [0, 1]."""
    rng = np.random.default_rng(np.random.SeedSequence([240_218_149, number]))

    def simplex(*shape: int) -> Array:
        return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])

    return pomdp(
        simplex(n_states),
        simplex(horizon, n_actions, n_states, n_states),
        simplex(horizon + 1, n_states, n_obs),
        rng.uniform(size=(horizon, n_states, n_actions)),
    )


def with_emission(model: POMDP, emission: Any) -> POMDP:
    """The same POMDP with the emission matrix [S, O] at every step."""
    return pomdp(model.mu, model.T, [np.array(emission, float)] * len(model.O), model.r)


def fully_observed(model: POMDP) -> POMDP:
    """The same POMDP with the state as its observation."""
    return with_emission(model, np.eye(len(model.mu)))


def blind(model: POMDP) -> POMDP:
    """The same POMDP with one observation, which says nothing."""
    return with_emission(model, np.ones((len(model.mu), 1)))


def make_pomdp(name: str, seed: int = 0) -> POMDP:
    """The environment ``name`` (see TASKS); for "rand", the one that belongs to the seed.

    Raises:
        UserError: if there is no such environment.
    """
    family, _, variant = choose("task", name, TASKS).partition("-")
    if family == "rand":
        model = random_pomdp(seed % N_RANDOM)
    else:
        model = {"off": off, "gamble": gamble}[family]()
    return fully_observed(model) if variant == "full" else model


# -- histories ----------------------------------------------------------------------------------


def level_starts(model: POMDP) -> Integers:
    """Where each level of histories begins in the flat arrays [H + 1]; the last entry is F."""
    H, A, _, _ = model.T.shape
    n_obs = model.O.shape[2]
    sizes = [n_obs * (n_obs * A) ** h for h in range(H)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@jit
def growth_of(gamma: float, r: Array) -> Array:
    """e^(gamma r) [H, S, A]: what a reward multiplies the risk belief and the beta vector by."""
    return np.exp(gamma * r)


@jit
def evaluate(
    model: POMDP, growth: Array, gamma: float, policy: NDArray[np.int8], starts: Integers
) -> float:
    """J(pi) = (1/gamma) log E^pi exp(gamma sum_h r_h), exactly.

    Forward over the histories that the policy can meet, with the risk belief without its factor
    O: w_1(o) = O(o|.) mu and w_(h+1)(f, a, o') = diag(O(o'|.)) T_a diag(e^(gamma r)) w_h(f). The
    last step needs no successor: T and O sum to one.

    Args:
        model: the truth.
        growth: [H, S, A], ``growth_of(gamma, model.r)``.
        gamma: risk parameter, not 0.
        policy: [F] the action at every history.
        starts: [H + 1], see :func:`level_starts`.
    """
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    widest = n_obs**H
    nodes, w = np.empty(widest, np.int64), np.empty((widest, S))
    children, moved = np.empty(widest, np.int64), np.empty((widest, S))
    after = np.empty(S)
    for o in range(n_obs):
        nodes[o] = o
        for s in range(S):
            w[o, s] = model.mu[s] * model.O[0, s, o]
    n = n_obs
    for h in range(H - 1):
        for i in range(n):
            a = policy[starts[h] + nodes[i]]
            after[:] = 0.0
            for s in range(S):
                mass = growth[h, s, a] * w[i, s]
                for s2 in range(S):
                    after[s2] += model.T[h, a, s, s2] * mass
            for o in range(n_obs):
                children[i * n_obs + o] = (nodes[i] * A + a) * n_obs + o
                for s2 in range(S):
                    moved[i * n_obs + o, s2] = model.O[h + 1, s2, o] * after[s2]
        n *= n_obs
        nodes, children = children, nodes
        w, moved = moved, w
    total = 0.0
    for i in range(n):
        a = policy[starts[H - 1] + nodes[i]]
        for s in range(S):
            total += growth[H - 1, s, a] * w[i, s]
    return math.log(total) / gamma


def exact_J(model: POMDP, gamma: float, policy: NDArray[np.int8]) -> float:
    """J of a policy [F]; :func:`evaluate` without its preparations."""
    return evaluate(model, growth_of(gamma, model.r), gamma, policy, level_starts(model))


# -- episodes -----------------------------------------------------------------------------------


def episode_uniforms(name: str, seed: int, episodes: int, model: POMDP) -> Array:
    """Uniforms [K, H + 1, 2] behind the states and the observations of each episode."""
    seeds = np.random.SeedSequence([seed, list(TASKS).index(name)])
    return np.random.default_rng(seeds).random((episodes, len(model.O), 2))


@jit
def sample(p: Array, u: float) -> int:
    """Index drawn from the distribution p by inversion."""
    cumulative = 0.0
    for i in range(p.size - 1):
        cumulative += p[i]
        if u < cumulative:
            return i
    return p.size - 1


@jit
def rollout(
    model: POMDP,
    policy: NDArray[np.int8],
    starts: Integers,
    uniforms: Array,
    states: Integers,
    observations: Integers,
    actions: Integers,
) -> None:
    """Play an episode; the policy sees observations and its own actions only.

    Args:
        model: the truth.
        policy: [F].
        starts: [H + 1].
        uniforms: [H + 1, 2].
        states: [H + 1], overwritten; revealed afterwards.
        observations: [H + 1], overwritten.
        actions: [H], overwritten.
    """
    H, A, _, _ = model.T.shape
    n_obs = model.O.shape[2]
    f = 0
    for h in range(H + 1):
        if h == 0:
            states[0] = sample(model.mu, uniforms[0, 0])
        else:
            states[h] = sample(model.T[h - 1, actions[h - 1], states[h - 1]], uniforms[h, 0])
        observations[h] = sample(model.O[h, states[h]], uniforms[h, 1])
        if h < H:
            f = observations[0] if h == 0 else (f * A + actions[h - 1]) * n_obs + observations[h]
            actions[h] = policy[starts[h] + f]


def checkpoints(episodes: int, n: int = 25, first: int = 10) -> list[int]:
    """Episodes at which regret is kept: log-spaced ones, and those that the claims look at."""
    grid = {round(float(k)) for k in np.geomspace(min(first, episodes), episodes, n)}
    return sorted(grid | set(judged(episodes)))


def judged(episodes: int) -> list[int]:
    """K/10 ... K nearly log-spaced, K/4 among them, and 0.95 K, where the final policies begin."""
    return sorted({max(1, round(x * episodes)) for x in (0.1, 0.16, 0.25, 0.4, 0.625, 0.95, 1)})


def check_gamma(gamma: float) -> float:
    """Refuse gamma = 0, whose limit has its own method."""
    if gamma == 0 or not math.isfinite(gamma):
        raise UserError(f"--gamma must be finite and not 0, not {gamma}; 1e-6 is risk-neutral")
    return gamma
