"""How well a value network fits the returns of a fixed policy, by its density and its targets.

    python -m papers.mast.probe --task fit-3m --seed 0 --out DIR

A fixed policy (any attack that is available, else any action) plays the battles of SMAX; a network
V(s) of two hidden layers learns its value from half of the episodes, by temporal differences with
a target network, or from the returns themselves. The other half says how far it is off.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import choose
from common.marl.episodes import Act, Batch, batch_of, play
from common.marl.mixers import hypernetwork
from common.marl.protocol import Ints, Seen
from common.marl.targets import discounted_returns, masked_mean, one_step, td_lambda
from common.run import Run
from common.torch_utils import setup
from papers.mast.method import Topology
from papers.mast.methods import METHODS
from papers.mast.task import make

TASKS = {"fit-3m": "smax-3m", "fit-two_step": "matrix-two_step"}
TARGETS = ("one-step", "lambda", "returns")
ATTACKS = 5  # the first action that is an attack


@dataclass
class ProbeConfig:
    """Fit V to a fixed policy."""

    method: str = "ss"  # whose size: dense or sparse
    task: str = "fit-3m"  # see TASKS
    seed: int = 0  # of episodes and weights
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    densities: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05)  # of a sparse network
    envs: int = 64  # environments that are stepped together
    episodes: int = 512  # to learn from, and as many to judge by
    updates: int = 1_000  # of one network
    batch: int = 32  # episodes of an update
    lr: float = 1e-3  # Adam's learning rate
    gamma: float = 0.99  # discount
    lam: float = 0.6  # of TD(lambda)
    copy_every: int = 50  # updates between copies into the target network
    width: int = 64  # of the hidden layers


def attacking(generator: np.random.Generator) -> Act:
    """A policy: a random attack where there is one, else a random action."""

    def act(seen: Seen, t: int) -> Ints:
        avail = seen.avail.copy()
        attacks = avail[..., ATTACKS:].any(-1)
        avail[attacks, :ATTACKS] = False
        scores = np.where(avail, generator.random(avail.shape, dtype=np.float32), -1.0)
        return scores.argmax(-1).astype(np.int64)

    return act


def value(net: nn.Module, states: Tensor) -> Tensor:
    """V(s). [..., S] -> [...]."""
    out: Tensor = net(states).squeeze(-1)
    return out


def fitted(
    cfg: ProbeConfig, batches: list[Batch], density: float, target: str, device: torch.device
) -> nn.Module:
    """A value network after ``cfg.updates`` updates."""
    generator = torch.Generator().manual_seed(cfg.seed)
    n_in = batches[0].state.shape[-1]
    net = hypernetwork(n_in, 1, cfg.width, generator, layers=3).to(device)
    topology = Topology([net], 1 - density, "none", generator)
    old = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), cfg.lr)
    rng = np.random.default_rng(cfg.seed)
    for number in range(cfg.updates):
        if number % cfg.copy_every == 0:
            old.load_state_dict(net.state_dict())
        batch = batches[rng.integers(len(batches))]
        with torch.no_grad():
            following = value(old, batch.state[:, 1:])
            given = (batch.reward, batch.terminated)
            if target == "returns":
                y = discounted_returns(batch.reward, cfg.gamma)
            elif target == "lambda":
                y = td_lambda(*given, batch.filled, following, cfg.gamma, cfg.lam)
            else:
                y = one_step(*given, following, cfg.gamma)
        loss = masked_mean((value(net, batch.state[:, :-1]) - y).square(), batch.filled)
        optimizer.zero_grad()
        loss.backward()
        topology.mask_gradients()
        optimizer.step()
    return net


@torch.no_grad()
def judged(net: nn.Module, held_out: Batch, gamma: float) -> dict[str, float]:
    """Bias and root mean square of V - return on other episodes, in reward units."""
    error = value(net, held_out.state[:, :-1]) - discounted_returns(held_out.reward, gamma)
    return {
        "fit_bias": float(masked_mean(error, held_out.filled)),
        "fit_error": float(masked_mean(error.square(), held_out.filled).sqrt()),
    }


def train(cfg: ProbeConfig) -> None:
    """Fit every density by every target; what came out is the last checkpoint."""
    choose("task", cfg.task, TASKS)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    env = make(TASKS[cfg.task], cfg.envs)
    rng = np.random.default_rng(cfg.seed)
    played = play(env, lambda: attacking(rng), 2 * cfg.episodes, 31_000_003 + cfg.seed)
    first = [played[i : i + cfg.batch] for i in range(0, cfg.episodes, cfg.batch)]
    batches = [batch_of(part, device) for part in first]
    held_out = batch_of(played[cfg.episodes :], device)
    found = []
    densities = cfg.densities if METHODS[cfg.method].size == "sparse" else (1.0,)
    for density in densities:
        for target in TARGETS:
            net = fitted(cfg, batches, density, target, device)
            found.append({"density": density, "target": target, **judged(net, held_out, cfg.gamma)})
    run.finish({"found": found, "step": cfg.updates})


if __name__ == "__main__":
    run_cli(train, ProbeConfig)
