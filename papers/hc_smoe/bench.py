"""Speed: clustering against the search over all subsets, and a group evaluated once per token.

    python -m papers.hc_smoe.bench [--json FILE]

One layer of random experts, r = n / 2; one thread, CPU time, medians of interleaved repeats.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common import files
from common.cli import run_cli
from common.timing import alternately
from common.torch_utils import setup
from papers.hc_smoe import baselines
from papers.hc_smoe.clustering import agglomerate
from papers.hc_smoe.method import (
    Calibration,
    Experts,
    MergedExperts,
    distances,
    merge,
    routing,
)


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    experts: tuple[int, ...] = (4, 6, 8, 10, 12)  # n
    tokens: int = 1024  # T
    width: int = 64  # D
    hidden: int = 128  # ff
    repeats: int = 3  # interleaved


def reductions(cfg: BenchConfig, n: int) -> dict[str, Callable[[], object]]:
    """Both ways to come from n experts to n / 2, everything from the tokens on."""
    generator = torch.Generator().manual_seed(n)
    gate_up = torch.randn(n, 2 * cfg.hidden, cfg.width, generator=generator)
    experts = Experts(gate_up, torch.randn(n, cfg.width, cfg.hidden, generator=generator))
    x = torch.randn(cfg.tokens, cfg.width, generator=generator)
    logits = torch.randn(cfg.tokens, n, generator=generator)
    chosen = logits.topk(2).indices

    def cluster() -> Experts:
        sums = Calibration(experts)
        sums.add(x, logits, chosen)
        of = sums.statistics()
        return merge(experts, agglomerate(distances("output", experts, of)).cut(n // 2), of.usage)

    def search() -> object:
        every = list(itertools.combinations(range(n), n // 2))
        return baselines.search(experts, x, logits, every, 2, True)

    return {"HC-SMoE": cluster, "all subsets": search}


def evaluations(cfg: BenchConfig) -> dict[str, Callable[[], object]]:
    """The merged layer with groups that are hit twice, evaluated once and twice."""
    n = max(cfg.experts)
    experts = Experts(
        torch.randn(n // 4, 2 * cfg.hidden, cfg.width), torch.randn(n // 4, cfg.width, cfg.hidden)
    )
    labels = [i % (n // 4) for i in range(n)]
    x = torch.randn(cfg.tokens, cfg.width)
    weights, chosen = routing(torch.randn(cfg.tokens, n), 4, True).topk(4)
    once = MergedExperts(experts, labels)

    def twice() -> torch.Tensor:
        parts = zip(chosen.split(1, 1), weights.split(1, 1), strict=True)
        return torch.stack([once(x, c, w) for c, w in parts]).sum(0)

    return {"per selection": twice, "per group": lambda: once(x, chosen, weights)}


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds of each side."""
    setup("cpu", 0)
    result = {
        f"{n} to {n // 2} experts": alternately(reductions(cfg, n), cfg.repeats)
        for n in cfg.experts
    }
    result["layer, 4 selections"] = alternately(evaluations(cfg), cfg.repeats)
    for name, found in result.items():
        text = ", ".join(f"{side} {value:.1f} ms" for side, value in found.items())
        print(f"{name}: {text}", flush=True)
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
