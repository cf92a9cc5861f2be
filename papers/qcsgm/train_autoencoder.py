"""One run: the one-layer autoencoder under L_QC alone, exactly, over the grid; seeds stacked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from common.cli import run_cli
from common.run import Run
from common.stacked import adam, clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.qcsgm.autoencoder import Autoencoder, grid
from papers.qcsgm.method import asymmetry
from papers.qcsgm.methods import entry

LR = 1e-4  # of Adam (authors' code)


@dataclass
class Config:
    """One training run."""

    method: str = "qc"  # the regulariser is all that is minimised
    task: str = "autoencoder"
    seed: tuple[int, ...] = (0,)  # trained together
    seed_offset: int = 0  # added to each seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 10_001  # full-batch steps (authors' code)
    clip: float = 1.0  # largest gradient norm, of every seed by itself (authors' code)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    entry(cfg.method, cfg.task, "autoencoder")
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, 0)
    seeds = [seed + cfg.seed_offset for seed in cfg.seed]
    net = Autoencoder(seed_generators(seeds, 0)).to(device)
    parameters = list(net.parameters())
    optimiser = adam([{"params": parameters}], lr=LR)
    x = grid().to(device)
    run.keep(net=net, optimiser=optimiser)

    def follow(step: int) -> None:
        with torch.no_grad():
            run.log(step, **net.measures(x))

    for step in run.steps(cfg.steps):
        if step == 0:
            follow(0)
        loss = asymmetry(net.jacobian(x)).mean(-1)  # L_QC [S]
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        clip_grad_norm_per_seed(parameters, cfg.clip)
        optimiser.step()
        if (step + 1) % 100 == 0 or step + 1 == cfg.steps:
            follow(step + 1)


if __name__ == "__main__":
    run_cli(train, Config)
