"""Speed: a mask's sample against an ordinary step, and what each way to choose costs.

    python -m papers.sewa.bench [--json FILE]

One thread, CPU time, medians of interleaved repeats. The trainings are not run: how long a step
takes does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common import files
from common.cli import run_cli
from common.timing import alternately
from common.torch_utils import setup
from papers.sewa import baselines
from papers.sewa.examples import Work
from papers.sewa.method import Problem, Selection, sewa
from papers.sewa.task import TASKS, Task
from papers.sewa.trajectory import generators, problem_of
from papers.sewa.weights import flat


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    tasks: tuple[str, ...] = ("bc-hopper", "digits", "text")  # see task.TASKS
    repeats: int = 5  # interleaved
    samples: int = 10  # masks of a measured learning


def prepared(task: Task, seed: int = 0) -> tuple[Work, Problem]:
    """A task with random snapshots around its first weights."""
    work = task.make(task, seed, torch.device("cpu"))
    work = replace(work, batch=task.select_batch)
    draw = generators(seed)
    first = flat(work.model)
    theta = first + 0.01 * torch.randn(task.k, len(first), generator=draw["masks"])
    return work, problem_of(work, theta, task.K, Selection(), draw)


def sides_of(work: Work, problem: Problem, samples: int) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    draw = torch.Generator().manual_seed(0)

    def step() -> None:
        work.model.train()
        for _ in range(samples):
            work.optimizer.zero_grad()
            work.loss(work.model, work.drawn(work.train, draw)).backward()
            work.optimizer.step()

    few = replace(problem, settings=Selection(iterations=1, samples=samples))
    return {
        "steps of training": step,
        "masks, forward and backward": lambda: sewa(few),
        "LAWA": lambda: baselines.lawa(problem),
        "greedy soup": lambda: baselines.greedy(problem),
    }


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds by task and side."""
    setup("cpu", 0)
    found: dict[str, float] = {}
    for name in cfg.tasks:
        sides = sides_of(*prepared(TASKS[name]), cfg.samples)
        for side, value in alternately(sides, cfg.repeats).items():
            count = f"{cfg.samples} " if side.startswith(("steps", "masks")) else ""
            found[f"{name}: {count}{side}"] = value
            print(f"{name}: {count}{side}: {value:.1f} ms", flush=True)
    if cfg.json:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
