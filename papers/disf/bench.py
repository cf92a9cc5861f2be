"""Speed of a batch: candidates by three products, as a tensor, or one by one; and growth.

    python -m papers.disf.bench [--json FILE]

Random features, float64; CPU time, one thread, medians of interleaved repeats. The loop over
candidates by d x d matrices is the public code's form. Growth: seconds of whole selections, whose
cost per file should not depend on how many there are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from common import files
from common.cli import run_cli
from common.torch_utils import setup
from papers.disf.baselines import cosines, cover
from papers.disf.checks import vectors
from papers.disf.method import Ask, Files, disf, greedy


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    batch: int = 1024  # b
    picks: int = 16  # k
    widths: tuple[int, ...] = (384, 768)  # d
    repeats: int = 3  # interleaved
    loop: bool = True  # the public code's form as well, once: a minute
    files: tuple[int, ...] = (10_000, 100_000, 1_000_000)  # N, of whole selections: six minutes


def growth(cfg: BenchConfig) -> dict[str, float]:
    """CPU seconds of selecting from N files with features of the smallest width."""
    rng, d = np.random.default_rng(0), min(cfg.widths)
    ask, found = Ask(cfg.batch, cfg.picks), {}
    for n in sorted(cfg.files):
        features = rng.standard_normal((n, d), dtype=np.float32)
        there = Files(features, [], np.full(n, "none"))
        began = time.process_time()
        taken = disf(there, ask)
        seconds = time.process_time() - began
        found[f"N = {n}"] = seconds
        micro = 1e6 * seconds / n
        print(
            f"N = {n:,}: {len(taken):,} files in {seconds:.1f} s, {micro:.0f} us a file", flush=True
        )
    return found


def bench(cfg: BenchConfig) -> None:
    """Prints seconds of each form, hours for SlimPajama's 590 million files, and the growth."""
    device = setup("cpu", 0)
    result: dict[str, dict[str, float]] = {}
    for d in cfg.widths:
        X = vectors(cfg.batch, d, 0, device)
        sides = {
            "products": lambda X=X: greedy(X, cfg.picks, 0),
            "tensor": lambda X=X: greedy(X, cfg.picks, 0, form="tensor"),
            "facility location": lambda X=X: cover(cosines(X).clamp(min=0), cfg.picks),
        }
        if cfg.loop:
            sides["loop"] = lambda X=X: greedy(X, cfg.picks, 0, form="loop")
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for repeat in range(cfg.repeats):
            for name, call in sides.items():
                if name == "loop" and repeat:
                    continue
                began = time.process_time()
                call()
                seconds[name].append(time.process_time() - began)
        result[f"d = {d}"] = {name: median(values) for name, values in seconds.items()}
        for name, value in result[f"d = {d}"].items():
            hours = value * 590e6 / cfg.batch / 3600
            print(f"d = {d}: {name} {value:.3f} s a batch, {hours:,.0f} core hours", flush=True)
    result["selection"] = growth(cfg)
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
