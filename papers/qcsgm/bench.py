"""Training steps with stacked seeds against a plain loop over seeds: `make bench PAPER=qcsgm`.

The plain side is one ``nn.Module`` per seed, each with its own Adam, clipping and backward passes,
and the regulariser by the paper's two-step scheme. Both sides see the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import files
from common.cli import run_cli
from common.stacked import adam, clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.qcsgm.method import dsm_loss, qc_backward_two_step, qc_loss, unconstrained
from papers.qcsgm.networks import ToyNetwork

LAM, LR = 0.1, 7.5e-4


@dataclass
class Config:
    """Measure, then print a table."""

    json: Path | None = None  # file for the numbers
    seeds: int = 5  # stacked against looped over
    batch: tuple[int, ...] = (100, 1000)  # points a step and seed
    rounds: int = 12  # interleaved repeats of each side; medians of CPU time are reported


class PlainSwish(nn.Module):
    """Swish with a learnable beta per unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class PlainNetwork(nn.Module):
    """``ToyNetwork`` of one seed with ordinary layers."""

    def __init__(self) -> None:
        super().__init__()
        self.of_x = nn.Sequential(
            *(nn.Linear(2, 64), PlainSwish(64), nn.Linear(64, 128), PlainSwish(128)),
            nn.Linear(128, 256),
        )
        self.of_sigma = nn.Sequential(
            *(nn.Linear(1, 1), PlainSwish(1), nn.Linear(1, 1), PlainSwish(1), nn.Linear(1, 1)),
        )
        self.joined, self.out = PlainSwish(257), nn.Linear(257, 2)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        joined = torch.cat([self.of_x(x), self.of_sigma(sigma)], dim=-1)
        return self.out(self.joined(joined))


def copy_seed(stack: ToyNetwork, plain: PlainNetwork, seed: int) -> None:
    """Gives the plain network the weights of one seed of the stack."""
    with torch.no_grad():
        for name, value in stack.named_parameters():
            parts = name.split(".")
            if len(parts) == 4:  # of_x.layers.1.weight is of_x.2.weight, of_x.activations.1 of_x.3
                branch, kind, i, leaf = parts
                name = f"{branch}.{2 * int(i) + (kind == 'activations')}.{leaf}"
            one = value[seed].T if name.endswith("weight") else value[seed].flatten()
            plain.get_parameter(name).copy_(one)


Step = Callable[[Tensor, Tensor, Tensor, Tensor], None]  # x, sigma, z, v, each [S, B, ...]


def stacked_step(kind: str, seeds: int) -> tuple[Step, ToyNetwork]:
    """One training step of all seeds at once."""
    net = ToyNetwork(seed_generators(range(seeds), 0))
    score = unconstrained(net)
    parameters = list(net.parameters())
    optimiser = adam([{"params": parameters}], lr=LR)

    def step(x: Tensor, sigma: Tensor, z: Tensor, v: Tensor) -> None:
        if kind == "u":
            s, regulariser = score(x, sigma), torch.zeros(())
        else:
            s, regulariser = qc_loss(score, x, sigma, v.unsqueeze(-3) if kind == "qc_est" else None)
        loss = 2 * dsm_loss(s, sigma, z) + LAM * regulariser
        optimiser.zero_grad(set_to_none=True)
        loss.mean(-1).sum().backward()
        clip_grad_norm_per_seed(parameters, 1.0)
        optimiser.step()

    return step, net


def plain_step(kind: str, stack: ToyNetwork, seeds: int) -> tuple[Step, list[PlainNetwork]]:
    """The same step, seed after seed."""
    nets = [PlainNetwork() for _ in range(seeds)]
    for seed, net in enumerate(nets):
        copy_seed(stack, net, seed)
    optimisers = [torch.optim.Adam(net.parameters(), lr=LR) for net in nets]

    def step(x: Tensor, sigma: Tensor, z: Tensor, v: Tensor) -> None:
        for seed, (net, optimiser) in enumerate(zip(nets, optimisers, strict=True)):
            score, level = unconstrained(net), sigma[seed]
            optimiser.zero_grad(set_to_none=True)
            if kind == "qc":
                s, regulariser = qc_loss(score, x[seed], level)
                (2 * dsm_loss(s, level, z[seed]) + LAM * regulariser).mean().backward()
            else:
                (2 * dsm_loss(score(x[seed], level), level, z[seed])).mean().backward()
            if kind == "qc_est":
                weight = (LAM * level.square() / len(level)).sqrt()
                qc_backward_two_step(
                    lambda at, f=score, level=level: f(at, level),
                    x[seed],
                    weight * v[seed],  # the estimate is quadratic in v
                    list(net.parameters()),
                )
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()

    return step, nets


def batches(n: int, seeds: int, size: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """x, sigma, z and v of n steps."""
    g = torch.Generator().manual_seed(0)
    shape = (seeds, size, 2)
    return [
        (
            3 * torch.randn(shape, generator=g),
            0.1 * 30 ** torch.rand((seeds, size, 1), generator=g),
            torch.randn(shape, generator=g),
            2.0 * torch.randint(2, shape, generator=g) - 1,
        )
        for _ in range(n)
    ]


def main(cfg: Config) -> None:
    """Measure and report."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    rows = []
    for size in cfg.batch:
        data = batches(4, cfg.seeds, size)
        for kind in ("u", "qc", "qc_est"):
            ours, stack = stacked_step(kind, cfg.seeds)
            plain, _ = plain_step(kind, stack, cfg.seeds)
            times: dict[str, list[float]] = {"stacked": [], "plain": []}
            for i in range(cfg.rounds + 2):
                for name, step in (("stacked", ours), ("plain", plain)):
                    begun = time.process_time()
                    step(*data[i % len(data)])
                    if i >= 2:
                        times[name].append(1e3 * (time.process_time() - begun))
            ms = {name: float(np.median(x)) for name, x in times.items()}
            ratio = ms["plain"] / ms["stacked"]
            rows.append({"kind": kind, "batch": size, **ms, "ratio": ratio})
            print(
                f"{kind:7} batch {size:5}, {cfg.seeds} seeds: stacked {ms['stacked']:7.2f} ms, "
                f"plain loop {ms['plain']:7.2f} ms per step of all, {ratio:.2f} x"
            )
    if cfg.json is not None:
        files.write_json(cfg.json, {"rows": rows})


if __name__ == "__main__":
    run_cli(main, Config)
