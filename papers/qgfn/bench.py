"""Milliseconds per training step against the number of states, QGFN and its baselines.

    python -m papers.qgfn.bench [--json FILE]

Prepend/append strings over four letters, L = 4, 6, 8, 10 (341 to 1.4 million states), batch 16,
five stacked seeds, MLP 2 x 256. Repeats of all methods are interleaved and medians compared; CPU
time, so that the machine's other load does not count. The networks are evaluated only on the states
that a batch passes through, so a step grows with L and not with the number of states.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from common.cli import run_cli
from common.gfn.nets import adam_with_log_Z
from common.gfn.sampling import sample, uniforms
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.qgfn.learning import behaviour, learn
from papers.qgfn.method import update_lagged
from papers.qgfn.methods import METHODS
from papers.qgfn.networks import Networks
from papers.qgfn.task import hamming, table_task

N_LETTERS = 4


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    lengths: tuple[int, ...] = (4, 6, 8, 10)  # letters of a string
    methods: tuple[str, ...] = ("tb", "dqn", "p-greedy", "p-quantile", "p-of-max", "p-of-max-n1")
    seeds: int = 5  # stacked
    batch: int = 16  # trajectories per step and seed
    repeats: int = 5  # interleaved repeats of each method
    steps: int = 5  # training steps per repeat


def make_step(name: str, length: int, n_seeds: int, batch: int) -> Callable[[], None]:
    """One training step of ``train.train_strings``."""
    method, seeds = METHODS[name], tuple(range(n_seeds))
    rewards = np.random.default_rng(0).uniform(0.1, 1.0, N_LETTERS**length)
    task = table_task(rewards, N_LETTERS, length, 8.0, lambda x: hamming(x, N_LETTERS))
    env = task.env
    nets = Networks("mlp", seeds, env, learns_pf=method.learns_pf, learns_q=method.learns_q)
    n = method.n or length
    lagged = None
    if n < length:
        lagged = Networks("mlp", seeds, env, learns_pf=False, learns_q=True)
    log_Z = nn.Parameter(torch.zeros(n_seeds))
    optimizer, _ = adam_with_log_Z(nets, log_Z if method.learns_pf else None, lr=1e-3, lr_log_Z=0.1)
    generators = seed_generators(seeds, 1)

    def step() -> None:
        u = uniforms(generators, (length, batch))
        mu = behaviour(nets, env, method.mixture, method.p)
        traj = sample(env, mu, u, epsilon=method.epsilon)
        reward = task.score(traj.last)[0]
        learned = learn(
            nets,
            lagged,
            env,
            traj,
            reward=reward,
            log_reward=task.log_reward(reward, task.beta),
            log_Z=log_Z,
            n=n,
        )
        optimizer.zero_grad()
        learned.total().backward()
        clip_grad_norm_per_seed(list(nets.parameters()), 10.0)
        optimizer.step()
        if lagged is not None:
            update_lagged(lagged.values(), nets.values())

    return step


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per step, ratios to TB, and the exponent of growth."""
    setup("cpu", 0)
    result: dict[str, dict[str, float]] = {m: {} for m in cfg.methods}
    states = [sum(N_LETTERS**t for t in range(length + 1)) for length in cfg.lengths]
    for length, n_states in zip(cfg.lengths, states, strict=True):
        steps = {m: make_step(m, length, cfg.seeds, cfg.batch) for m in cfg.methods}
        for step in steps.values():  # warm up
            step()
            step()
        seconds: dict[str, list[float]] = {m: [] for m in steps}
        for _ in range(cfg.repeats):
            for name, step in steps.items():
                start = time.process_time()
                for _ in range(cfg.steps):
                    step()
                seconds[name].append((time.process_time() - start) / cfg.steps)
        for name, measured in seconds.items():
            result[name][str(n_states)] = 1000 * median(measured)
        base = result["tb"][str(n_states)] if "tb" in result else float("nan")
        line = ", ".join(f"{m} {t[str(n_states)]:.1f}" for m, t in result.items())
        ratios = ", ".join(f"{m} {t[str(n_states)] / base:.2f}" for m, t in result.items())
        print(f"L={length}, {n_states} states: ms per step {line}; times TB: {ratios}", flush=True)
    for name, times in result.items():
        growth = float(np.polyfit(np.log(states), np.log(list(times.values())), 1)[0])
        times["exponent"] = growth
        print(f"{name}: step time ~ states^{growth:.2f}")
    if cfg.json:
        cfg.json.parent.mkdir(parents=True, exist_ok=True)
        cfg.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
