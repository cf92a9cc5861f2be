"""Milliseconds per training step of EGFN and of its baselines against the size of the grid.

    python -m papers.egfn.bench [--json FILE]

Forced-stop grids D=2..5, H=20 (399 to 3.1 million objects), one seed, CPU time, repeats of all
methods interleaved, medians. The growth exponent is that of milliseconds against objects.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from common.cli import run_cli
from common.gfn.coordinates import sample_states
from common.gfn.nets import adam_with_log_Z
from common.gfn.sampling import uniforms
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.egfn.method import (
    Evolution,
    PrioritisedReplay,
    combined_loss,
    evolve,
    fitness,
)
from papers.egfn.methods import METHODS
from papers.egfn.star import by_seed, network, residual_parts
from papers.egfn.task import GridSpec

COMPARED = ("egfn-db", "db-prb", "db-2.25x", "db")


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    ndims: tuple[int, ...] = (2, 3, 4, 5)  # D of the grids (H=20)
    warm_up: int = 60  # steps before measuring
    repeats: int = 7  # interleaved repeats of every method
    steps: int = 10  # training steps per repeat
    batch: int = 16  # own trajectories per step; as many are replayed


def training_step(name: str, ndim: int, batch: int) -> Callable[[], None]:
    """One step of a method on a grid, as in ``train.py`` without its measuring."""
    method, evo = METHODS[name], Evolution()
    env = GridSpec(ndim, 20, "sparse-5").env()
    net = network(seed_generators((0,), 0), env)
    optimizer, _ = adam_with_log_Z(net, None, lr=1e-3, lr_log_Z=0.1)
    population = None
    if method.population != "none":
        population = network(seed_generators(range(evo.n_agents), 9), env).requires_grad_(False)
    buffer = None
    if method.replay is not None:
        buffer = PrioritisedReplay(1, 1000, env.max_length, (ndim,), rule=method.replay)
    own = batch + evo.n_agents * evo.episodes if method.same_calls else batch
    walks, sampling, evolving = (seed_generators((0,), i) for i in (1, 2, 3))
    select, replay = ([np.random.default_rng(i)] for i in (1, 2))

    def step() -> None:
        if population is not None and buffer is not None:
            shape = (evo.n_agents, env.max_length, evo.episodes)
            traj = by_seed(sample_states(population, env, uniforms(walks, shape).flatten(0, 1)), 1)
            reward = env.log_reward(traj.last).exp()
            buffer.insert(traj, reward)
            agents = [x for layer in population.weights() for x in layer]
            scores = fitness(reward.unflatten(1, (evo.n_agents, evo.episodes)))
            evolve(agents, scores, evo, select, evolving)
        traj = sample_states(net, env, uniforms(sampling, (env.max_length, own)))
        batches = [traj]
        if buffer is not None:
            buffer.insert(traj, env.log_reward(traj.last).exp())
            batches.append(buffer.trajectories(buffer.draw(replay, batch)))
        loss = combined_loss([residual_parts("db", net, env, each, None) for each in batches])
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()

    return step


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per step, ratios to DB, and growth exponents."""
    setup("cpu", 0)
    result: dict[str, dict[str, float]] = {name: {} for name in COMPARED}
    objects = [GridSpec(ndim, 20, "sparse-5").n_objects for ndim in cfg.ndims]
    for ndim, n in zip(cfg.ndims, objects, strict=True):
        steps = {name: training_step(name, ndim, cfg.batch) for name in COMPARED}
        for step in steps.values():
            for _ in range(cfg.warm_up):
                step()
        seconds: dict[str, list[float]] = {name: [] for name in COMPARED}
        for _ in range(cfg.repeats):
            for name, step in steps.items():
                start = time.process_time()
                for _ in range(cfg.steps):
                    step()
                seconds[name].append((time.process_time() - start) / cfg.steps)
        milliseconds = {name: 1e3 * median(s) for name, s in seconds.items()}
        for name, value in milliseconds.items():
            result[name][str(n)] = value
        base = milliseconds["db"]
        print(
            f"D={ndim}, {n} objects: "
            + ", ".join(f"{m} {v:.2f} ms (x{v / base:.2f})" for m, v in milliseconds.items()),
            flush=True,
        )
    for name in COMPARED:
        times = [result[name][str(n)] for n in objects]
        exponent = float(np.polyfit(np.log(objects), np.log(times), 1)[0])
        result[name]["exponent"] = exponent
        print(f"{name}: milliseconds grow as objects^{exponent:.2f}")
    if cfg.json:
        cfg.json.parent.mkdir(parents=True, exist_ok=True)
        cfg.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
