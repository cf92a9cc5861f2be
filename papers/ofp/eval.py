"""A run directory -> rows: closed-loop success, first-chunk metrics, consistency between chunks.

All numbers are of the moving-average weights. Variants in the number of network calls (NFE) and
of the warm start are evaluated from the same weights, on the same episodes, with the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.ofp.config import Config, resolve
from papers.ofp.interface import Floats, Task
from papers.ofp.method import jump, shift_chunk, warm_start
from papers.ofp.methods import METHODS, T_W, Policy, Sampler
from papers.ofp.networks import make_network
from papers.ofp.point_mass import RADII, PointMass
from papers.ofp.task import make_task

RECORD = 60  # paths per variant kept for the figure (A)


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


class ChunkPolicy:
    """S networks acting in E episodes each; remembers the last chunk for the warm start.

    `gap` is the consistency between chunks: over re-plans of running episodes, the mean Frobenius
    norm between the first H-h actions of the new chunk and the last H-h of the previous one.
    """

    def __init__(
        self, net: nn.Module, task: Task, sampler: Sampler, *, nfe: int, t_w: float, device: str
    ) -> None:
        self.net, self.task, self.sampler = net, task, sampler
        self.nfe, self.t_w, self.device = nfe, t_w, device
        self.generators = [torch.Generator().manual_seed(104_729 * s + 5) for s in task.seeds]
        self.gap_sum, self.gap_count = np.zeros(len(task.seeds)), np.zeros(len(task.seeds))

    def reset(self, n_episodes: int) -> None:
        """Forget the last chunks."""
        self.previous: Tensor | None = None

    @torch.no_grad()
    def __call__(self, obs: Floats, active: NDArray[np.bool_]) -> Floats:
        task = self.task
        S, E = obs.shape[:2]
        H, d, h = task.horizon, task.action_dim, task.execute
        c = self.net.encode(torch.from_numpy(obs).to(self.device))
        z = torch.stack([torch.randn(E, H * d, generator=g) for g in self.generators])
        z = z.to(self.device)
        t_start = 0.0
        if self.t_w > 0 and self.previous is not None:
            z = warm_start(z, shift_chunk(self.previous, h).flatten(2), self.t_w)
            t_start = self.t_w
        flat = self.sampler(self.net, z, c, self.nfe, t_start, self.generators)
        chunk = flat.view(S, E, H, d)
        if self.previous is not None:
            difference = (chunk[:, :, : H - h] - self.previous[:, :, h:]).flatten(2)
            norm = torch.linalg.vector_norm(difference, dim=2).cpu().numpy()
            self.gap_sum += (norm * active).sum(1)
            self.gap_count += active.sum(1)
        self.previous = chunk
        # a network that diverged (an ablation may) fails its episodes, not the evaluation
        return np.nan_to_num(chunk.cpu().numpy(), nan=0.0, posinf=1e3, neginf=-1e3)

    @property
    def gap(self) -> NDArray:
        """Consistency gap per seed; NaN without a re-plan."""
        return self.gap_sum / np.where(self.gap_count > 0, self.gap_count, np.nan)


@torch.no_grad()
def semigroup_residual(net: nn.Module, obs: Tensor, n_z: int, device: str) -> NDArray:
    """|| jump_{t->r}(z) - jump_{m->r}(jump_{t->m}(z)) || / sqrt(D), mean over noise, per seed.

    A frozen map has it small too, so it is reported and not judged.
    """
    g = torch.Generator().manual_seed(17)
    S, B = obs.shape[:2]
    z = torch.randn(1, B, n_z, generator=g).expand(S, B, n_z).to(device)
    t, m, r = (torch.full((S, B, 1), x, device=device) for x in (0.0, 0.5, 1.0))
    c = net.encode(obs.to(device))
    one = jump(net, z, t, r, c)
    two = jump(net, jump(net, z, t, m, c), m, r, c)
    return (one - two).square().mean(2).sqrt().mean(1).cpu().numpy()


def variants(policy: Policy, nfe: tuple[int, ...], dear: bool) -> list[tuple[int, float]]:
    """(NFE, t_w) to evaluate; what has a warm start with and without it.

    Args:
        policy: the method's entry.
        nfe: network calls asked for; empty: all.
        dear: the simulator's steps are dear (B, C): only what a claim or a table needs.
    """
    offered = policy.dear_calls if dear and not nfe else policy.calls
    chosen = [n for n in offered if not nfe or n in nfe]
    cold = [n for n in chosen if n == 1 or not (policy.warm and dear)]
    return [(n, 0.0) for n in cold] + [(n, T_W) for n in chosen if policy.warm]


class Found:
    """Rows and extras of a run as they come."""

    def __init__(self, cfg: Config) -> None:
        self.seeds = cfg.seeds
        self.label = {"method": cfg.method, "task": cfg.task}
        self.grid = {name: getattr(cfg, name) for name in cfg.labels}
        self.rows: list[dict[str, Any]] = []
        self.extras: list[dict[str, Any]] = []

    def row(self, metric: str, seed: int, value: float, **labels: object) -> None:
        """One value; what is not finite is an empty one."""
        number = float(value) if np.isfinite(value) else None
        row = {**self.label, "seed": seed, "metric": metric, "value": number}
        self.rows.append({**row, **labels, **self.grid})

    def add(self, metric: str, values: NDArray, **labels: object) -> None:
        """One value per seed."""
        for seed, value in zip(self.seeds, values, strict=True):
            self.row(metric, seed, value, **labels)

    def draw(self, name: str, data: list[Any], **labels: object) -> None:
        """Something of the first seed for a figure; of a grid's points nothing is drawn."""
        if not self.grid:
            extra = {**self.label, "seed": self.seeds[0], **labels}
            self.extras.append({"name": name, "data": data, **extra})


def rollouts(acting: ChunkPolicy, episode_seeds: list[int], found: Found, drawn: bool) -> None:
    """Closed-loop rows of a policy at one NFE and start."""
    labels = {"nfe": acting.nfe, "t_w": acting.t_w}
    on_a = isinstance(acting.task, PointMass)
    result = acting.task.rollout(acting, episode_seeds, record=RECORD if on_a else 0)
    found.add("gap", acting.gap, **labels)
    if on_a:
        for radius in RADII:
            for metric in ("success", "collision"):
                rate = result[f"{metric}@{radius:.2f}"].mean(1)
                found.add(metric, rate, radius=radius, **labels)
        if drawn:
            paths = np.round(result["paths"][0, :, ::2], 2)
            found.draw("paths", paths.tolist(), **labels)
        return
    found.add("success", result["success"].mean(1), **labels)
    for sub in dict.fromkeys(result.get("task", np.array([])).tolist()):
        chosen = result["task"] == sub
        found.add("task_success", result["success"][:, chosen].mean(1), subtask=sub, **labels)


def first_chunks(acting: ChunkPolicy, task: PointMass, found: Found, drawn: bool) -> None:
    """Rows of 500 chunks at the ambiguous start, which know no warm start."""
    labels = {"nfe": acting.nfe, "t_w": acting.t_w}
    start = task.start_chunks(acting, seed=0)
    for metric in ("on_mode", "side_entropy", "lateral_std", "w1"):
        found.add(metric, np.array([s[metric] for s in start]), **labels)
    if drawn:
        y = np.concatenate([s["y"] for s in start])
        counts, _ = np.histogram(y, bins=60, range=(-0.45, 0.45))
        found.draw("lateral", counts.tolist(), **labels)


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    final = run.final()
    if "latency" in final:  # a run of bench.py
        run.write_eval(final["latency"])
        return
    train_cfg = resolve(run.config(Config))
    policy = METHODS[train_cfg.method]
    setup(cfg.device, 0)
    seeds = train_cfg.seeds
    task = make_task(train_cfg.task, seeds)
    net = make_network(task, seeds, **train_cfg.network)
    net.load_state_dict(final["teacher"])
    net = net.to(cfg.device).eval().requires_grad_(False)

    found = Found(train_cfg)
    on_a = isinstance(task, PointMass)
    n_episodes = train_cfg.episodes or (200 if on_a else 20)
    episode_seeds = [50_000 + i for i in range(n_episodes)]
    for nfe, t_w in variants(policy, train_cfg.nfe, dear=not on_a):

        def acting(nfe: int = nfe, t_w: float = t_w) -> ChunkPolicy:
            return ChunkPolicy(net, task, policy.sampler, nfe=nfe, t_w=t_w, device=cfg.device)

        drawn = nfe in policy.drawn and t_w == 0.0
        rollouts(acting(), episode_seeds, found, drawn)
        if isinstance(task, PointMass) and t_w == 0.0:
            first_chunks(acting(), task, found, drawn)
    for seed, rates in getattr(task, "expert_success", {}).items():
        for sub, by_gain in rates.items():
            found.row("expert_success", seed, np.mean(list(by_gain.values())), subtask=sub)
    if policy.velocity:
        obs = np.stack([task.windows(s)[0][:256] for s in seeds])
        n_z = task.horizon * task.action_dim
        residual = semigroup_residual(net, torch.from_numpy(obs), n_z, cfg.device)
        found.add("semigroup", residual)
    run.write_eval(found.rows, found.extras)
    task.close()


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
