"""The plasticity probe (not of the paper): digits whose labels are permuted again and again.

A classifier learns scikit-learn's digits; every so often all labels are permuted and it has to
learn them anew, with the networks, the optimiser and the topology as they are. Supervised, so that
what a topology does to a network's neurons is seen without the noise of reinforcement learning.
There is no replay, hence no review: a method's ``review`` has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import digits
from common.cli import run_cli
from common.errors import choose
from common.run import Run
from common.stacked import MLP, StackedLinear, adam, rand, randint, seed_generators
from common.torch_utils import setup
from papers.ne.agent import narrow_width
from papers.ne.baselines import redo, reset
from papers.ne.config import expansion
from papers.ne.learning import changed, is_dormant
from papers.ne.method import (
    Change,
    NEConfig,
    Topology,
    fau,
    hidden_activations,
    inactive,
    share_of,
)
from papers.ne.methods import METHODS

TASK = "probe"
CLASSES = 10
EARLY = 0.25  # share of a task after which accuracy is measured for the first time


@dataclass
class ProbeConfig:
    """One run of the probe, all seeds at once."""

    method: str = "ne"  # see methods.METHODS
    task: str = TASK  # the only one
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    labels: tuple[str, ...] = ()  # of SWEPT, those whose values the rows carry (a grid's)
    device: str = "cpu"  # cpu or cuda
    tasks: int = 20  # permutations of the labels
    steps: int = 200  # gradient steps of each
    batch: int = 128  # images of a step
    hidden: int = 256  # units of the two hidden layers
    lr: float = 3e-3  # Adam's learning rate
    interval: int = 50  # gradient steps between changes of the topology
    redo_every: int = 100  # gradient steps between ReDo's recyclings
    start_sparsity: float = NEConfig.start_sparsity  # S_0 of what is sparse
    end_sparsity: float = NEConfig.end_sparsity  # S_1 of what grows
    omega: float = NEConfig.omega  # most connections pruned, of those grown


def images(device: torch.device) -> tuple[Tensor, Tensor]:
    """All 1,797 digits in [0, 1] and their classes. [N, 64], [N]."""
    parts = digits.splits().values()
    x = np.concatenate([part.x for part in parts]) / (digits.LEVELS - 1)
    y = np.concatenate([part.y for part in parts])
    return torch.from_numpy(x).float().to(device), torch.from_numpy(y).to(device)


def classifier(cfg: ProbeConfig, device: torch.device) -> MLP:
    """The stacked networks as training begins."""
    width = cfg.hidden
    if METHODS[cfg.method].narrow:
        width = narrow_width([digits.DIM], [CLASSES], width, 1 - cfg.start_sparsity)
    sizes = (digits.DIM, width, width, CLASSES)
    return MLP(seed_generators(cfg.seed, 1), sizes, F.relu).to(device)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the batch. [S, B, classes], [S, B] -> [S]."""
    picked = logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return -picked.mean(1)


def train(cfg: ProbeConfig) -> None:
    """Train, or go on from the last checkpoint."""
    choose("task", cfg.task, (TASK,))
    method = METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device, S = setup(cfg.device, 0), len(cfg.seed)
    drawing, moving, permuting = (seed_generators(cfg.seed, k, device) for k in range(3, 6))
    renewing = seed_generators(cfg.seed, 6)  # on the CPU, as initialisation
    net = classifier(cfg, device)
    layers: list[StackedLinear] = list(net.layers)  # type: ignore[arg-type]
    total = cfg.tasks * cfg.steps
    topology = Topology(layers, expansion(method.changes, cfg, cfg.interval), total, moving)
    optimizer = adam([{"params": list(net.parameters())}], lr=cfg.lr)
    x, y = images(device)
    kept = run.keep(
        **{"net": net, "optimizer": optimizer, "topology": topology, "drawing": drawing},
        **{"moving": moving, "permuting": permuting, "renewing": renewing},
        names=torch.zeros(S, CLASSES, dtype=torch.int64, device=device),  # of the classes
    )

    for step in run.steps(total):
        # 1. new names for the classes at the start of every task
        if step % cfg.steps == 0:
            kept.names = rand(permuting, CLASSES).argsort(1)
        rows = randint(drawing, len(x), cfg.batch)  # [S, B]
        named = kept.names.gather(1, y[rows])

        # 2. a step on the weights, or a change of the topology in its place
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(net(x[rows]), named).sum().backward()
        change: Change | None = None
        t = step + 1
        if topology.due(t):
            with torch.no_grad():
                change = topology.step(t, hidden_activations(layers, x[rows]), optimizer)
        else:
            topology.mask_gradients()
            optimizer.step()
        if method.remedy == "redo" and t % cfg.redo_every == 0:
            with torch.no_grad():
                redo(layers, hidden_activations(layers, x[rows]), optimizer, renewing)
        if method.remedy == "reset" and t == total // 2:
            reset(layers, layers, optimizer, renewing)

        # 3. accuracy early in a task and at its end, and the neurons at its end
        seen = changed({"net": change}, S)
        within = t - step // cfg.steps * cfg.steps
        if within == max(1, int(EARLY * cfg.steps)):
            seen["early_accuracy"] = accuracy(net, x, y, kept.names)
        if within == cfg.steps:
            seen |= {"accuracy": accuracy(net, x, y, kept.names), "density": topology.density}
            seen |= neurons(layers, x)
        if seen:
            run.log(t, **seen)


@torch.no_grad()
def accuracy(net: MLP, x: Tensor, y: Tensor, names: Tensor) -> Tensor:
    """Share of all images that are named rightly. [S]."""
    found = net(x).argmax(-1)  # [S, N]
    return (found == names[:, y]).float().mean(1)


@torch.no_grad()
def neurons(layers: list[StackedLinear], x: Tensor) -> dict[str, Tensor]:
    """Inactive and dormant shares and FAU on all images. [S] each."""
    hidden = hidden_activations(layers, x.expand(len(layers[0].weight), *x.shape))
    return {
        "inactive": share_of(inactive, hidden),
        "dormant": share_of(is_dormant, hidden),
        "fau": fau(hidden),
    }


if __name__ == "__main__":
    run_cli(train, ProbeConfig)
