"""Milliseconds per training step against dimension, all five losses on the same model.

A stage of its own (nothing else should run on the machine): one process, one thread, the losses
take turns within every repeat, medians are compared. A step is what training does: loss, backward
pass, clipping, RMSprop, moving average. ``update`` is the part that all losses share, the last two.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.cli import run_cli
from common.ema import Ema
from common.errors import choose
from common.flows import Flow
from common.run import Run
from common.stacked import randn, seed_generators
from common.torch_utils import setup
from papers.ebflow import models
from papers.ebflow.config import setting_of
from papers.ebflow.methods import METHODS, UPDATE, timed
from papers.ebflow.train import loss_of, optimiser_of, step_of

WARM_UP = 2  # steps of each loss before the clock runs


SIZES = {  # D of the FC model; side n of the CNN's images (1, n, n), D = n^2
    "fc": (64, 256, 500, 784, 1000, 1024, 1500, 2000),
    "cnn": (8, 16, 24, 28),
}


@dataclass
class Config:
    """Measure the cost of a step."""

    method: str = "all"  # the losses take turns: all are timed
    task: str = "fc"  # the model: fc or cnn
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    sizes: tuple[int, ...] | None = None  # see SIZES
    batch: tuple[int, ...] = (100, 20)  # samples per step; the paper's is 100
    repeats: int = 7  # of which the median is compared


def measure(
    model: str, size: int, batch: int, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds of each repeat of a step, per loss and for "update".

    Args:
        model: fc or cnn, one seed.
        size: D of fc, side of the images of cnn.
        batch: samples per step.
        repeats: timed steps of each loss.
        device: where.
    """
    setting = setting_of("mnist-fc", "ssm", lr=1e-8, sigma=0.1, xi=0.1)  # all but stands still
    g = seed_generators((0,), 1)
    dim = size if model == "fc" else size**2
    layers = models.fc_layers(g, dim) if model == "fc" else models.cnn_layers(g, (1, size, size))
    flow = Flow(layers).to(device)
    parameters = list(flow.parameters())
    optimiser, ema = optimiser_of(parameters, setting), Ema(parameters, setting.ema)
    noise = seed_generators((0,), 2, device)
    x = randn(noise, batch, dim)

    def step(loss: str) -> None:
        step_of(flow, loss_of(METHODS[loss], flow, x, noise, setting, 1), optimiser, ema, math.inf)

    def update() -> None:
        optimiser.step()
        ema.update()

    calls: dict[str, Callable[[], None]] = {m: lambda m=m: step(m) for m in timed()}  # type: ignore[misc]
    calls[UPDATE] = update
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(WARM_UP + repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return times


def growth(dims: list[int], milliseconds: list[float]) -> float:
    """Exponent p of time ~ D^p: the least-squares slope of the logarithms."""
    return float(np.polyfit(np.log(dims), np.log(milliseconds), 1)[0])


def main(cfg: Config) -> None:
    """Measure every size and batch; goes on after the last one that was finished."""
    choose("method", cfg.method, ("all",))
    sizes = cfg.sizes or SIZES[choose("task", cfg.task, SIZES)]
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, 0)
    grid = [(size, batch) for batch in cfg.batch for size in sizes]
    kept = run.keep(timings=[])
    for number in run.steps(len(grid)):
        size, batch = grid[number]
        times = measure(cfg.task, size, batch, cfg.repeats, device)
        for name, values in times.items():
            where = {"model": cfg.task, "size": size, "batch": batch}
            kept.timings.append({**where, "method": name, "ms": values})
        medians = {name: round(float(np.median(values)), 2) for name, values in times.items()}
        print(cfg.task, size, batch, medians, flush=True)


if __name__ == "__main__":
    run_cli(main, Config)
