"""Training steps per CPU second: all seeds stacked against one network after the other.

python -m papers.ne.bench
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from common.cli import run_cli
from common.stacked import adam, seed_generators
from common.torch_utils import setup
from papers.ne.methods import METHODS
from papers.ne.task import observe
from papers.ne.train import network


@dataclass
class BenchConfig:
    """What to measure."""

    seeds: int = 10  # networks
    steps: int = 50  # per repeat
    repeats: int = 5  # interleaved; medians are compared


def seconds(seeds: tuple[int, ...], steps: int) -> float:
    """CPU seconds of so many steps of the networks of ``seeds``, stacked."""
    net = network(seeds, 64)
    optimizer = adam([{"params": list(net.parameters())}])
    generators = seed_generators(seeds, 1)
    loss_of = METHODS["huber"].loss
    begun = time.process_time()
    for _ in range(steps):
        x, y = observe("student", generators, 64)
        optimizer.zero_grad()
        loss_of(net(x) - y).mean((1, 2)).sum().backward()
        optimizer.step()
    return time.process_time() - begun


def bench(cfg: BenchConfig) -> None:
    """Print the ratio of one after the other to stacked."""
    setup("cpu", 0)
    seeds = tuple(range(cfg.seeds))
    stacked, single = [], []
    for _ in range(cfg.repeats):
        stacked.append(seconds(seeds, cfg.steps))
        single.append(sum(seconds((seed,), cfg.steps) for seed in seeds))
    print(f"{cfg.seeds} seeds stacked: {median(single) / median(stacked):.1f} times as fast")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
