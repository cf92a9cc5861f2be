"""A finished run as rows: the last error against the true curve, and its curve in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.cli import run_cli
from common.run import Run
from papers.ne.train import Config


@dataclass
class EvalConfig:
    """Evaluate a run."""

    run: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # unused: the errors were measured while training


def evaluate(cfg: EvalConfig) -> None:
    """Write the rows of the run."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    lines = run.metrics()
    steps = [line["step"] for line in lines]
    rows = []
    for index, seed in enumerate(config.seed):
        label = {"method": config.method, "task": config.task, "seed": seed}
        errors = [line["error"][index] for line in lines]
        rows.append({**label, "metric": "error", "value": errors[-1]})
        rows.append({**label, "metric": "error_curve", "step": steps, "value": errors})
    run.write_eval(rows, [])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
