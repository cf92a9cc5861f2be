"""Stage 1: a score model by denoising score matching, all seeds stacked; or one for each class.

``score`` is what every classifier of stage 2 is combined with. ``posterior`` is the baseline
without a classifier: the same loss and network on the data of one class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.ema import Ema
from common.image_judges import require_inception
from common.run import Run
from common.stacked import adam, rand, seed_generators
from common.torch_utils import GlobalRandom, setup
from papers.dlsm.baselines import score_loss
from papers.dlsm.config import ScoreConfig, resolve
from papers.dlsm.models import POSTERIOR, SCORE, class_generators, network
from papers.dlsm.task import Task, draw, load


def train(cfg: ScoreConfig) -> None:
    """Train, or go on from the last checkpoint."""
    task = resolve(cfg)
    if cfg.inception:
        require_inception()  # before weeks of training, not after
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])  # the global generator serves dropout alone (CIFAR)
    x, y = (part.to(device) for part in load(task.name))
    generators, pools = streams(cfg, task, y)
    net = network(cfg, task).to(device)
    parameters = list(net.parameters())
    optimiser = adam([{"params": parameters}])
    ema = Ema(parameters, task.score_ema) if task.score_ema else None
    run.keep(net=net, optimiser=optimiser, ema=ema, generators=generators, random=GlobalRandom())

    def averaged() -> dict[str, Any]:
        if ema is None:
            return {}
        with ema.swapped():
            return {"net": {name: value.clone() for name, value in net.state_dict().items()}}

    net.train()
    steps = 0 if cfg.weights else task.score_steps  # weights that are trained already
    drop = ("optimiser", "ema", "generators", "random")
    for step in run.steps(steps, then=averaged, drop=drop):
        for group in optimiser.param_groups:
            group["lr"] = task.score_rate(step)
        _, clean, sigma, z = draw(x, pools, generators, task.score_batch, task)
        if task.flip:
            clean = mirrored(clean, generators)
        loss, parts = score_loss(net, clean, sigma, z, task.score_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()  # seeds share no parameters
        if task.clip:
            nn.utils.clip_grad_norm_(parameters, task.clip)  # CIFAR: one seed
        optimiser.step()
        if ema is not None:
            ema.update()
        done = step + 1
        if done % cfg.log_every == 0 or done == steps:
            run.log(done, loss=loss.detach(), **{k: part.detach() for k, part in parts.items()})


def streams(cfg: ScoreConfig, task: Task, y: Tensor) -> tuple[list[torch.Generator], list[Tensor]]:
    """Of every network: the generator of its batches, and the rows that it learns from."""
    every = torch.arange(len(y), device=y.device)
    if cfg.model.per_class:
        generators = class_generators(cfg.seed, task, POSTERIOR + task.n_classes, y.device)
        return generators, [every[y == c] for _ in cfg.seed for c in range(task.n_classes)]
    return seed_generators(cfg.seed, SCORE + 1, y.device), [every] * len(cfg.seed)


def mirrored(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Images [S, B, 3072], each flipped left to right with probability 1/2."""
    flip = rand(generators, x.shape[1], 1) < 0.5
    return torch.where(flip, x.unflatten(-1, (3, 32, 32)).flip(-1).flatten(-3), x)


if __name__ == "__main__":
    run_cli(train, ScoreConfig)
