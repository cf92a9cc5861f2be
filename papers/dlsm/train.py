"""Stage 2: a classifier on noisy data, the score model of stage 1 frozen, all seeds stacked.

Each seed has its own initial weights, batches and noise and is what it would be alone. All methods
read the score model of the same seeds and draw the same weights, batches and noise: they differ in
their loss alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.image_judges import require_inception
from common.run import Run
from common.stacked import adam, seed_generators
from common.torch_utils import GlobalRandom, setup
from papers.dlsm.baselines import cross_entropy_loss
from papers.dlsm.config import Config, resolve
from papers.dlsm.method import Network, total_loss
from papers.dlsm.models import CLASSIFIER, load_prior, network
from papers.dlsm.moons import Measures, exact
from papers.dlsm.task import Task, draw, load


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    task = resolve(cfg)
    if cfg.inception:
        require_inception()  # before days of training, not after
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    x, y = (part.to(device) for part in load(task.name))
    pools = [torch.arange(len(x), device=device)] * len(cfg.seed)
    net = network(cfg, task).to(device)
    prior = load_prior(cfg, task, device)
    generators = seed_generators(cfg.seed, CLASSIFIER + 1, device)
    parameters = list(net.parameters())
    optimiser = adam([{"params": parameters}])
    measures = Measures(exact(), cfg.seed, cfg.draws, device) if task.name == "moons" else None
    run.keep(net=net, optimiser=optimiser, generators=generators, random=GlobalRandom())

    net.train()
    for step in run.steps(task.steps, drop=("optimiser", "generators", "random")):
        if step == 0 and measures is not None:
            run.log(0, **measures.of(net, prior))  # before any training
        for group in optimiser.param_groups:
            group["lr"] = task.rate(step)
        rows, clean, sigma, z = draw(x, pools, generators, task.batch, task)
        loss, parts = loss_of(cfg, task, net, prior, clean, y[rows], sigma, z)
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()  # seeds share no parameters
        if task.clip:
            nn.utils.clip_grad_norm_(parameters, task.clip)  # CIFAR: one seed
        optimiser.step()
        done = step + 1
        if done % cfg.log_every == 0 or done == task.steps:
            found = {} if measures is None else measures.of(net, prior)
            run.log(done, loss=loss.detach(), **{k: p.detach() for k, p in parts.items()}, **found)


def loss_of(
    cfg: Config,
    task: Task,
    net: Network,
    prior: Network,
    x: Tensor,
    y: Tensor,
    sigma: Tensor,
    z: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The method's loss of a batch and its parts, [S] each."""
    name = cfg.model.loss
    if name == "ce":
        return cross_entropy_loss(net, x, y, sigma, z)
    lambda_ce = {"total": task.lambda_ce, "dlsm": 0.0}[name or ""]
    return total_loss(net, prior, x, y, sigma, z, weight=task.weight, lambda_ce=lambda_ce)


if __name__ == "__main__":
    run_cli(train, Config)
