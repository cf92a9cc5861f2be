"""A run directory -> rows: how good the averaged models are, and what choosing cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import files
from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.sewa import neighbours
from papers.sewa.config import Config, NeighboursConfig
from papers.sewa.examples import Work
from papers.sewa.methods import METHODS
from papers.sewa.task import TASKS
from papers.sewa.train import opened
from papers.sewa.weights import finite, put

Add = Callable[..., None]
LOGGED = ("train_loss", "log_train_loss", "picked", "iterations", "calls", "megabytes", "spread")


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


@torch.no_grad()
def quality(work: Work, weights: torch.Tensor) -> dict[str, float]:
    """Of one model, its batch statistics taken anew on training data. [P]."""
    put(work.model, weights.to(work.device))
    work.settle(work.train)
    found = {name: finite(value) for name, value in work.measure(work.model).items()}
    total = sum(float(work.loss(work.model, b)) * len(b[0]) for b in work.batches(work.test))
    return {**found, "test_loss": finite(total / len(work.test))}


def of_seed(
    cfg: Config, line: dict[str, Any], weights: torch.Tensor, device: torch.device, add: Add
) -> None:
    """Rows of one seed and size: the mean over draws."""
    found = opened(cfg, line["seed"], device)
    each = [quality(found.work, one) for one in weights]
    for metric in each[0]:
        add(metric, sum(one[metric] for one in each) / len(each))
    for metric in LOGGED:
        add(metric, line[metric])
    for metric, value in found.work.constants().items():
        add(metric, value)
    add("hit", len(found.hit) / len(found.theta))
    if line["probabilities"]:
        add("count", sum(line["probabilities"]))  # of snapshots that a mask expects
    if line["trace_step"]:
        add("expected", line["trace_count"], step=line["trace_step"])
        add("gap", line["trace_gap"], step=line["trace_step"])


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    if files.read_json(run.folder / "config.json")["task"] == neighbours.TASK:
        run.write_eval(of_neighbours(run))
        return
    own = run.config(Config)
    device = setup(cfg.device, 0)
    method, kept = METHODS[own.method], run.final()
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    for line in run.metrics():
        name = {"method": own.method, "task": own.task, "seed": line["seed"]}
        asked = own.K or (TASKS[own.task].K,)
        mine = [line["K"]] if method.sized else asked  # what has no K is there for each

        def add(metric: str, value: Any, name: Any = name, mine: Any = mine, **more: Any) -> None:
            for K in mine:
                labels = {"K": K, "lr": own.lr, "window": own.window}
                rows.append({**name, **labels, "metric": metric, "value": value, **more})

        key = f"{line['seed']}-{line['K']}"
        of_seed(own, line, kept["weights"][key], device, add)
        add("seconds", kept["seconds"][key])
        data = [line["K"], line["chosen"], line["probabilities"]]
        extras.append({**name, "name": "chosen", "data": data})
    run.write_eval(rows, extras)


def of_neighbours(run: Run) -> list[dict[str, Any]]:
    """Rows of the stability measurement: distances, by the window's size."""
    own, rows = run.config(NeighboursConfig), []
    for line in run.metrics():
        kind = "last" if line["k"] == own.k else "half"
        name = {"method": own.method, "task": own.task, "seed": line["seed"], "of": kind}
        for metric in ("apart", "same", "equal"):
            rows.append({**name, "metric": metric, "value": line[metric]})
    return rows


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
