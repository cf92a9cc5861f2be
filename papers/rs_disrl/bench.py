"""Episodes per second: compiled M-LSR (I1) and M-MLE (I2) against the same in NumPy, step by step.

Both play the same uniforms; regret and what is remembered must agree, else there is no ratio.
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
from papers.rs_disrl import method, tabular
from papers.rs_disrl.augmented import TIE
from papers.rs_disrl.baselines import DELTA, Setting, finite_class, known_truth, set_up
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.risk import Array, Risk
from papers.rs_disrl.task import STEPS, make_problem, uniforms


@dataclass
class BenchConfig:
    """Compare speeds."""

    json: Path | None = None  # also write the numbers here
    episodes: int = 60  # of the NumPy loops per repeat (the compiled ones play 20 times as many)
    repeats: int = 5  # interleaved; medians are compared


def step_of(row: Array, u: float) -> tuple[int, int]:
    """(s', r) drawn from row [S, R] by inversion."""
    outcome = int(np.searchsorted(np.cumsum(row.ravel()), u, side="right"))
    return divmod(min(outcome, row.size - 1), row.shape[1])


def numpy_cdfs(q: Array, policy: np.ndarray) -> Array:
    """F [H + 1, S, Y, Y] by the backward recursion."""
    H, S, _, _, R = q.shape
    Y = H * (R - 1) + 1
    F = np.zeros((H + 1, S, Y, Y))
    F[H] = np.arange(Y)[:, None] <= np.arange(Y)
    for h in range(H - 1, -1, -1):
        for s in range(S):
            for y in range(h * (R - 1) + 1):
                F[h, s, y] = np.einsum(
                    "ir,irx->x", q[h, s, policy[h, s, y]], F[h + 1][:, y : y + R]
                )
    return F


def numpy_m_lsr(at: Setting, beta: float, steps: Array) -> tuple[Array, Array]:
    """RS-DisRL-M with LSR as one would write it; returns losses [N] and regret [K]."""
    cls = finite_class(at, at.risk, False)
    truth = known_truth(at, cls.policies)
    models, R = cls.models, cls.models.shape[-1]
    losses, regret = np.zeros(len(models)), np.zeros(len(steps))
    for k, row in enumerate(steps):
        live = losses <= losses.min() + beta
        i = next(n for n in cls.order if live[n])
        regret[k] = truth.regrets[i]
        F = numpy_cdfs(models[i], cls.policies[i])
        s, y = cls.start, 0
        for h, u in enumerate(row):
            a = cls.policies[i, h, s, y]
            s2, r = step_of(truth.q[h, s, a], u)
            pred = np.einsum("nir,irx->nx", models[:, h, s, a], F[h + 1][:, y : y + R])
            spread = np.ptp(pred[live], axis=0)
            x = int(np.argmax(spread >= spread.max() - 1e-15))
            losses += (pred[:, x] - F[h + 1, s2, y + r, x]) ** 2
            s, y = s2, y + r
    return losses, regret


def numpy_kl_max(p: Array, v: Array, kappa: float) -> float:
    """The largest mean in a KL ball by bisection."""
    top, on = v.max(), p > 0
    p, v = p[on], v[on]
    if top - v.min() <= 0:
        return float(top)

    def f(lam: float) -> float:
        return float(p @ np.log(lam - v) + math.log(p @ (1 / (lam - v))))

    if v.max() < top and (at_top := f(top)) < kappa:
        return float(top - math.exp(at_top - kappa) / (p @ (1 / (top - v))))
    low, high = 0.0, (top - v.min()) / (2 * math.sqrt(kappa)) * (1 + 1e-9)
    for _ in range(60):
        t = (low + high) / 2
        low, high = (t, high) if f(top + t) > kappa else (low, t)
    return float(top + high - 1 / (p @ (1 / (top + high - v))))


def numpy_plan_kl(
    p_hat: Array, totals: Array, width: float, risk: Risk, start: int
) -> tuple[float, np.ndarray]:
    """Optimistic planning over KL balls: value of the best c (before the link) and policy."""
    H, S, A, _, R = p_hat.shape
    Y = H * (R - 1) + 1
    best, best_policy = -math.inf, np.zeros((H, S, Y), int)
    for u in risk.utilities:
        V, policy = np.zeros((H + 1, S, Y)), np.zeros((H, S, Y), int)
        V[H] = u
        for h in range(H - 1, -1, -1):
            for y in range(h * (R - 1) + 1):
                v = V[h + 1][:, y : y + R].ravel()
                for s in range(S):
                    if h == 0 and s != start:
                        continue
                    Q = [
                        numpy_kl_max(p_hat[h, s, a].ravel(), v, width / n) if n else v.max()
                        for a, n in enumerate(totals[h, s])
                    ]
                    policy[h, s, y] = np.argmax(np.array(Q) > max(Q) - TIE)
                    V[h, s, y] = max(Q)
        if V[0, start, 0] > best + TIE:
            best, best_policy = V[0, start, 0], policy
    return best, best_policy


def numpy_tabular(at: Setting, width: float, steps: Array) -> tuple[Array, Array]:
    """M-MLE on I2, planning before every episode; counts [H, S, A, S, R] and values [K]."""
    truth, start, risk = at.problem.truth, at.problem.start, at.risk
    counts, values = np.zeros_like(truth), np.zeros(len(steps))
    for k, row in enumerate(steps):
        totals = counts.sum((-2, -1))
        p_hat = counts / np.maximum(totals, 1)[..., None, None]
        values[k], policy = numpy_plan_kl(p_hat, totals, width, risk, start)
        s, y = start, 0
        for h, u in enumerate(row):
            a = policy[h, s, y]
            s2, r = step_of(truth[h, s, a], u)
            counts[h, s, a, s2, r] += 1
            s, y = s2, y + r
    return counts, values


def seconds_of(function: Callable[..., object], *args: Any) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def compiled(name: str, at: Setting) -> Callable[[], Any]:
    """A run of all episodes from the beginning."""
    return lambda: (learner := set_up(name, at)).play(0, at.episodes) or learner


def bench(cfg: BenchConfig) -> None:
    """Print both speeds and their ratio, for both loops."""
    numbers: dict[str, Any] = {}
    for task, name in (("i1", "m_lsr"), ("i2", "m_mle")):
        few, many = (
            Setting(make_problem(task, "cvar25", 100), "cvar25", task, 100, n, 1)
            for n in (cfg.episodes, 20 * cfg.episodes)
        )
        steps = uniforms(100, task, STEPS, cfg.episodes)
        learner = compiled(name, few)()  # compiles
        if task == "i1":
            size = few.problem.size
            beta = method.beta_m(method.LSR, size.number, size.H, DELTA, False)
            losses, regret = numpy_m_lsr(few, beta, steps)
            np.testing.assert_allclose(learner.state["losses"], losses, rtol=1e-9)
            np.testing.assert_allclose(learner.record[:, method.REGRET], regret, atol=1e-12)
            slow_call: Callable[[], Any] = lambda a=few, b=beta, u=steps: numpy_m_lsr(a, b, u)  # noqa: E731
        else:
            size = few.problem.size
            width = tabular.beta_tabular(size.H, size.S, size.A, cfg.episodes, DELTA, 1.0)
            counts, values = numpy_tabular(few, width, steps)
            np.testing.assert_array_equal(learner.state["counts"], counts)
            np.testing.assert_allclose(learner.record[:, method.OPTIMISTIC], values, atol=1e-9)
            slow_call = lambda a=few, w=width, u=steps: numpy_tabular(a, w, u)  # noqa: E731
        slow, fast = [], []
        for _ in range(cfg.repeats):
            slow.append(cfg.episodes / seconds_of(slow_call))
            learner = set_up(name, many)
            fast.append(20 * cfg.episodes / seconds_of(learner.play, 0, 20 * cfg.episodes))
        ratio = statistics.median(fast) / statistics.median(slow)
        for label, speeds in (("NumPy", slow), ("compiled", fast)):
            median = statistics.median(speeds)
            print(f"{METHODS[name].label} on {task}, {label:<9}{median:>12,.0f} episodes/s")
        print(f"ratio                   {ratio:>12,.0f}")
        numbers[f"{name}_{task}"] = {
            "ours": statistics.median(fast),
            "peer": statistics.median(slow),
            "unit": "episodes/s",
            "ratio": ratio,
        }
    if cfg.json is not None:
        least = min(numbers.values(), key=lambda one: one["ratio"])
        cfg.json.write_text(json.dumps({**least, **numbers}, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
