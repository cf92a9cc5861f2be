"""One run: one method on one experiment, all training seeds at once.

The parameters of the seeds are stacked, so a step is a handful of batched products; each seed has
its own demonstrations, initial weights and random numbers and is what it would be alone.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.run import Run
from common.stacked import rand, randn
from common.torch_utils import setup
from papers.ofp import baselines
from papers.ofp.config import Config, resolve
from papers.ofp.interface import Task
from papers.ofp.method import update_teacher
from papers.ofp.methods import METHODS
from papers.ofp.networks import make_network
from papers.ofp.task import make_task


class SeededNoise:
    """Random draws [S, …], one generator per seed: a seed's draws do not depend on the others."""

    def __init__(self, seeds: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(7_919 * s + 11) for s in seeds]
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        return randn(self.generators, *shape).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return rand(self.generators, *shape).to(self.device)


def stack_windows(
    data: list[tuple[np.ndarray, np.ndarray]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """obs [S, N, obs_dim], flat chunks [S, N, D] and counts [S, 1]; N = the largest count."""
    counts = torch.tensor([[len(obs)] for obs, _ in data], device=device)
    N = int(counts.max())

    def pad(x: np.ndarray) -> Tensor:
        flat = torch.from_numpy(x).flatten(1)
        return torch.cat((flat, flat.new_zeros(N - len(flat), flat.shape[1])))

    obs = torch.stack([pad(o) for o, _ in data]).to(device)
    actions = torch.stack([pad(a) for _, a in data]).to(device)
    return obs, actions, counts


def learning_rate(progress: float, lr: float, hold: float) -> float:
    """Constant for the first `hold` of the training, then a cosine to 0."""
    x = max(0.0, progress - hold) / (1.0 - hold)
    return lr * 0.5 * (1.0 + math.cos(math.pi * x))


def clip_per_seed(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Scales each seed's gradient to norm `largest` if it is longer; returns the norms [S]."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
    norm = torch.linalg.vector_norm(norms, dim=0)  # [S]
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))
    return norm


@torch.no_grad()
def flow_endpoints(
    cfg: Config, task: Task, obs: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Data of the study's distillation: trains flow matching first, then integrates it.

    It bounds what the network can do in one call after as many steps, with a perfect teacher.

    Returns:
        obs [S, n, obs_dim], [noise, endpoint] [S, n, 2 D], counts [S, 1]; n = cfg.pairs.
    """
    flow = replace(cfg, method="fm", out=cfg.out / "flow")
    with torch.enable_grad():
        train(flow)
    net = make_network(task, cfg.seeds, **cfg.network).to(obs.device)
    net.load_state_dict(Run.load(flow.out).final()["teacher"])
    noise = SeededNoise(tuple(s + 1_000 for s in cfg.seeds), obs.device)
    each_seed = torch.arange(len(cfg.seeds), device=obs.device)[:, None]
    chosen, pairs = [], []
    n = min(cfg.pairs, 5_000)
    for _ in range(cfg.pairs // n):
        o = obs[each_seed, (noise.uniform(n) * counts).long()]
        z = noise.normal(n, task.horizon * task.action_dim)
        end = baselines.euler_sample(net, z, net.encode(o), cfg.pair_calls)
        chosen.append(o)
        pairs.append(torch.cat((z, end), dim=-1))
    obs, actions = torch.cat(chosen, dim=1), torch.cat(pairs, dim=1)
    return obs, actions, torch.full_like(counts, actions.shape[1])


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    run_config, cfg, policy = cfg, resolve(cfg), METHODS[cfg.method]
    run = Run.open(cfg.out, run_config)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    seeds = cfg.seeds
    task = make_task(cfg.task, seeds)
    obs, actions, counts = stack_windows([task.windows(s) for s in seeds], device)
    if policy.endpoints:
        obs, actions, counts = flow_endpoints(cfg, task, obs, counts)
    each_seed = torch.arange(len(seeds), device=device)[:, None]

    net = make_network(task, seeds, **cfg.network).to(device)
    teacher = copy.deepcopy(net).requires_grad_(False)
    parameters = list(net.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True
    )  # elementwise: stacked seeds do not touch each other
    noise = SeededNoise(seeds, device)
    loss_of = partial(policy.loss, cfg=cfg.ofp) if policy.settings else policy.loss
    run.keep(net=net, teacher=teacher, optimiser=optimiser, generators=noise.generators)

    # the teacher is what is evaluated
    for step in run.steps(cfg.steps, drop=("net", "optimiser", "generators")):
        progress = step / cfg.steps
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, cfg.lr, cfg.lr_hold)
        index = (noise.uniform(cfg.batch) * counts).long()  # [S, B]
        loss, parts = loss_of(
            net, teacher, obs[each_seed, index], actions[each_seed, index], noise, progress
        )
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        norm = clip_per_seed(parameters, cfg.clip)
        optimiser.step()
        update_teacher(teacher, net, cfg.ema)
        done = step + 1
        if done % 100 == 0 or done == cfg.steps:
            run.log(done, loss=loss, gradient_norm=norm, **parts)
    task.close()


if __name__ == "__main__":
    run_cli(train, Config)
