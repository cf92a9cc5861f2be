"""Training steps per second of all seeds: stacked networks against a plain loop over seeds.

The peer trains one seed after the other with ``torch.nn`` layers, ``torch.autograd.grad`` and
``torch.optim.Adam``, the way a script for one seed is written. Both start from the same weights,
see the same batches, and their losses must agree.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import files
from common.cli import run_cli
from common.stacked import adam, seed_generators
from common.torch_utils import setup
from papers.dlsm.baselines import cross_entropy_loss, score_loss
from papers.dlsm.method import total_loss
from papers.dlsm.networks import ToyNet
from papers.dlsm.task import MOONS, draw, load

Step = Callable[[], Tensor]


@dataclass
class BenchConfig:
    """Compare speeds on moons."""

    json: Path | None = None  # also write the numbers here
    seeds: int = 5  # networks trained side by side
    batch: int = 512  # points per step and seed
    steps: int = 10  # per repeat
    repeats: int = 5  # interleaved; medians are compared


class PlainToy(nn.Module):
    """ToyNet for one seed."""

    def __init__(self, stacked: ToyNet, index: int) -> None:
        super().__init__()
        self.points = nn.Sequential(
            *(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))
        )
        self.levels = nn.Sequential(
            *(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
        )
        self.out = nn.Linear(80, 2)
        linear = [m for m in self.modules() if isinstance(m, nn.Linear)]
        theirs = [*stacked.points.layers, *stacked.levels.layers, stacked.out]
        with torch.no_grad():
            for mine, other in zip(linear, theirs, strict=True):
                mine.weight.copy_(other.weight[index].T)
                mine.bias.copy_(other.bias[index, 0])

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.out(torch.cat((self.points(x), self.levels(sigma)), dim=1))


def plain_loss(
    method: str, net: nn.Module, prior: nn.Module, x: Tensor, y: Tensor, sigma: Tensor, z: Tensor
) -> Tensor:
    """The same losses for one seed: x [B, 2], y [B], sigma [B, 1]."""
    noisy = x + sigma * z
    if method == "score":
        return 0.5 * (sigma**2 * net(noisy, sigma) + sigma * z).square().sum(1).mean()
    if method == "base":
        return F.cross_entropy(net(noisy, sigma), y)
    with torch.no_grad():
        s = prior(noisy, sigma)
    noisy = noisy.requires_grad_()
    logits = net(noisy, sigma)
    log_p = F.log_softmax(logits, dim=1)[torch.arange(len(y)), y]
    (g,) = torch.autograd.grad(log_p.sum(), noisy, create_graph=True)
    residual = sigma**2 * (g + s) + sigma * z
    return 0.5 * residual.square().mean() + 0.125 * F.cross_entropy(logits, y)


def steps_of(method: str, cfg: BenchConfig) -> tuple[Step, Step]:
    """(stacked, plain): each call is one training step of all seeds and returns losses [S]."""
    seeds = range(cfg.seeds)
    x, y = load("moons")
    net = ToyNet(seed_generators(seeds, 1), 2, 2)
    prior = ToyNet(seed_generators(seeds, 2), 2, 2).requires_grad_(False)
    plain = [PlainToy(net, i) for i in seeds]
    plain_priors = [PlainToy(prior, i).requires_grad_(False) for i in seeds]
    optimiser = adam([{"params": list(net.parameters())}], lr=2e-4)
    optimisers = [torch.optim.Adam(each.parameters(), lr=2e-4) for each in plain]
    pools = [torch.arange(len(x))] * cfg.seeds
    generators = [seed_generators(seeds, 3) for _ in range(2)]

    def stacked_step() -> Tensor:
        rows, clean, sigma, z = draw(x, pools, generators[0], cfg.batch, MOONS)
        if method == "score":
            loss, _ = score_loss(net, clean, sigma, z, 2.0)
        elif method == "base":
            loss, _ = cross_entropy_loss(net, clean, y[rows], sigma, z)
        else:
            args = (net, prior, clean, y[rows], sigma, z)
            loss, _ = total_loss(*args, weight=2.0, lambda_ce=0.125)
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimiser.step()
        return loss.detach()

    def plain_step() -> Tensor:
        losses = []
        for i in seeds:
            rows, clean, sigma, z = draw(x, pools[:1], generators[1][i : i + 1], cfg.batch, MOONS)
            batch = (clean[0], y[rows[0]], sigma[0], z[0])
            loss = plain_loss(method, plain[i], plain_priors[i], *batch)
            optimisers[i].zero_grad(set_to_none=True)
            loss.backward()
            optimisers[i].step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return stacked_step, plain_step


def bench(cfg: BenchConfig) -> None:
    """Print steps per second of every method for both, and the ratios."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    numbers: dict[str, dict[str, float]] = {}
    print(f"{cfg.seeds} seeds, batches of {cfg.batch}, one thread; steps of all seeds per second")
    for method in ("score", "base", "total"):
        both = steps_of(method, cfg)
        for _ in range(3):  # warm-up, and the two must do the same
            torch.testing.assert_close(both[0](), both[1](), rtol=1e-3, atol=1e-4)
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(cfg.repeats):
            for step, found in zip(both, rates, strict=True):
                begun = time.perf_counter()
                for _ in range(cfg.steps):
                    step()
                found.append(cfg.steps / (time.perf_counter() - begun))
        ours, peer = (statistics.median(found) for found in rates)
        numbers[method] = {"ours": ours, "peer": peer, "ratio": ours / peer}
        print(f"{method:6} stacked {ours:8.1f}   seed by seed {peer:8.1f}   x {ours / peer:.2f}")
    if cfg.json is not None:
        files.write_json(cfg.json, {"unit": "steps/s", **numbers})


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
