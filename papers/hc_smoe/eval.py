"""A run directory -> rows: quality of what is left, errors of layers, groups, the training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import files
from common.cli import run_cli
from common.run import Run
from papers.hc_smoe.config import Config, TrainingConfig
from papers.hc_smoe.methods import METHODS

LABELS = ("step", "seed", "kept")  # of a line of a merging run; the rest are metrics


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # nothing is computed anew


def of_training(run: Run, cfg: TrainingConfig) -> Iterator[dict[str, Any]]:
    """Curves of stage 1 or 2."""
    name = {"method": cfg.method, "task": cfg.task, "seed": cfg.seed}
    lines = run.metrics()
    for metric in ("loss", "balance", "validation"):
        points = [(line["step"], line[metric]) for line in lines if metric in line]
        steps, values = (list(part) for part in zip(*points, strict=True))
        yield {**name, "metric": f"{metric}_curve", "value": values, "step": steps}
        yield {**name, "metric": f"{metric}_end", "value": values[-1]}


def of_merging(run: Run, cfg: Config) -> Iterator[dict[str, Any]]:
    """A row per seed, share of experts and metric."""
    name = {"method": cfg.method, "task": cfg.task, "calibration": cfg.calibration}
    for line in run.metrics():
        cell = {**name, "seed": line["seed"], "kept": line["kept"]}
        for metric in line:
            if metric not in LABELS:
                yield {**cell, "metric": metric, "value": line[metric]}


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run of any stage."""
    run = Run.load(cfg.run)
    written = files.read_json(run.folder / "config.json")
    if METHODS[written["method"]].kind == "training":
        run.write_eval(of_training(run, run.config(TrainingConfig)))
        return
    run_cfg = run.config(Config)
    extras = [
        {**{"name": "joins", "method": run_cfg.method, "task": run_cfg.task}, "seed": int(seed)}
        | {"data": layers}
        for seed, layers in run.final()["joins"].items()
    ]
    run.write_eval(of_merging(run, run_cfg), extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
