"""Select files with several seeds, and measure how diverse they are; nothing is trained."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.disf import shards
from papers.disf.baselines import SAME
from papers.disf.config import GeometryConfig, ask_of, task_of
from papers.disf.method import (
    Files,
    Indices,
    dominance,
    effective_rank,
    redundancy_by_gram,
    spectrum,
)
from papers.disf.methods import METHODS
from papers.disf.source import source_of

RANKS = tuple(range(10, 101, 10))  # r of the dominance score (public code)


def near_copies(X: torch.Tensor) -> float:
    """Share of the files whose features have a cosine above .95 with those of another one."""
    X = X / X.norm(dim=1, keepdim=True).clamp(min=1e-12)
    inner = X @ X.T
    inner.fill_diagonal_(0)
    return float((inner > SAME).any(1).double().mean())


def measured(files: Files, chosen: Indices, seed: int, cfg: GeometryConfig) -> dict[str, Any]:
    """Numbers of one selection; the spectrum is that of ``sample`` of its files, drawn at random,
    since its shape depends on how many there are.
    """
    drawn = np.random.default_rng([seed, 4]).permutation(chosen)[: cfg.sample]
    X = torch.from_numpy(np.asarray(files.features[np.sort(drawn)], dtype=np.float64))
    X = X.to(cfg.device)
    eigenvalues = spectrum(X)
    scores = dominance(eigenvalues, RANKS)
    domains, counts = np.unique(files.domains[chosen], return_counts=True)
    p = counts / counts.sum()
    found = {
        **{"dominance": scores, "mean_dominance": float(np.mean(scores))},
        **{"effective_rank": effective_rank(eigenvalues), "J": float(redundancy_by_gram(X))},
        **{"selected": len(chosen), "near_copies": near_copies(X)},
        **{"domain_entropy": float(-(p * np.log(p)).sum())},
    }
    return found | {f"share {name}": float(s) for name, s in zip(domains.tolist(), p, strict=True)}


def geometry(cfg: GeometryConfig) -> None:
    """Go through the seeds, or go on from the last one.

    Raises:
        UserError: for an unknown method or task, or too few selected files.
    """
    task = task_of(cfg)
    method = METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    files = source_of(task, cfg.device).files
    kept = run.keep(seconds=[])
    for number in run.steps(len(cfg.seed)):
        seed = cfg.seed[number]
        ask = ask_of(cfg, task, seed)
        began = time.process_time()
        if method.local:
            options: dict[str, Any] = {"engine": cfg.engine, "workers": cfg.workers}
            chosen = shards.select(files, method.select, ask, **options)
        else:
            chosen = method.select(files, ask)
        kept.seconds = [*kept.seconds, time.process_time() - began]
        run.log(number, seed=seed, **measured(files, chosen, seed, cfg))


if __name__ == "__main__":
    run_cli(geometry, GeometryConfig)
