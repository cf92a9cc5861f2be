"""Rounds per second: the compiled uniINF against the same algorithm in NumPy, round by round.

Both play the same uniforms; their actions must agree on every round, else there is no ratio.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from papers.uniinf import method, task
from papers.uniinf.methods import METHODS


@dataclass
class BenchConfig:
    """Compare speeds."""

    json: Path | None = None  # also write the numbers here
    rounds: int = 20_000  # rounds of the NumPy loop per repeat
    repeats: int = 5  # interleaved; medians are compared


def numpy_loop(env: task.Bandit, losses: np.ndarray, uniforms: np.ndarray) -> tuple:
    """uniINF as one would write it: losses [T, K], uniforms [T]; returns actions [T], S, regret."""
    T, K = losses.shape
    L, S, regret, actions = np.zeros(K), 4.0, 0.0, np.empty(T, int)
    for t in range(T):
        z, total = L.min() - S, math.inf
        while abs(total - 1) > 1e-12:  # Newton's method from the right end of the bracket
            x = S / (L - z)
            total = x.sum()
            z -= (total - 1) * S / (x @ x)
        i = min(int(np.searchsorted(np.cumsum(x / total), uniforms[t])), K - 1)
        loss, C = losses[t, i], S / (4 * (1 - x[i]))
        L[i] += loss / x[i] if abs(loss) < C else 0.0
        S = math.sqrt(S**2 + np.clip(loss, -C, C) ** 2 * (1 - x[i]) ** 2 / (K * math.log(T)))
        regret += env.gaps[0, i]
        actions[t] = i
    return actions, S, regret


def compiled_loop(env: task.Bandit, n_rounds: int) -> tuple[float, float, float]:
    """S, regret and pulls of the best arm of the compiled loop."""
    state, tally = method.new_state(env.slope.shape[1]), np.zeros(len(task.TALLY))
    method.simulate(env, task.Known(float(n_rounds), 1.0, 2.0), 0, 0, n_rounds, state, tally)
    return state[1][0], tally[task.REGRET], tally[task.BEST_PULLS]


def seconds_of(function: Callable[..., object], *args: Any) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def bench(cfg: BenchConfig) -> None:
    """Print both speeds, their ratio, and the cost of every method."""
    env = task.make_env("e1", 1.5, cfg.rounds)
    loss_key, action_key = task.stream_keys(0, env.stream)
    losses = np.array(
        [
            [task.draw_loss(env, loss_key, 0, t, i) for i in range(4)]
            for t in range(1, cfg.rounds + 1)
        ]
    )
    uniforms = np.array([task.action_uniform(action_key, t) for t in range(1, cfg.rounds + 1)])

    actions, S, regret = numpy_loop(env, losses, uniforms)
    ours = compiled_loop(env, cfg.rounds)  # compiles
    assert ours[2] == np.sum(actions == env.best), "the two loops played differently"
    assert math.isclose(ours[0], S, rel_tol=1e-6) and math.isclose(ours[1], regret, rel_tol=1e-9)

    slow, fast = [], []
    for _ in range(cfg.repeats):
        slow.append(cfg.rounds / seconds_of(numpy_loop, env, losses, uniforms))
        fast.append(50 * cfg.rounds / seconds_of(compiled_loop, env, 50 * cfg.rounds))
    ratio = statistics.median(fast) / statistics.median(slow)
    print(f"NumPy, round by round   {statistics.median(slow):>12,.0f} rounds/s")
    print(f"compiled                {statistics.median(fast):>12,.0f} rounds/s")
    print(f"ratio                   {ratio:>12,.0f}   (same actions, S and regret)")

    n, costs = 10 * cfg.rounds, {}
    known = task.Known(float(n), task.true_sigma(env, 1.5), 1.5)
    for name, m in METHODS.items():
        if not m.mistold:
            m.simulate(env, known, 0, 0, 1, m.new_state(4), np.zeros(len(task.TALLY)))  # compiles
            args = (env, known, 0, 0, n, m.new_state(4), np.zeros(len(task.TALLY)))
            costs[name] = seconds_of(m.simulate, *args) / n * 1e6
            print(f"{m.label:<24}{costs[name]:>12.3f} s per 1e6 rounds (K = 4)")
    if cfg.json is not None:
        numbers = {
            "ours": statistics.median(fast),
            "peer": statistics.median(slow),
            "unit": "rounds/s",
            "ratio": ratio,
            "seconds_per_million_rounds": costs,
        }
        cfg.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
