"""A run directory -> rows of metrics.

python -m papers.egfn.eval --run DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.run import Run
from papers.egfn.config import Config
from papers.egfn.task import GRIDS

LAST = 5  # final L1 = mean of the last evaluations

#: curves that are kept per seed, where a task logs them
CURVES = (
    *("regions_star", "regions_all", "l1_sum_exact"),
    *("mean_reward", "top100", "stable", "modes", "relative_mean_error"),
    *("mean_score", "top_score"),
)
#: logged numbers of which the last one is kept
LATEST = (
    *("buffer_distinct", "buffer_regions", "length_star", "fitness", "log_Z", "similarity"),
    *("mean_reward", "top100", "stable", "modes", "relative_mean_error"),
)


@dataclass
class EvalConfig:
    """Evaluate one finished run."""

    run: Path  # run directory
    device: str = "cpu"  # unused: everything was measured while training


def evaluate(cfg: EvalConfig) -> None:
    """Writes eval.json: one curve or number per seed."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    final, lines = run.final(), run.metrics()
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    task, method = config.task, config.method
    steps = [line["step"] for line in lines]
    calls = [line["reward_calls"] for line in lines]

    for i, seed in enumerate(config.seed):

        def add(metric: str, value: Any, seed: int = seed, **labels: Any) -> None:
            row = {"method": method, "task": task, "seed": seed, "metric": metric}
            rows.append({**row, "value": value, **labels})

        def curve(name: str, i: int = i) -> list[float] | None:
            values = [line.get(name) for line in lines]
            if not all(isinstance(v, list) and len(v) > i for v in values):
                return None
            return [v[i] for v in values]

        add("reward_calls", float(calls[-1]))
        for name in CURVES:
            values = curve(name)
            if values is not None:
                add(name, values, step=steps)
        for name in LATEST:
            values = curve(name)
            if values is not None:
                add(f"{name}_last", values[-1])
        if task in GRIDS:
            n = final["n_regions"]
            for who in ("star", "all"):
                values = curve(f"regions_{who}")
                assert values is not None
                add(f"found_{who}", values[-1])
                # as a share of all regions, over the whole run
                add(f"area_{who}", float(np.mean(values)) / n)
                complete = [s for s, v in zip(steps, values, strict=True) if v == n]
                add(f"steps_to_all_{who}", complete[0] if complete else None)
            l1 = curve("l1_sum_exact")
            if l1 is not None:
                add("l1_final", float(np.mean(l1[-LAST:])))
            add("l1_mean_empirical", final["l1_mean_empirical"][i])

    if "p_terminal" in final:
        side = GRIDS[task].height
        maps = {"p_terminal": final["p_terminal"].mean(0), "target": final["target"]}
        for name, values in maps.items():
            data = [[float(f"{p:.3g}") for p in row] for row in values.view(side, side)]
            label = {"method": method, "task": task, "seed": config.seed[0]}
            extras.append({"name": name, **label, "data": data})
    run.write_eval(rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
