"""The probe: four agents that see the same constant are paid if all of their actions differ.

One step, no number given (but to FuPS + ID): agents with the same network act alike, so that the
greedy return of full sharing is 0 by construction and what masks add can be read off exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError
from common.marl.targets import linear
from common.run import Run
from common.torch_utils import setup
from papers.kaleidoscope.agents import apply
from papers.kaleidoscope.baselines import PlainLinear, PrunedLinear
from papers.kaleidoscope.method import (
    Coefficient,
    MaskedLinear,
    diversity,
    due,
    hard,
    mask_distances,
    reset,
    soft,
    sparsity,
)
from papers.kaleidoscope.methods import Learner, entry

N = A = 4  # agents, actions
OBS = 4  # width of the constant observation
TASK = "probe"


@dataclass
class ProbeConfig:
    """One training run of the probe."""

    method: str = "kaleidoscope"  # see methods.METHODS
    task: str = TASK
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    episodes: int = 5_000  # of one step each, one update after each
    batch: int = 32  # episodes of an update
    buffer: int = 500  # episodes, the latest
    lr: float = 1e-3  # Adam
    beta_0: float = 0.5  # of the diversity's coefficient
    layer_weights: tuple[float, ...] = (1.0, 2.0, 4.0)  # lambda_l
    resets: int = 15  # reset intervals in a run
    rho: float = 0.1  # share of the unused weights that a reset draws
    pruned: float = 0.2  # SNP: share of the weights that a fixed mask cuts
    epsilon: float = 0.05  # exploration at the end, from 1; reached after half of the episodes
    hidden: int = 64  # width of the two hidden layers
    evaluations: int = 50  # in the course of training, and one before


class Net(nn.Module):
    """Three layers, shared as the method does. The observation is a constant."""

    def __init__(self, method: Learner, cfg: ProbeConfig, generator: torch.Generator) -> None:
        super().__init__()
        numbered = method.sharing == "full" and method.ids
        x = torch.cat([torch.ones(N, OBS), torch.eye(N)], -1) if numbered else torch.ones(N, OBS)
        self.register_buffer("x", x.unsqueeze(1))  # [N, 1, in]
        sizes = [x.shape[1], cfg.hidden, cfg.hidden, A]
        form: Callable[..., Tensor] = hard if method.form == "hard" else soft
        self.layers = nn.ModuleList()
        for i in range(3):
            shape = sizes[i], sizes[i + 1]
            if method.sharing == "masks":
                self.layers.append(MaskedLinear(*shape, N, form=form, generator=generator))
            elif method.sharing == "fixed":
                self.layers.append(PrunedLinear(*shape, N, cfg.pruned, generator=generator))
            else:
                own = method.sharing == "none" or (method.sharing == "heads" and i == 2)
                self.layers.append(PlainLinear([generator] * (N if own else 1), *shape))
        for layer in self.masked:
            if method.start != "drawn":
                layer.thresholds.data[:] = layer.thresholds.data[:1].clone()
            layer.thresholds.requires_grad_(method.start != "frozen")

    @property
    def masked(self) -> list[MaskedLinear]:
        """The layers with learnable masks."""
        return [layer for layer in self.layers if isinstance(layer, MaskedLinear)]

    def forward(self) -> Tensor:
        """Utilities of the constant. [N, A]."""
        weights = [layer.effective() for layer in self.layers]  # type: ignore[operator]
        return apply(weights, self.get_buffer("x"), None)[:, 0]


def reward(actions: np.ndarray) -> float:
    """1 if all actions differ, else 0. [N]."""
    return float(len(set(actions.tolist())) == N)


def train(cfg: ProbeConfig) -> None:
    """Train, or go on from the last checkpoint."""
    method = entry(cfg.method, "probe")
    if cfg.task != TASK:
        raise UserError(f"the task is '{TASK}', not '{cfg.task}'")
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    net = Net(method, cfg, generator).to(device)
    kept = run.keep(
        net=net,
        optimizer=torch.optim.Adam(
            [p for p in net.parameters() if p.requires_grad], cfg.lr, fused=True
        ),
        beta=Coefficient(cfg.beta_0),
        actions=np.zeros((cfg.buffer, N), np.int64),
        rewards=np.zeros(cfg.buffer, np.float32),
        rng=np.random.default_rng(cfg.seed),
        generator=generator,
        last_reset=0,
    )
    rng: np.random.Generator = kept.rng

    def follow(episode: int) -> None:
        found: dict[str, Any] = {"return": reward(net().argmax(-1).cpu().numpy())}
        if net.masked:
            found |= {"mask_distance": mask_distances(net.masked), "sparsity": sparsity(net.masked)}
        run.log(episode, **found)

    for step in run.steps(cfg.episodes):
        if step == 0:
            follow(0)
        # 1. one step of all agents; each explores by itself
        q = net()  # [N, A]
        epsilon = linear(1.0, cfg.epsilon, cfg.episodes / 2, step)
        best = q.detach().argmax(-1).cpu().numpy()
        chosen = np.where(rng.random(N) < epsilon, rng.integers(0, A, N), best)
        kept.actions[step % cfg.buffer] = chosen
        kept.rewards[step % cfg.buffer] = reward(chosen)

        # 2. one gradient step on (sum_i q_i - r)^2
        rows = rng.integers(0, min(step + 1, cfg.buffer), cfg.batch)
        actions = torch.from_numpy(kept.actions[rows]).to(device)  # [B, N]
        r = torch.from_numpy(kept.rewards[rows]).to(device)
        q_tot = q[torch.arange(N, device=device), actions].sum(-1)
        loss = total = (q_tot - r).square().mean()
        if method.diversity:
            J = diversity(net.masked, cfg.layer_weights)
            total = loss + kept.beta(loss, J) * J
        kept.optimizer.zero_grad(set_to_none=True)
        total.backward()
        kept.optimizer.step()

        # 3. weights that nobody uses
        done = step + 1
        interval = cfg.episodes // cfg.resets
        if method.resets and due(done, kept.last_reset, interval, cfg.episodes):
            reset(net.masked, cfg.rho, kept.generator)
            kept.last_reset = done
        if done * cfg.evaluations // cfg.episodes > step * cfg.evaluations // cfg.episodes:
            follow(done)


if __name__ == "__main__":
    run_cli(train, ProbeConfig)
