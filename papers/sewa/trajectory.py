"""Stage 1: an ordinary training, whose last snapshots are kept for every method.

In the online mode (public code) the model is replaced by the average whenever k snapshots are
there, and training goes on from it with the optimiser as it is.
"""

from __future__ import annotations

import torch

from common.cli import run_cli
from common.ema import Ema
from common.run import Run
from common.torch_utils import GlobalRandom, setup
from papers.sewa.baselines import lawa
from papers.sewa.config import TrajectoryConfig, of_training
from papers.sewa.examples import Work
from papers.sewa.method import Problem, Selection, Window, sewa
from papers.sewa.methods import METHODS
from papers.sewa.weights import flat, n_weights, put

STREAMS = ("batches", "selection", "masks")  # of random numbers, on the CPU
ONLINE = {"online": sewa, "online-lawa": lawa}
LINES = 20  # of the log


def generators(seed: int) -> dict[str, torch.Generator]:
    """A stream for each purpose, so that none moves another."""
    return {
        name: torch.Generator().manual_seed(len(STREAMS) * seed + i)
        for i, name in enumerate(STREAMS)
    }


def problem_of(
    work: Work, theta: torch.Tensor, K: int, how: Selection, draw: dict[str, torch.Generator]
) -> Problem:
    """The choice among snapshots by the training loss."""
    data = work.train
    return Problem(
        theta, K,
        objective=lambda: work.objective(data, draw["selection"]),
        score=lambda weights: work.score(data, weights),
        settings=how, generator=draw["masks"], examples=len(data) / work.batch,
    )  # fmt: skip


def train(cfg: TrajectoryConfig) -> None:
    """Train, or go on from the last checkpoint."""
    task = of_training(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    work = task.make(task, cfg.seed, device)
    model, optimizer, draw = work.model, work.optimizer, generators(cfg.seed)
    window = Window(task.k, n_weights(model), device)
    smooth = Ema(model.parameters(), cfg.decay)
    kept = run.keep(model=model, optimizer=optimizer, window=window, smooth=smooth, draw=draw,
                    dropout=GlobalRandom(), loss=0.0)  # fmt: skip
    for step in run.steps(task.steps, drop=("optimizer", "draw", "dropout")):
        # 1. an ordinary step
        for group in optimizer.param_groups:
            group["lr"] = work.rate(step)
        model.train()
        loss = work.loss(model, work.drawn(work.train, draw["batches"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        smooth.update()

        # 2. a snapshot: copied, the last one after the last step
        online = cfg.method in ONLINE
        left = task.steps - 1 - step
        if left % task.interval == 0 and (online or left < task.k * task.interval):
            window.push(flat(model))

        # 3. online: the average takes the model's place
        if online and window.full:
            rate = METHODS["sewa"].lr
            how = Selection(iterations=cfg.iterations, samples=cfg.samples, lr=rate)
            problem = problem_of(work, window.ordered(), task.K, how, draw)
            put(model, ONLINE[cfg.method](problem).weights)
            window.clear()

        value = float(loss.detach())
        kept.loss = value if step == 0 else 0.95 * kept.loss + 0.05 * value
        if (step + 1) % max(1, task.steps // LINES) == 0:
            run.log(step + 1, loss=kept.loss)


if __name__ == "__main__":
    run_cli(train, TrajectoryConfig)
