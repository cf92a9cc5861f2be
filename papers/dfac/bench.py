"""Milliseconds per gradient update and seed: quantile functions against scalars, seeds stacked.

    python -m papers.dfac.bench [--json FILE]

The two-step game with the default's batch, sampling of plays included. An update of a stack of S
seeds counts S times. Repeats are interleaved; the clock is the process's CPU time.
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
from common.marl.matrix_games import GAMES
from common.torch_utils import setup
from papers.dfac.config import GameConfig
from papers.dfac.games import Plays, Table
from papers.dfac.task import game_task
from papers.dfac.train_games import make_learner


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    methods: tuple[str, ...] = ("qmix", "dmix", "dplex", "dmix-c51")  # the first is the unit
    stack: int = 5  # seeds in the stack
    samples: int = 8  # quantile fractions
    repeats: int = 7  # interleaved repeats
    updates: int = 10  # per repeat of a stack


def side(method: str, seeds: int, samples: int) -> Callable[[int], None]:
    """n updates of a stack of seeds."""
    cfg = GameConfig(method=method, seed=tuple(range(seeds)), samples=samples)
    learner = make_learner(cfg, torch.device("cpu"))
    plays = Plays(Table(GAMES[game_task(cfg.task).game](), torch.device("cpu")), cfg.seed, 1_000)
    for _ in range(cfg.batch):
        plays.play()

    def updates(n: int) -> None:
        for _ in range(n):
            plays.play()
            learner.update(plays.sample(cfg.batch))

    return updates


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per update and seed, alone and stacked, and their ratio."""
    setup("cpu", 0)
    sides = {
        (method, seeds): side(method, seeds, cfg.samples)
        for method in cfg.methods
        for seeds in (1, cfg.stack)
    }
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in sides}
    for call in sides.values():
        call(2)
    for _ in range(cfg.repeats):
        for (method, seeds), call in sides.items():
            n = cfg.updates * cfg.stack // seeds
            began = time.process_time()
            call(n)
            seconds[method, seeds].append((time.process_time() - began) / (n * seeds))
    result: dict[str, dict[str, float]] = {}
    unit = median(seconds[cfg.methods[0], cfg.stack])
    for method in cfg.methods:
        alone, stacked = (1e3 * median(seconds[method, seeds]) for seeds in (1, cfg.stack))
        spread = 1e3 * np.percentile(seconds[method, cfg.stack], [25, 75])
        result[method] = {
            "ms per update, alone": alone,
            "ms per update and seed, stacked": stacked,
            "stacking gains": alone / stacked,
            f"over {cfg.methods[0]}": stacked / (1e3 * unit),
        }
        print(
            f"{method:10s} alone {alone:6.2f} ms, {cfg.stack} seeds stacked {stacked:6.2f} ms per "
            f"update and seed [{spread[0]:.2f}, {spread[1]:.2f}]: {alone / stacked:.2f} x; "
            f"{stacked / (1e3 * unit):.2f} x {cfg.methods[0]}",
            flush=True,
        )
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
