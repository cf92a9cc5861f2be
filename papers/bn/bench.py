"""CPU time of a training step of BN and of its baselines against the number of states.

    python -m papers.bn.bench [--json FILE]

Grids D=4 with H = 4, 6, 8, 12 (256 to 20 736 states), batch 16, one seed, the step that
``train.py`` runs: sampling, network on the distinct states that the loss needs, backward, Adam.
Stopping is made improbable and the learning rate is zero, so that all methods see equally long
trajectories (as long as the grid allows). Repeats of all methods are interleaved; medians and their
ratios come from one run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from common.cli import run_cli
from common.gfn.nets import adam_with_log_Z
from common.gfn.objectives import loss_per_seed
from common.gfn.rows import part_of
from common.gfn.sampling import uniforms
from common.stacked import seed_generators
from common.stats import loglog_slope
from common.torch_utils import setup
from papers.bn.baselines import make_network, needed_rows, pairs_of, policy_layers
from papers.bn.methods import METHODS, TRAINED
from papers.bn.task import grid_problem
from papers.bn.train import sample_batch


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    heights: tuple[int, ...] = (4, 6, 8, 12)  # H of the grids, D = 4
    batch: int = 16  # trajectories per step
    repeats: int = 7  # interleaved repeats of each method
    steps: int = 6  # training steps per repeat


def training_step(method: str, height: int, batch: int) -> Callable[[], int]:
    """One training step, as in train.py; returns the number of states given to the network."""
    task = grid_problem(4, height)
    dag = task.dag
    sizes = (dag.input_dim, dag.n_actions, dag.n_backward)
    net = make_network(method, seed_generators((0,), 0), *sizes)
    log_Z = nn.Parameter(torch.zeros(1)) if METHODS[method].own_log_Z else None
    optimizer, _ = adam_with_log_Z(net, log_Z, lr=0.0, lr_log_Z=0.0)
    policy_layers(net)[-1][1].data[..., dag.stop] -= 5.0
    generators = seed_generators((0,), 1)
    active = dag.active
    assert active is not None

    def step() -> int:
        traj = sample_batch(net, task, uniforms(generators, (dag.max_length, batch)))
        part = part_of(needed_rows(method, dag, traj))
        assert part.rows is not None
        out = net.from_active_inputs(active[part.rows])
        loss = loss_per_seed(pairs_of(method, dag, part, out, traj, log_Z))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        return part.rows.shape[1]

    return step


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per step, network rows, ratios to DB and the growth exponent."""
    setup("cpu", 0)
    result: dict[str, dict[str, float]] = {m: {} for m in TRAINED}
    milliseconds: dict[str, list[float]] = {m: [] for m in TRAINED}
    for height in cfg.heights:
        steps = {m: training_step(m, height, cfg.batch) for m in TRAINED}
        for step in steps.values():  # warm up
            step()
            step()
        seconds: dict[str, list[float]] = {m: [] for m in TRAINED}
        rows: dict[str, list[int]] = {m: [] for m in TRAINED}
        for _ in range(cfg.repeats):
            for m, step in steps.items():
                start = time.process_time()
                rows[m] += [step() for _ in range(cfg.steps)]
                seconds[m].append((time.process_time() - start) / cfg.steps)
        reference = median(seconds["db"])
        for m in TRAINED:
            milliseconds[m].append(1e3 * median(seconds[m]))
            ratio = median(seconds[m]) / reference
            result[m] |= {
                f"ms, {height**4} states": milliseconds[m][-1],
                f"over DB, {height**4} states": ratio,
            }
            print(
                f"{height**4:6d} states  {m:8s} {milliseconds[m][-1]:6.2f} ms per step of CPU, "
                f"{ratio:.2f} of DB's; {median(rows[m]):.0f} states through the network",
                flush=True,
            )
    states = [h**4 for h in cfg.heights]
    for m in TRAINED:
        slope = loglog_slope(states, [milliseconds[m]], t_min=min(states))
        result[m]["growth exponent"] = slope.value
        print(f"{m:8s} milliseconds grow as states^{slope.value:.2f}")
    if cfg.json:
        cfg.json.parent.mkdir(parents=True, exist_ok=True)
        cfg.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
