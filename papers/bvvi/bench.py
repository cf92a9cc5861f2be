"""Episodes per second: the compiled planner against a loop over histories in Python.

``plain_plan`` is the algorithm line by line, a dictionary entry per history and NumPy on its
vectors, the last level included: the way the authors' code is written. ``level_plan`` is the same
by whole levels with ``einsum``. Their policies and values must agree with the compiled ones.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from papers.bvvi import method, task
from papers.bvvi.methods import METHODS
from papers.bvvi.task import POMDP, Array


@dataclass
class BenchConfig:
    """Compare speeds."""

    json: Path | None = None  # also write the numbers here
    repeats: int = 5  # interleaved; medians are compared


def plain_plan(
    model: POMDP, gamma: float, bonus: Array, *, last_history_only: bool = False
) -> tuple[dict[tuple, int], dict[tuple, Array], float]:
    """Lines 3 to 9 over dictionaries of histories (o_1, a_1, ..., o_h).

    Args:
        model: empirical kernels.
        gamma: risk parameter.
        bonus: [H, S, A].
        last_history_only: lines 8 and 9 once per step, for the history at which the loop over
            histories ended, as the authors' code has it: all others keep beta = 1.

    Returns:
        policy, beta vectors, V_1.
    """
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    levels = [list(product(*([range(n_obs)] + [range(A), range(n_obs)] * h))) for h in range(H + 1)]
    sigma = {f: n_obs * model.O[0][:, f[0]] * model.mu for f in levels[0]}
    for h in range(1, H + 1):
        for f in levels[h]:
            *_, a, o = f
            moved = model.T[h - 1, a].T @ (np.exp(gamma * model.r[h - 1, :, a]) * sigma[f[:-2]])
            sigma[f] = n_obs * model.O[h][:, o] * moved
    beta = {f: np.ones(S) for f in sigma}
    policy = {}
    for h in range(H - 1, -1, -1):
        low, high = np.exp(min(gamma, 0) * (H - h)), np.exp(max(gamma, 0) * (H - h))
        for f in levels[h]:
            Q = [
                log(sum(sigma[(*f, a, o)] @ beta[(*f, a, o)] for o in range(n_obs)) / n_obs) / gamma
                for a in range(A)
            ]
            policy[f] = next(a for a in range(A) if Q[a] >= max(Q) - 1e-11)
        for f in levels[h][-1:] if last_history_only else levels[h]:
            a = policy[f]
            expected = sum(model.O[h + 1][:, o] * beta[(*f, a, o)] for o in range(n_obs))
            v = np.exp(gamma * model.r[h, :, a]) * (model.T[h, a] @ expected)
            beta[f] = np.clip(v + np.sign(gamma) * bonus[h, :, a], low, high)
    total = sum(sigma[f] @ beta[f] for f in levels[0]) / n_obs
    return policy, beta, math.log(total) / gamma


def log(x: float) -> float:
    """Logarithm; of 0, the weight of a history that the model holds for impossible, -inf."""
    return math.log(x) if x > 0 else -math.inf


def level_plan(model: POMDP, gamma: float, bonus: Array) -> tuple[list[Array], float]:
    """The same with an einsum per level; the policy by level."""
    H, A, S, _ = model.T.shape
    n_obs = model.O.shape[2]
    growth = np.exp(gamma * model.r)
    sigma = [n_obs * model.O[0].T * model.mu]
    for h in range(H - 1):
        moved = np.einsum("ast,sa,fs->fat", model.T[h], growth[h], sigma[h], optimize=True)
        sigma.append((n_obs * moved[:, :, None] * model.O[h + 1].T).reshape(-1, S))
    policy: list[Array] = [np.empty(0)] * H
    after = np.ones((len(sigma[-1]), A, S))
    for h in range(H - 1, -1, -1):
        low, high = math.exp(min(gamma, 0) * (H - h)), math.exp(max(gamma, 0) * (H - h))
        v = np.einsum("ast,fat,sa->fas", model.T[h], after, growth[h], optimize=True)
        score = np.sign(gamma) * np.einsum("fas,fs->fa", v, sigma[h])
        near = score >= score.max(1, keepdims=True) - 1e-12 * np.abs(score).max(1, keepdims=True)
        policy[h] = near.argmax(1)
        chosen = v[np.arange(len(v)), policy[h]] + np.sign(gamma) * bonus[h].T[policy[h]]
        beta = np.clip(chosen, low, high)
        if h > 0:
            after = np.einsum("so,faos->fas", model.O[h], beta.reshape(-1, A, n_obs, S))
    return policy, math.log((sigma[0] * beta).sum() / n_obs) / gamma


def an_estimate(episodes: int = 300) -> tuple[POMDP, Array]:
    """The empirical model of E-gamble and its bonus after some episodes."""
    env = task.gamble()
    setup = method.Setup(1.0, 1.0, 0.02, method.iota(env, 2000), 0.0, method.NEXT, True)
    counts, starts = method.new_counts(env), task.level_starts(env)
    uniforms = task.episode_uniforms("gamble", 0, episodes, env)
    method.learn(env, setup, uniforms, starts, 0, episodes, counts, np.zeros(3))
    model = POMDP(*(np.empty_like(x) for x in env[:3]), env.r)
    method.estimate(model, counts)
    return model, method.bonuses(model, counts, setup.gamma, setup.scale, setup.iota)


def compiled_plans(model: POMDP, bonus: Array, n: int) -> method.Plan:
    """Plan ``n`` times, as the learner does: no memory is taken anew."""
    found = method.solve(model, 1.0, bonus=bonus)
    growth, starts = task.growth_of(1.0, model.r), task.level_starts(model)
    for _ in range(n - 1):
        method.plan(model, growth, 1.0, bonus, method.NEXT, True, starts, *found[2:], found.policy)
    return found


def seconds_of(function: Callable[..., object], *args: Any) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def bench(cfg: BenchConfig) -> None:
    """Print the speeds of planning, their ratios, and the cost of an episode of every method."""
    model, bonus = an_estimate()
    ours = compiled_plans(model, bonus, 1)
    policy, _, value = plain_plan(model, 1.0, bonus)
    by_level, level_value = level_plan(model, 1.0, bonus)
    in_order = sorted(policy, key=lambda f: (len(f), f))  # the order of the flat arrays
    assert [policy[f] for f in in_order] == ours.policy.tolist(), "the two planned differently"
    assert np.concatenate(by_level).tolist() == ours.policy.tolist(), "the two planned differently"
    assert math.isclose(value, ours.value, rel_tol=1e-12)
    assert math.isclose(level_value, ours.value, rel_tol=1e-12)

    plain, level, fast = [], [], []
    for _ in range(cfg.repeats):
        plain.append(1 / seconds_of(plain_plan, model, 1.0, bonus))
        level.append(50 / seconds_of(lambda: [level_plan(model, 1.0, bonus) for _ in range(50)]))
        fast.append(2000 / seconds_of(compiled_plans, model, bonus, 2000))
    rates = {
        name: statistics.median(x) for name, x in zip("ple", (plain, level, fast), strict=True)
    }
    print(f"Python, history by history {rates['p']:>12,.1f} plans/s")
    print(f"NumPy, level by level      {rates['l']:>12,.1f} plans/s")
    print(f"compiled                   {rates['e']:>12,.1f} plans/s")
    print(f"ratio to Python            {rates['e'] / rates['p']:>12,.0f}   (same policy and value)")
    print(f"ratio to NumPy             {rates['e'] / rates['l']:>12,.0f}")

    costs = {}
    env, n = task.gamble(), 2000
    starts, uniforms = task.level_starts(env), task.episode_uniforms("gamble", 0, n, env)
    for name, m in METHODS.items():
        if m.learn is None:
            continue
        setup = method.Setup(1.0, 1.0, 0.02, method.iota(env, n), 0.0, m.q_bonus, True)
        args = (env, setup, uniforms, starts)
        m.learn(*args, 0, 1, m.new_state(env), np.zeros(3))  # compiles
        costs[name] = seconds_of(m.learn, *args, 0, n, m.new_state(env), np.zeros(3)) / n * 1e6
        print(f"{m.label:<27}{costs[name]:>12.1f} µs per episode, evaluation included")
    if cfg.json is not None:
        numbers = {
            "ours": rates["e"],
            "peer": rates["p"],
            "unit": "plans/s",
            "ratio": rates["e"] / rates["p"],
            "ratio_to_levels": rates["e"] / rates["l"],
            "microseconds_per_episode": costs,
        }
        cfg.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
