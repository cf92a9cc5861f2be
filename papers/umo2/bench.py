"""Slots per second of processor time: the compiled simulator with NSO against a NumPy loop.

Both meet the same capacities and arrivals; the queues of all slots must agree, else there is no
ratio.
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
from papers.umo2 import task
from papers.umo2.methods import METHODS, OLO
from papers.umo2.simulate import NO_LOG, make_plan, new_measurements, new_state, simulate


@dataclass
class BenchConfig:
    """Compare speeds."""

    json: Path | None = None  # also write the numbers here
    slots: int = 3_000  # slots of the NumPy loop per repeat
    repeats: int = 5  # interleaved; medians are compared


def project(x: np.ndarray) -> np.ndarray:
    """Rows of x [J, d] projected on {a >= 0, sum a <= 1}, by sorting."""
    clipped = np.maximum(x, 0.0)
    descending = -np.sort(-x, axis=1)
    taus = (descending.cumsum(axis=1) - 1.0) / np.arange(1, x.shape[1] + 1)
    kept = np.count_nonzero(descending > taus, axis=1) - 1
    tau = np.take_along_axis(taus, kept[:, None], axis=1)
    inside = clipped.sum(axis=1, keepdims=True) <= 1.0
    return np.where(inside, clipped, np.maximum(x - tau, 0.0))


def numpy_loop(
    net: task.Network, capacities: np.ndarray, arrivals: np.ndarray, J: int = 8
) -> np.ndarray:
    """NSO as one would write it: capacities [T, E], arrivals [T, A]; returns the queues [T, n]."""
    groups = [np.arange(a, b) for a, b in zip(net.starts[:-1], net.starts[1:], strict=True)]
    x = [np.full((J, len(g)), 1 / (len(g) + 1)) for g in groups]
    cumulative, squares, ranges = np.zeros((len(groups), J)), *np.zeros((2, len(groups)))
    steps = 0.7 * 2.0 ** np.arange(J)[:, None]
    Q, history = np.zeros(len(net.delivered)), []
    for t in range(1, len(capacities) + 1):
        history.append(Q)
        a = np.empty(len(net.source))
        for i, g in enumerate(groups):
            rate = math.sqrt(math.log(J) / ranges[i]) if ranges[i] > 0 else 0.0
            w = np.exp(-rate * (cumulative[i] - cumulative[i].min()))
            share = min(0.05, 1 / math.sqrt(t))
            a[g] = (1 - share) * (w / w.sum()) @ x[i] + share / (len(g) + 1)
        mu = capacities[t - 1] * a
        loss = -(mu / a) * (Q[net.source] - Q[net.sink])
        for i, g in enumerate(groups):
            squares[i] += loss[g] @ loss[g]
            if squares[i] > 0:
                charged = x[i] @ loss[g]
                cumulative[i] += charged
                ranges[i] += np.ptp(charged) ** 2
                x[i] = project(x[i] - steps / math.sqrt(squares[i]) * loss[g])
        inflow = np.zeros_like(Q)
        np.add.at(inflow, net.arrival, arrivals[t - 1])
        np.add.at(inflow, net.sink, mu)
        np.subtract.at(inflow, net.source, mu)
        Q = np.where(net.delivered, 0.0, np.maximum(Q + inflow, 0.0))
    return np.array(history)


def compiled_loop(net: task.Network, method: str, n_slots: int, log: np.ndarray) -> None:
    """The same in the compiled simulator."""
    policy = METHODS[method]
    plan, state = make_plan(policy, net, V=30.0), new_state(policy, net)
    simulate(net, plan, 0, 0, n_slots, state, new_measurements(), log)


def pregenerate(net: task.Network, n_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Capacities [T, E] and arrivals [T, A] of seed 0."""
    keys = [task.stream_key(0, net.stream, purpose) for purpose in (0, 1)]
    link, C, A = np.empty(net.level.shape[1]), [], []
    for t in range(1, n_slots + 1):
        C.append(np.empty(len(net.source)))
        task.draw_capacities(net, keys[0], t, link, C[-1])
        A.append(np.empty(len(net.arrival)))
        task.draw_arrivals(net, keys[1], t, A[-1])
    return np.array(C), np.array(A)


def seconds_of(function: Callable[..., object], *args: Any) -> float:
    """Processor time of a call: both sides have one thread, and the machine may be busy."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def bench(cfg: BenchConfig) -> None:
    """Print both speeds, their ratio, and the cost of every policy."""
    net = task.net_a(0.42, 0.4, 100 * cfg.slots)
    world = pregenerate(net, cfg.slots)
    n = len(net.delivered)
    log = np.zeros((cfg.slots, 2 * n + 2 * len(net.source) + 1))
    compiled_loop(net, "nso", cfg.slots, log)  # compiles
    np.testing.assert_allclose(log[:, :n], numpy_loop(net, *world), atol=1e-6)

    slow, fast = [], []
    for _ in range(cfg.repeats):
        slow.append(cfg.slots / seconds_of(numpy_loop, net, *world))
        seconds = seconds_of(compiled_loop, net, "nso", 100 * cfg.slots, NO_LOG)
        fast.append(100 * cfg.slots / seconds)
    ratio = statistics.median(fast) / statistics.median(slow)
    print(f"NumPy, slot by slot  {statistics.median(slow):>12,.0f} slots/s")
    print(f"compiled             {statistics.median(fast):>12,.0f} slots/s")
    print(f"ratio                {ratio:>12,.0f}   (same queues)")

    costs = {}
    for name, policy in METHODS.items():
        if policy.plays(OLO):
            continue
        seconds = seconds_of(compiled_loop, net, name, 100 * cfg.slots, NO_LOG)
        costs[name] = seconds / (100 * cfg.slots) * 1e6
        print(f"{policy.label:<36}{costs[name]:>8.2f} s per 1e6 slots of Net-A")
    if cfg.json is not None:
        numbers = {
            "ours": statistics.median(fast),
            "peer": statistics.median(slow),
            "unit": "slots/s",
            "ratio": ratio,
            "seconds_per_million_slots": costs,
        }
        cfg.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
