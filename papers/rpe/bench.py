"""Milliseconds per training step against the number of states, RPE and its baselines.

    python -m papers.rpe.bench [--json FILE]

Prepend/append strings over four letters, L = 4 to 8 (341 to 87 381 states), random rewards, five
stacked seeds, 32 trajectories per step. CPU time on one core, repeats of all sides interleaved,
medians. Beside them one sweep of exact policy evaluation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from common.cli import run_cli
from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.rows import sample_rows
from common.gfn.sampling import uniforms
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.stats import loglog_slope
from common.torch_utils import setup
from papers.rpe import method
from papers.rpe.learners import dqn_loss, gflownet_loss
from papers.rpe.method import evaluate_rows, rpe_loss
from papers.rpe.methods import METHODS
from papers.rpe.task import string_dag

HIDDEN = 256
PEER = "tb"  # ratios are to this one


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    lengths: tuple[int, ...] = (4, 5, 6, 7, 8)  # letters
    learners: tuple[str, ...] = ("rpe", "tb", "fm", "soft-dqn")  # who
    seeds: int = 5  # stacked
    batch: int = 32  # trajectories per step and seed
    repeats: int = 7  # interleaved
    steps: int = 4  # training steps per repeat


def training_step(name: str, dag: EnumeratedDAG, n_seeds: int, batch: int) -> Callable[[], None]:
    """One step as train.py does it: rollout, loss, Adam."""
    learner = METHODS[name]
    n_outputs = learner.n_outputs(dag.n_actions, dag.n_backward)
    sizes = (dag.input_dim, HIDDEN, HIDDEN, n_outputs)
    net = StackedMLP(seed_generators(range(n_seeds), 0), sizes)
    log_Z = nn.Parameter(torch.zeros(n_seeds))
    optimizer, parameters = adam_with_log_Z(
        net, log_Z if learner.own_log_Z else None, lr=1e-3, lr_log_Z=0.1
    )
    allowed = method.nth_allowed(dag)
    generators = seed_generators(range(n_seeds), 1)
    log_c = torch.full((n_seeds,), dag.log_Z, dtype=torch.float64)

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return evaluate_rows(net, dag, rows)[..., : dag.n_actions]

    def step() -> None:
        u = uniforms(generators, (dag.max_length, batch))
        if learner.kind == "rpe":
            traj = method.uniform_rollout(dag, allowed, u)
        else:
            traj = sample_rows(dag, logits, u)
        if learner.kind == "rpe":
            loss = rpe_loss(net, dag, traj, log_c, rectified=learner.rectified)
        elif learner.kind == "dqn":
            loss = dqn_loss(net, net, dag, traj, learner, 5.0)
        else:
            loss = gflownet_loss(net, dag, traj, learner, log_Z, 0.9)
        optimizer.zero_grad()
        loss.sum().backward()
        clip_grad_norm_per_seed(parameters, 10.0)
        optimizer.step()

    return step


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per step, ratios and growth exponents."""
    setup("cpu", 0)
    sides: dict[tuple[str, int], Callable[[], object]] = {}
    states = {}
    for length in cfg.lengths:
        rng = torch.Generator().manual_seed(length)
        rewards = torch.randn(4**length, generator=rng, dtype=torch.float64)
        dag = string_dag("dag", 4, length, rewards)
        states[length] = dag.n_states
        for name in cfg.learners:
            sides[name, length] = training_step(name, dag, cfg.seeds, cfg.batch)
        sides["one exact sweep", length] = lambda dag=dag: method.tabular_rpe(dag)  # type: ignore[misc]
    for step in sides.values():
        step()
    spent: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    for _ in range(cfg.repeats):
        for side, step in sides.items():
            n = 1 if side[0] == "one exact sweep" else cfg.steps
            start = time.process_time()
            for _ in range(n):
                step()
            spent[side].append((time.process_time() - start) / n * 1e3)
    result = {}
    n_states = np.array([states[length] for length in cfg.lengths], dtype=float)
    for name in (*cfg.learners, "one exact sweep"):
        ms = [median(spent[name, length]) for length in cfg.lengths]
        slope = loglog_slope(n_states, np.array([ms]), t_min=n_states.min()).value
        ratio = [m / median(spent[PEER, n]) for m, n in zip(ms, cfg.lengths, strict=True)]
        result[name] = {"states": n_states.tolist(), "ms": ms, "exponent": slope, "ratio": ratio}
        print(
            f"{name}: "
            + ", ".join(f"{n:.0f} states {m:.1f} ms" for n, m in zip(n_states, ms, strict=True))
            + f"; exponent {slope:.2f}; ratio to {PEER} at the largest {ratio[-1]:.2f}",
            flush=True,
        )
    if cfg.json:
        cfg.json.parent.mkdir(parents=True, exist_ok=True)
        cfg.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
