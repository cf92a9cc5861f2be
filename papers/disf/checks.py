"""Greedy against all sets of small pools, and against the public code's loop in time."""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.disf.config import CheckConfig, task_of
from papers.disf.method import Ask, Files, greedy, redundancy_by_gram, submodularity_ratio
from papers.disf.methods import METHODS

NORMALS, TIMED = 4, 384  # numbers of a vector
PAIRS = 50  # of sets, of which the smallest submodularity ratio is taken


def vectors(n: int, d: int, seed: int, device: torch.device) -> Tensor:
    """Standard normal numbers. [n, d] float64."""
    drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(device)


def smallest_ratio(X: Tensor, seed: int) -> float:
    """The least submodularity ratio of drawn pairs of 3 and 3 files with a positive joint gain."""
    rng, found = np.random.default_rng(seed), list[float]()
    for _ in range(PAIRS):
        drawn = rng.permutation(len(X))[:6].tolist()
        before, after = (float(redundancy_by_gram(X[drawn[:n]])) for n in (3, 6))
        if before - after > 0:
            found.append(submodularity_ratio(X, drawn[:3], drawn[3:]))
    return min(found, default=0.0)


def of_pool(cfg: CheckConfig, n: int, picks: int, seed: int) -> dict[str, float]:
    """J of the method's sets from several starts, of all sets, and of the best one."""
    X = vectors(n, cfg.width or NORMALS, seed, torch.device(cfg.device))
    sets = torch.tensor(list(itertools.combinations(range(n), picks)), device=X.device)
    every = redundancy_by_gram(X[sets])
    files = Files(X.cpu().numpy(), [""] * n, np.array(["none"] * n))
    asks = [Ask(n, picks, start, "crawl", "none", cfg.device) for start in range(cfg.starts)]
    found = [METHODS[cfg.method].select(files, ask) for ask in asks]
    J = redundancy_by_gram(X[torch.from_numpy(np.stack(found)).to(X.device)])
    return {
        **{"J_mean": float(J.mean()), "J_best": float(J.min())},
        **{"J_random": float(every.mean()), "J_optimum": float(every.min())},
        "ratio": smallest_ratio(X, seed),
    }


def of_time(cfg: CheckConfig, n: int, picks: int, seed: int) -> dict[str, float]:
    """Seconds of one batch by the three forms of the scores, and whether picks agree."""
    X = vectors(n, cfg.width or TIMED, seed, torch.device(cfg.device))
    taken, seconds = {}, {}
    for form in ("products", "tensor", "loop"):
        began = time.process_time()
        taken[form] = greedy(X, picks, 0, form=form)  # type: ignore[arg-type]
        seconds[form] = time.process_time() - began
    same = taken["products"] == taken["tensor"] == taken["loop"]
    found = {f"seconds_{form}": value for form, value in seconds.items()}
    return {**found, "seconds_ratio": seconds["loop"] / seconds["products"], "same": float(same)}


def check(cfg: CheckConfig) -> None:
    """Go through the pools, or go on from the last one.

    Raises:
        UserError: for an unknown method or task.
    """
    task = task_of(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    measure = of_pool if task.data == "normals" else of_time
    run.keep()
    for number in run.steps(len(cfg.seed)):
        seed = cfg.seed[number]
        run.log(number, seed=seed, **measure(cfg, task.batch, task.picks, seed))


if __name__ == "__main__":
    run_cli(check, CheckConfig)
