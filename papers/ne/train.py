"""One run: a loss on a task, all its seeds stacked in one network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from common.cli import run_cli
from common.errors import choose
from common.run import Run
from common.stacked import MLP, adam, clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.ne.methods import METHODS
from papers.ne.task import TASKS, curve, observe


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "huber"  # loss: a name of methods.METHODS
    task: str = "student"  # noise: one of task.TASKS
    seed: tuple[int, ...] = (0,)  # trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 400  # gradient steps
    batch: int = 64  # observations per step and seed
    lr: float = 1e-3  # Adam's
    width: int = 64  # of the two hidden layers
    log_every: int = 20  # steps between two evaluations


def network(seeds: tuple[int, ...], width: int) -> MLP:
    """The network of all seeds."""
    return MLP(seed_generators(seeds, 0), (1, width, width, 1))


def train(cfg: Config) -> None:
    """Fit noisy observations of a curve; log the error against the curve itself."""
    loss_of = METHODS[cfg.method].loss
    choose("task", cfg.task, TASKS)
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, cfg.seed[0])
    net = network(cfg.seed, cfg.width).to(device)
    optimizer = adam([{"params": list(net.parameters())}], lr=cfg.lr)
    generators = seed_generators(cfg.seed, 1, device)
    grid = torch.linspace(-1, 1, 101, device=device).view(1, -1, 1).expand(len(cfg.seed), -1, 1)
    run.keep(net=net, optimizer=optimizer, generators=generators)

    for step in run.steps(cfg.steps):
        x, y = observe(cfg.task, generators, cfg.batch)  # [S, B, 1]
        loss = loss_of(net(x) - y).mean((1, 2))  # [S]
        optimizer.zero_grad()
        loss.sum().backward()
        clip_grad_norm_per_seed(list(net.parameters()), 10.0)
        optimizer.step()
        if (step + 1) % cfg.log_every == 0 or step + 1 == cfg.steps:
            with torch.no_grad():
                error = (net(grid) - curve(grid)).square().mean((1, 2))  # [S]
            run.log(step + 1, loss=loss.tolist(), error=error.tolist())


if __name__ == "__main__":
    run_cli(train, Config)
