"""Gradient updates per second: SAC and MEow stacked over seeds against stable-baselines3's SAC.

    python -m papers.meow.bench [--json FILE]

SAC with two hidden layers of 256 on HalfCheetah's sizes, replay sampling included on both sides. An
update of a stack of S seeds counts S times. Repeats are interleaved and the ratio is that of the
medians of one run. With one thread the clock is the process's CPU time, which a busy machine
disturbs least; with several (`--threads 2`) it is the wall's, and wants an idle machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from common import files
from common.cli import run_cli
from common.sac import ReplayBuffer
from common.stacked import rand, randn, seed_generators
from common.torch_utils import setup
from papers.meow.baselines import SAC, SACConfig
from papers.meow.method import MEow, MEowConfig

OBS, ACTION, STORED = 17, 6, 1_000  # HalfCheetah's sizes; transitions in the buffers


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    stack: int = 8  # seeds in the stack
    batch: tuple[int, ...] = (256, 64)  # transitions per update, one comparison each
    threads: int = 1  # of PyTorch, for both sides
    repeats: int = 9  # interleaved repeats of each side
    updates: int = 4  # updates per repeat of a stack; the single side makes `stack` times as many


def stacked(agent: MEow | SAC, seeds: int, batch: int) -> Callable[[int], None]:
    """n updates of a stack of seeds."""
    generators = seed_generators(range(seeds), 9)
    buffer = ReplayBuffer(seeds, STORED, OBS, ACTION)
    for _ in range(STORED):
        buffer.add(
            obs=randn(generators, OBS),
            action=1.98 * rand(generators, ACTION) - 0.99,
            reward=randn(generators, 1).squeeze(1),
            next_obs=randn(generators, OBS),
            terminated=torch.zeros(seeds),
        )

    def updates(n: int) -> None:
        for _ in range(n):
            agent.update(buffer.sample(generators, batch))

    return updates


def peer(batch: int) -> Callable[[int], None]:
    """n updates of stable-baselines3's SAC with its default networks."""
    import gymnasium
    from stable_baselines3 import SAC as TheirSAC

    model = TheirSAC(
        "MlpPolicy",
        gymnasium.make("HalfCheetah-v5"),
        batch_size=batch,
        buffer_size=STORED,
        learning_starts=STORED,
        device="cpu",
    )
    model.learn(STORED)

    def updates(n: int) -> None:
        model.train(n, batch)

    return updates


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per update and seed, and the ratios to stable-baselines3."""
    setup("cpu", 0)
    torch.set_num_threads(cfg.threads)
    torch.use_deterministic_algorithms(False)  # as the peer would run
    result = {f"batch {batch}": compare(cfg, batch) for batch in cfg.batch}
    if cfg.json:
        files.write_json(cfg.json, result)


def compare(cfg: BenchConfig, batch: int) -> dict[str, dict[str, float]]:
    """All sides at one batch size."""
    clock = time.process_time if cfg.threads == 1 else time.perf_counter
    kind = "CPU" if cfg.threads == 1 else f"wall, {cfg.threads} threads"
    weights, noise = seed_generators(range(cfg.stack), 0), seed_generators(range(cfg.stack), 1)
    one = seed_generators((0,), 0), seed_generators((0,), 1)
    sides: dict[str, tuple[Callable[[int], None], int]] = {
        "stable-baselines3 SAC": (peer(batch), 1),
        "SAC, one seed": (stacked(SAC(*one, OBS, ACTION, SACConfig()), 1, batch), 1),
        f"SAC, {cfg.stack} seeds stacked": (
            stacked(SAC(weights, noise, OBS, ACTION, SACConfig()), cfg.stack, batch),
            cfg.stack,
        ),
        f"MEow, {cfg.stack} seeds stacked": (
            stacked(MEow(weights, noise, OBS, ACTION, MEowConfig()), cfg.stack, batch),
            cfg.stack,
        ),
    }
    for call, _ in sides.values():
        call(2)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(cfg.repeats):
        for name, (call, S) in sides.items():
            n = cfg.updates * cfg.stack // S
            began = clock()
            call(n)
            seconds[name].append((clock() - began) / (n * S))
    theirs = median(seconds["stable-baselines3 SAC"])
    result: dict[str, dict[str, float]] = {}
    for name, values in seconds.items():
        mine = median(values)
        result[name] = {
            "ms per update and seed": 1e3 * mine,
            "updates per second": 1 / mine,
            "over stable-baselines3": theirs / mine,
        }
        spread = np.percentile(values, [25, 75]) * 1e3
        print(
            f"batch {batch:3d}  {name:24s} {1e3 * mine:6.2f} ms per update and seed of {kind} "
            f"[{spread[0]:.2f}, {spread[1]:.2f}], {1 / mine:6.0f} per second, "
            f"{theirs / mine:.2f} x stable-baselines3",
            flush=True,
        )
    return result


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
