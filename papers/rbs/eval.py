"""A run directory -> rows of metrics.

python -m papers.rbs.eval --run DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import run_cli
from common.run import Run
from papers.rbs.config import Config
from papers.rbs.task import SPECS

HALF = 0.5  # success whose first reaching is counted (claim r1)


@dataclass
class EvalConfig:
    """Evaluate one finished run."""

    run: Path  # run directory
    device: str = "cpu"  # unused: success was measured while training


def evaluate(cfg: EvalConfig) -> None:
    """Writes eval.json: one curve or number per seed."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    final, lines = run.final(), run.metrics()
    rows: list[dict[str, Any]] = []
    steps = [line["step"] for line in lines]
    labels = {"method": config.method, "task": config.task}

    def add(seed: int, metric: str, value: Any, **more: Any) -> None:
        rows.append({**labels, "seed": seed, "metric": metric, "value": value, **more})

    for i, seed in enumerate(config.seed):
        for metric in ("success", "rollout_success", "entropy", "unseen"):
            if lines and lines[-1][metric]:
                curve = [round(line[metric][i], 5) for line in lines]
                add(seed, metric, curve, step=steps)
                add(seed, f"final_{metric}", curve[-1])
        half = [s for s, line in zip(steps, lines, strict=True) if line["success"][i] >= HALF]
        add(seed, "updates_to_half", half[0] if half else steps[-1])  # not reached: the cap
        add(seed, "reached_half", float(bool(half)))
        if len(final["source_gap"]):
            add(seed, "source_gap", float(final["source_gap"][i]))
        if "paths" in final:
            add(seed, "distinct_paths", float(final["paths"][i]))
        if "orders" in final:
            add(seed, "distinct_orders", float(final["orders"][i]))
    extras: list[dict[str, Any]] = []
    per_goal = final["success"]  # [S, G]
    spec = SPECS[config.task]
    if spec.kind == "grid" and per_goal.shape[1] == spec.size[1] ** 2:
        square = per_goal.mean(0).view(spec.size[1], -1)
        data = [[round(float(p), 3) for p in row] for row in square]
        extras.append({**labels, "name": "success_map", "seed": config.seed[0], "data": data})
    elif spec.kind != "grid":
        for seed, success in zip(config.seed, per_goal, strict=True):
            goals = list(range(len(success)))
            add(seed, "goal_success", [round(float(p), 5) for p in success], step=goals)
    run.write_eval(rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
