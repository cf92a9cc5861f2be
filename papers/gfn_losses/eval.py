"""A run directory -> rows of metrics.

python -m papers.gfn_losses.eval --run DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.run import Run
from papers.gfn_losses.baselines import BASELINE, uniform_policy_l1
from papers.gfn_losses.config import Config
from papers.gfn_losses.task import BIT_TASKS, GRID_TASKS, MOLECULE_TASKS, grid_spec

LAST = 5  # final L1 = mean of the last evaluations


@dataclass
class EvalConfig:
    """Evaluate one finished run."""

    run: Path  # run directory
    device: str = "cpu"  # unused: the curves were measured exactly while training


def maps(config: Config, final: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the sampler ends on a grid of two dimensions, mean over three seeds; the target."""
    side = final["height"]
    found = [("p_terminal", final["p_terminal"][: min(3, len(config.seed))].mean(0))]
    if config.method == BASELINE:
        found.append(("target", final["target"]))
    of = {"method": config.method, "task": config.task, "seed": config.seed[0]}
    return [
        {"name": name, **of}
        | {"data": [[float(f"{p:.3g}") for p in row] for row in values.view(side, side)]}
        for name, values in found
    ]


def evaluate(cfg: EvalConfig) -> None:
    """Writes eval.json: one curve or number per seed."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    final, lines = run.final(), run.metrics()
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    task, method = config.task, config.method
    steps = [line["step"] for line in lines]

    tuned = {k: v for k in ("lr", "grad_clip") if (v := getattr(config, k)) is not None}

    def add(seed: int, metric: str, value: Any, **labels: Any) -> None:
        rows.append(
            {
                "method": method,
                "task": task,
                "seed": seed,
                "metric": metric,
                "value": value,
                **tuned,
                **labels,
            }
        )

    def curve(i: int, key: str) -> list[float]:
        return [line[key][i] for line in lines]

    if task == "theory":
        for name, errors in final["errors"].items():
            for dag, part, error in errors:
                labels = {"dag": dag, "part": part}
                row = {"method": name, "task": task, "seed": 0, "metric": "gradient_error"}
                rows.append({**row, "value": error, **labels})
    if task in GRID_TASKS:
        for i, seed in enumerate(config.seed):
            l1, regions = curve(i, "l1_sum_exact"), curve(i, "regions")
            add(seed, "l1_sum_exact", l1, step=steps)
            add(seed, "regions", regions, step=steps)
            add(seed, "area", float(np.mean(l1)))
            add(seed, "l1_final", float(np.mean(l1[-LAST:])))
            add(seed, "regions_found", regions[-1])
            add(seed, "l1_mean_empirical", final["l1_mean_empirical"][i])
            reached = [s for s, v in zip(steps, l1, strict=True) if v < 0.2]
            add(seed, "steps_to_l1_0.2", reached[0] if reached else None)
        if method == BASELINE:
            spec = grid_spec(task, config.ndim, config.height, config.reward)
            if spec.height**spec.ndim <= 100_000:
                add(config.seed[0], "uniform_policy_l1", uniform_policy_l1(spec.env("cpu").dag()))
        if final["ndim"] == 2 and task == "grid-tb" and len(final["p_terminal"]):
            extras += maps(config, final)
    if task in BIT_TASKS:
        for i, seed in enumerate(config.seed):
            modes = curve(i, "modes")
            add(seed, "modes", modes, step=steps)
            add(seed, "modes_found", modes[-1])
            complete = [s for s, m in zip(steps, modes, strict=True) if m == final["n_modes"]]
            add(seed, "steps_to_all_modes", complete[0] if complete else None)
            spearman = final["spearman"][i]
            add(seed, "spearman", spearman if np.isfinite(spearman) else None)
            add(seed, "collapsed", float(final["collapsed"][i]))
            add(seed, "distinct", final["distinct"][i])
            add(seed, "mean_distance", curve(i, "distance")[-1])
            add(seed, "n_bits", config.n_bits)
    if task in MOLECULE_TASKS:
        seed = config.seed[0]
        for metric in ("mean_score", "top_score", "reward_calls"):
            add(seed, metric, [line[metric] for line in lines], step=steps)
        add(seed, "similarity", final["similarity"])
    run.write_eval(rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
