"""A run directory -> rows: closed-loop success, first-chunk metrics, consistency between chunks.

All numbers are of the moving-average weights. Variants in the number of network calls (NFE) and
of the warm start are evaluated from the same weights, on the same episodes, with the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
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
from papers.ofp import baselines
from papers.ofp.method import jump, sample, shift_chunk, warm_start
from papers.ofp.networks import make_network
from papers.ofp.point_mass import RADII, PointMass
from papers.ofp.task import Floats, Task, make_task
from papers.ofp.train import Config, network_options, resolve

T_W = 0.15  # warm start's time, the paper's best
NFE: dict[str, tuple[int, ...]] = {  # network calls per chunk
    "ofp": (1, 2, 4),
    "fm": (1, 2, 4, 10, 100),
    "bc": (1,),
    "ddpm": (10, 100),
    "meanflow": (1, 2, 4),
    "shortcut": (1, 2, 4),
    "distil": (1,),
}


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


RECORD = 60  # paths per variant kept for the figure (A)
DRAWN: dict[str, tuple[int, ...]] = {  # the variants whose paths and first chunks are drawn
    **{"ofp": (1, 4), "fm": (1, 100), "ddpm": (100,), "bc": (1,)},
    **{"meanflow": (1,), "shortcut": (1,)},
    **{"ofp-no-sc": (1,), "ofp-no-sg": (1,), "ofp-rho1": (1,)},
}


Sampler = Callable[[nn.Module, Tensor, Tensor, int, float, list[torch.Generator]], Tensor]


def sampler_of(method: str) -> Sampler:
    """(net, z, c, nfe, t_start, generators) -> chunk, for a training method."""
    if method == "bc":
        return lambda net, z, c, nfe, t, g: baselines.bc_sample(net, z, c, nfe)
    if method == "fm":
        return lambda net, z, c, nfe, t, g: baselines.euler_sample(net, z, c, nfe, t)
    if method == "ddpm":
        return lambda net, z, c, nfe, t, g: baselines.diffusion_sample(net, z, c, nfe, g)
    return lambda net, z, c, nfe, t, g: sample(net, z, c, nfe, t)


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


def variants(method: str, nfe: tuple[int, ...], simulated: bool) -> list[tuple[int, float]]:
    """(NFE, t_w) to evaluate; OFP's warm start with and without.

    Args:
        method: what was trained.
        nfe: network calls asked for; empty: all.
        simulated: steps are dear (B, C): only what a claim or a table of the paper needs.
    """
    chosen = [n for n in NFE[method] if not nfe or n in nfe]
    if method == "ofp":
        cold = [n for n in chosen if n == 1 or not simulated]
        return [(n, 0.0) for n in cold] + [(n, T_W) for n in chosen]
    if simulated and not nfe:
        chosen = {"fm": [1, 10, 100], "ddpm": [10, 100]}.get(method, [1])
    return [(n, 0.0) for n in chosen]


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    final = run.final()
    if "latency" in final:  # a run of bench.py
        run.write_eval(final["latency"])
        return
    name_cfg = run.config(Config)
    train_cfg = resolve(name_cfg)
    setup(cfg.device, 0)
    seeds = tuple(s + train_cfg.seed_offset for s in train_cfg.seed)
    task = make_task(train_cfg.task, seeds)
    net = make_network(task, seeds, **network_options(train_cfg))
    net.load_state_dict(final["teacher"])
    net = net.to(cfg.device).eval().requires_grad_(False)

    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []

    def add(metric: str, values: NDArray, **labels: object) -> None:
        for seed, value in zip(seeds, values, strict=True):
            label = {"method": name_cfg.method, "task": train_cfg.task, "seed": seed}
            value = float(value) if np.isfinite(value) else None
            rows.append({**label, "metric": metric, "value": value, **labels})

    on_a = isinstance(task, PointMass)
    n_episodes = train_cfg.episodes or (200 if on_a else 20)
    episode_seeds = [50_000 + i for i in range(n_episodes)]
    for nfe, t_w in variants(train_cfg.method, train_cfg.nfe, simulated=not on_a):
        labels = {"nfe": nfe, "t_w": t_w}
        drawn = nfe in DRAWN.get(name_cfg.method, ())

        def policy(nfe: int = nfe, t_w: float = t_w) -> ChunkPolicy:
            sampler = sampler_of(train_cfg.method)
            return ChunkPolicy(net, task, sampler, nfe=nfe, t_w=t_w, device=cfg.device)

        acting = policy()
        result = task.rollout(acting, episode_seeds, record=RECORD if on_a else 0)
        add("gap", acting.gap, **labels)
        if on_a:
            for radius in RADII:
                for metric in ("success", "collision"):
                    rate = result[f"{metric}@{radius:.2f}"].mean(1)
                    add(metric, rate, radius=radius, **labels)
            extra = {"method": name_cfg.method, "task": train_cfg.task, "seed": seeds[0], **labels}
            if drawn and t_w == 0.0:
                paths = np.round(result["paths"][0, :, ::2], 2)
                extras.append({"name": "paths", "data": paths.tolist(), **extra})
        elif "task" in result:
            add("success", result["success"].mean(1), **labels)
            for sub in dict.fromkeys(result["task"].tolist()):
                chosen = result["task"] == sub
                add("task_success", result["success"][:, chosen].mean(1), subtask=sub, **labels)
        else:
            add("success", result["success"].mean(1), **labels)
        if on_a and t_w == 0.0:  # first chunks know no warm start
            start = task.start_chunks(policy(), seed=0)
            for metric in ("on_mode", "side_entropy", "lateral_std", "w1"):
                add(metric, np.array([s[metric] for s in start]), **labels)
            y = np.concatenate([s["y"] for s in start])
            counts, _ = np.histogram(y, bins=60, range=(-0.45, 0.45))
            if drawn:
                extras.append({**extra, "name": "lateral", "data": counts.tolist()})
    for seed, rates in getattr(task, "expert_success", {}).items():
        for sub, by_gain in rates.items():
            row = {"method": name_cfg.method, "task": train_cfg.task, "seed": seed, "subtask": sub}
            value = float(np.mean(list(by_gain.values())))
            rows.append({**row, "metric": "expert_success", "value": value})
    if train_cfg.method not in ("bc", "ddpm", "distil"):
        obs = np.stack([task.windows(s)[0][:256] for s in seeds])
        n_z = task.horizon * task.action_dim
        add("semigroup", semigroup_residual(net, torch.from_numpy(obs), n_z, cfg.device))
    run.write_eval(rows, extras)
    task.close()


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
