"""Milliseconds of a training update of RBS and its baselines against the number of grid cells.

    python -m papers.rbs.bench [--json FILE]

Sides H = 6, 9, 14, 21 (36 to 441 cells and as many goals), one seed, the default's batches; the
repeats of all methods are interleaved and medians compared, CPU time on one core. The growth
exponent is that of the time in the number of cells: trajectories grow with its square root.
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

from common.cli import run_cli
from common.gfn.sampling import sample, uniforms
from common.stacked import adam, seed_generators
from common.torch_utils import setup
from papers.rbs import task as tasks
from papers.rbs.baselines import q_loss, relabel
from papers.rbs.method import AgeReplay, goal_loss, retrospective_backward_synthesis
from papers.rbs.methods import METHODS
from papers.rbs.networks import backward_policy, distinct, outputs
from papers.rbs.train import network

SHOWN = METHODS.having("method", "variant", "baseline")


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    heights: tuple[int, ...] = (6, 9, 14, 21)  # sides of the grid
    repeats: int = 5  # interleaved repeats
    steps: int = 8  # updates per repeat
    rollouts: int = 16  # trajectories per update
    replay: int = 64  # pairs per update


def update(name: str, height: int, cfg: BenchConfig) -> Callable[[], None]:
    """One training update of a method, evaluation and logging left out."""
    method = METHODS[name]
    tasks.SPECS["bench"] = tasks.grid(height)
    task = tasks.Task("bench", (0,))
    env, n_values = task.env, task.n_values
    net = network(task, (0,))
    with torch.no_grad():  # stops as rarely as a trained policy, so that lengths are typical
        net.forward_head.weights()[-1][1][..., task.conditioned(task.eval_goals).stop] -= 6.0
    policy = backward_policy(net, method.backward)
    optimizer = adam([{"params": list(net.parameters())}])
    rng = seed_generators((0,), 1)
    n_streams = 1 if method.companion is None else 2
    replay = AgeReplay(1, 4096, task.conditioned(task.eval_goals), n_streams=n_streams)

    def step() -> None:
        goals = task.conditioned(task.draw(rng, cfg.rollouts))
        u = uniforms(rng, (2, env.max_length, cfg.rollouts))
        streams = [sample(goals, net.forward_logits, u[:, 0], epsilon=0.01)]
        if method.companion == "rbs":
            streams.append(retrospective_backward_synthesis(goals, u[:, 1], policy))
        elif method.companion == "her":
            streams.append(relabel(streams[0], goals))
        replay.add(*streams)
        items = replay.draw(uniforms(rng, (cfg.replay * 2 // n_streams,)))
        batch = replay.get(items)
        if method.objective == "q":
            states, at = distinct(batch.states, n_values)
            q = net.forward_logits(states)
            loss = q_loss(goals, states, at, q, net.forward_logits(states).detach(), batch)
        else:
            out = outputs(net, batch, n_values)
            loss, _ = goal_loss(goals, out, batch, objective=method.objective, weight=0.1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        replay.mark_used(items)

    return step


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per update, ratios to GC-DB and growth exponents."""
    setup("cpu", 0)
    milliseconds: dict[str, list[float]] = {name: [] for name in SHOWN}
    for height in cfg.heights:
        steps = {name: update(name, height, cfg) for name in SHOWN}
        for step in steps.values():  # warm up
            for _ in range(3):
                step()
        spent: dict[str, list[float]] = {name: [] for name in SHOWN}
        for _ in range(cfg.repeats):
            for name, step in steps.items():
                start = time.process_time()
                for _ in range(cfg.steps):
                    step()
                spent[name].append((time.process_time() - start) / cfg.steps * 1e3)
        for name in SHOWN:
            milliseconds[name].append(median(spent[name]))
        row = ", ".join(f"{name} {milliseconds[name][-1]:.1f}" for name in SHOWN)
        print(f"{height * height} cells: {row} ms per update", flush=True)
    cells = np.log([h * h for h in cfg.heights])
    result: dict[str, object] = {"cells": [h * h for h in cfg.heights], "ms": milliseconds}
    for name in SHOWN:
        exponent = float(np.polyfit(cells, np.log(milliseconds[name]), 1)[0])
        ratio = median(
            a / b for a, b in zip(milliseconds[name], milliseconds["gc-db"], strict=True)
        )
        result[name] = {"growth exponent": exponent, "ratio to gc-db": ratio}
        print(f"{name}: grows as cells^{exponent:.2f}, {ratio:.2f} times GC-DB")
    if cfg.json:
        cfg.json.parent.mkdir(parents=True, exist_ok=True)
        cfg.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
