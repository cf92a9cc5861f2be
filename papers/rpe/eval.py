"""A run directory -> rows of metrics.

python -m papers.rpe.eval --run DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.cli import run_cli
from common.run import Run
from papers.rpe.config import Config
from papers.rpe.methods import METHODS
from papers.rpe.task import GRID, make_dag

CURVES = ("l1_sum_exact", "accuracy", "modes", "log_Z_error", "mean_reward")


@dataclass
class EvalConfig:
    """Evaluate one finished run."""

    run: Path  # run directory
    device: str = "cpu"  # unused: the curves were measured while training


def rounded(values: Tensor) -> Any:
    """Four significant digits, as nested lists."""
    if values.dim() > 1:
        return [rounded(row) for row in values]
    return [float(f"{v:.4g}") for v in values.tolist()]


def evaluate(cfg: EvalConfig) -> None:
    """Writes eval.json: one curve or number per seed; exact numbers have seed 0."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    final, lines = run.final(), run.metrics()
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []

    def row(seed: int, metric: str, value: Any, method: str | None = None, **labels: Any) -> None:
        label = {"method": method or config.method, "task": config.task, "seed": seed}
        rows.append({**label, "metric": metric, "value": value, **labels})

    def extra(name: str, data: Any) -> None:
        label = {"method": config.method, "task": config.task, "seed": config.seed[0]}
        extras.append({"name": name, **label, "data": data})

    if METHODS[config.method].kind == "tables":
        exact = final["exact"]
        for metric, value in exact["numbers"].items():
            row(config.seed[0], metric, value)
        if config.task == "words":
            for name, p in exact["p"].items():
                extra(name, rounded(p))
        if config.task == "rna1-var":
            extra("lengths", list(range(config.sizes.shortest, config.sizes.longest + 1)))
            for name, p in exact["p"].items():
                extra(name, rounded(mass_by_level(p, exact["level"])))
        if config.task == GRID:
            side = (config.sizes.height,) * config.sizes.ndim
            if len(side) == 2:
                for name, p in exact["p"].items():
                    extra(name, rounded(p.view(side)))
                extra("path_dependence", rounded(exact["path_dependence"].view(side)))
        run.write_eval(rows, extras)
        return

    steps = [line["step"] for line in lines]
    for i, seed in enumerate(config.seed):
        for metric in CURVES:
            if metric in lines[-1]:
                values = [line[metric][i] for line in lines]
                row(seed, metric, values, step=steps)
                row(seed, f"{metric}_final", values[-1])
        row(seed, "reward_calls", lines[-1]["reward_calls"])
        if "l1_true_leaves" in final:
            row(seed, "l1_true_leaves", float(final["l1_true_leaves"][i]))
        if "n_modes" in final:
            row(seed, "n_modes", final["n_modes"])
    if config.task == "words" and "p_objects" in final:
        extra("p_objects", rounded(final["p_objects"][0]))
    if config.task == "rna1-var" and "p_objects" in final:
        dag = make_dag(config.task, config.sizes)
        level = dag.level[torch.isfinite(dag.log_reward)]
        extra("p_objects", rounded(mass_by_level(final["p_objects"].double(), level)))
    run.write_eval(rows, extras)


def mass_by_level(p: Tensor, level: Tensor) -> Tensor:
    """Probability of the strings of each length in T3, shortest first. [..., M] -> [..., n].

    Strings that stopped lie one level below their length, full ones at it: both end at the longest
    level, so the two are told apart by their place (full ones come first).
    """
    longest = int(level.max())
    shortest = int(level.min()) - 1
    full = 4**longest
    masses = [p[..., full:][..., level[full:] == t + 1].sum(-1) for t in range(shortest, longest)]
    return torch.stack([*masses, p[..., :full].sum(-1)], -1)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
