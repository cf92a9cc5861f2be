"""One run: one method on one experiment, all training seeds at once.

The parameters of the seeds are stacked, so a step is a handful of batched products; each seed has
its own demonstrations, initial weights and random numbers and is what it would be alone.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import choose
from common.run import Run
from common.stacked import rand, randn
from common.torch_utils import setup
from papers.ofp import baselines
from papers.ofp.method import OFPConfig, ofp_loss, update_teacher
from papers.ofp.networks import make_network
from papers.ofp.task import TASKS, Task, make_task

METHODS = ("ofp", "fm", "bc", "ddpm", "meanflow", "shortcut")

Changes = dict[str, object]

# Ablations: a method with the named fields changed; "ofp." reaches into OFPConfig, "x" multiplies.
ABLATIONS: dict[str, tuple[str, Changes]] = {
    "fm-half": ("fm", {"x steps": 0.5}),  # FM is usually trained for fewer steps than flow maps
    "ofp-no-sc": ("ofp", {"ofp.lambda_sc": 0.0}),
    "ofp-no-sg": ("ofp", {"ofp.lambda_sg": 0.0}),
    "ofp-rho1": ("ofp", {"ofp.rho_fixed": 1.0}),
}

# The study: what decides the one-step quality, one change at a time (text, method, changes).
STUDY: dict[str, tuple[str, str, Changes]] = {
    "ofp": ("default", "ofp", {}),
    "study-first": (
        "first reading: all of the next five",
        "ofp",
        {"ema": 0.99, "lr_hold": 0.0, "ofp.rho_ends": 1.0, "frequencies": 6, "ofp.share_end": 0.0},
    ),
    "study-ema-99": ("teacher's decay .99", "ofp", {"ema": 0.99}),
    "study-cosine": ("cosine from the first step", "ofp", {"lr_hold": 0.0}),
    "study-rho-all": ("contraction over the whole run", "ofp", {"ofp.rho_ends": 1.0}),
    "study-freq-6": ("time features up to 2^5 pi", "ofp", {"frequencies": 6}),
    "study-no-end": ("no intervals ending at r = 1", "ofp", {"ofp.share_end": 0.0}),
    "study-exact-0": ("no exact (0, 1) pairs", "ofp", {"ofp.share_exact": 0.0}),
    "study-uniform": ("(t, r) two sorted uniforms", "ofp", {"ofp.intervals": "uniform"}),
    "study-floor-20": ("rho ends at .2", "ofp", {"ofp.rho_floor": 0.2}),
    "study-end-time": ("network sees r instead of r - t", "ofp", {"second_time": "end"}),
    "study-sc-50": ("self-consistency on 1/2 of the batch", "ofp", {"ofp.share_sc": 0.5}),
    "study-sg-0": ("no self-guidance", "ofp", {"ofp.lambda_sg": 0.0}),
    "study-sg-4x": ("self-guidance x 4", "ofp", {"ofp.lambda_sg": 0.02}),
    "study-half": ("half the steps", "ofp", {"x steps": 0.5}),
    "study-2x": ("twice the steps", "ofp", {"x steps": 2.0}),
    "study-distil": ("regression on the trained flow's endpoints", "distil", {}),
    "fm": ("flow matching, Euler steps", "fm", {}),
    "meanflow": ("MeanFlow", "meanflow", {}),
}
VARIANTS = {
    **ABLATIONS,
    **{name: (m, changes) for name, (_, m, changes) in STUDY.items() if name not in METHODS},
}


@dataclass
class Config:
    """One training run."""

    method: str = "ofp"  # ofp, fm, bc, ddpm, meanflow, shortcut, or a variant (see VARIANTS)
    task: str = "point-mass"  # experiment: point-mass (A), metaworld (B), pointcloud (C), dp3-*
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    seed_offset: int = 0  # added to each seed; the study uses 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 10_000  # gradient steps, equal for all methods
    batch: int = 128  # windows per step and seed (DP3 family)
    lr: float = 1e-3  # AdamW's learning rate (DP3 family: 1e-4 for its U-Net)
    lr_hold: float = 0.75  # share of the steps at full rate before the cosine to 0 (study)
    weight_decay: float = 1e-6  # AdamW (DP3 family)
    clip: float = 1.0  # largest gradient norm, per seed
    ema: float = 0.7  # decay of the teacher, which is also what is evaluated (study)
    second_time: str = "gap"  # second time input of the network: gap (r - t) or end (r)
    frequencies: int = 3  # sine and cosine of 2^k pi t, k < frequencies, for both times
    episodes: int = 0  # evaluation: episodes per network (and sub-task); 0: 200 on A, else 20
    nfe: tuple[int, ...] = ()  # evaluation: network calls per chunk; empty: all of eval.NFE
    ofp: OFPConfig = field(default_factory=OFPConfig)  # the method's own hyperparameters


def resolve(cfg: Config) -> Config:
    """The configuration with the variant's changes applied and its method named.

    Raises:
        UserError: for an unknown method or task.
    """
    choose("method", cfg.method, (*METHODS, *VARIANTS))
    choose("task", cfg.task, TASKS)
    if cfg.method not in VARIANTS:
        return cfg
    method, changes = VARIANTS[cfg.method]
    own = {k.removeprefix("ofp."): v for k, v in changes.items() if k.startswith("ofp.")}
    rest: dict[str, Any] = {k: v for k, v in changes.items() if k[:4] != "ofp." and k[:2] != "x "}
    steps = round(cfg.steps * float(changes.get("x steps", 1.0)))  # type: ignore[arg-type]
    ofp = replace(cfg.ofp, **own)  # type: ignore[arg-type]
    return replace(cfg, method=method, steps=steps, ofp=ofp, **rest)


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


def network_options(cfg: Config) -> dict[str, Any]:
    """What the configuration says of the network."""
    return {"second_time": cfg.second_time, "frequencies": cfg.frequencies}


@torch.no_grad()
def flow_endpoints(
    cfg: Config, task: Task, obs: Tensor, counts: Tensor, n: int = 100_000, nfe: int = 20
) -> tuple[Tensor, Tensor, Tensor]:
    """Data of the study's distillation: trains flow matching first, then integrates it.

    It bounds what the network can do in one call after as many steps, with a perfect teacher.

    Returns:
        obs [S, n, obs_dim], [noise, endpoint] [S, n, 2 D], counts [S, 1].
    """
    flow = replace(cfg, method="fm", out=cfg.out / "flow")
    with torch.enable_grad():
        train(flow)
    seeds = tuple(s + cfg.seed_offset for s in cfg.seed)
    net = make_network(task, seeds, **network_options(cfg)).to(obs.device)
    net.load_state_dict(Run.load(flow.out).final()["teacher"])
    noise = SeededNoise(tuple(s + 1_000 for s in seeds), obs.device)
    each_seed = torch.arange(len(seeds), device=obs.device)[:, None]
    chosen, pairs = [], []
    for _ in range(n // 5_000):
        o = obs[each_seed, (noise.uniform(5_000) * counts).long()]
        z = noise.normal(5_000, task.horizon * task.action_dim)
        end = baselines.euler_sample(net, z, net.encode(o), nfe)
        chosen.append(o)
        pairs.append(torch.cat((z, end), dim=-1))
    return torch.cat(chosen, dim=1), torch.cat(pairs, dim=1), torch.full_like(counts, n)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    run_config, cfg = cfg, resolve(cfg)
    run = Run.open(cfg.out, run_config)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    seeds = tuple(s + cfg.seed_offset for s in cfg.seed)
    task = make_task(cfg.task, seeds)
    obs, actions, counts = stack_windows([task.windows(s) for s in seeds], device)
    if cfg.method == "distil":
        obs, actions, counts = flow_endpoints(cfg, task, obs, counts)
    each_seed = torch.arange(len(seeds), device=device)[:, None]

    net = make_network(task, seeds, **network_options(cfg)).to(device)
    teacher = copy.deepcopy(net).requires_grad_(False)
    parameters = list(net.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=cfg.lr, weight_decay=cfg.weight_decay, fused=True
    )  # elementwise: stacked seeds do not touch each other
    noise = SeededNoise(seeds, device)

    loss_of = {
        "ofp": partial(ofp_loss, cfg=cfg.ofp),
        "fm": baselines.flow_loss,
        "bc": baselines.bc_loss,
        "ddpm": baselines.ddpm_loss,
        "meanflow": baselines.meanflow_loss,
        "shortcut": baselines.shortcut_loss,
        "distil": baselines.distil_loss,
    }[cfg.method]

    step = 0
    if state := run.restore():
        step = state["step"]
        net.load_state_dict(state["net"])
        teacher.load_state_dict(state["teacher"])
        optimiser.load_state_dict(state["optimiser"])
        for g, s in zip(noise.generators, state["generators"], strict=True):
            g.set_state(s)

    def tree() -> dict[str, object]:
        return {
            "step": step,
            "net": net.state_dict(),
            "teacher": teacher.state_dict(),
            "optimiser": optimiser.state_dict(),
            "generators": [g.get_state() for g in noise.generators],
        }

    while step < cfg.steps:
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
        step += 1
        if step % 100 == 0 or step == cfg.steps:
            run.log(step, loss=loss, gradient_norm=norm, **parts)
        if run.due(step):
            run.save(step, tree())
    run.finish({"step": step, "teacher": teacher.state_dict()})
    task.close()


if __name__ == "__main__":
    run_cli(train, Config)
