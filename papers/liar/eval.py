"""A run directory -> rows: quality, what is left of it, errors of modules, size, time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import run_cli
from common.run import Run
from papers.liar.config import Config, settings_of
from papers.liar.methods import METHODS

QUALITY = (
    *("mrr", "recall", "accuracy", "body_accuracy", "cosine", "nll", "bits_per_byte", "f1"),
    "choices",
)
RETAINED = ("mrr", "recall", "accuracy", "f1", "choices")  # over the unpruned model's
COUNTED = ("parameters", "parameters_before", "nonzero", "tokens", "inference")


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # nothing is computed anew


def varied(cfg: Config) -> dict[str, Any]:
    """Labels of what was asked for by name, though it be the method's or the task's own."""
    stated = {name: getattr(cfg, name) for name in ("target", "ridge", "bias", "texts")}
    return {k: v for k, v in stated.items() if v is not None}


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    method, seconds = METHODS[run_cfg.method], run.final()["seconds"]
    rows: list[dict[str, Any]] = []
    for setting, line, took in zip(settings_of(run_cfg), run.metrics(), seconds, strict=True):
        label = {
            **{"method": run_cfg.method, "task": run_cfg.task, "seed": run_cfg.seed},
            **{"setting": setting.name, "criterion": setting.criterion, "parts": setting.parts},
            **{"percent": setting.percent, **varied(run_cfg)},
        }

        def add(metric: str, value: Any, **labels: Any) -> None:
            rows.append({**label, "metric": metric, "value": value, **labels})  # noqa: B023

        for metric in (*QUALITY, *COUNTED):
            if metric in line:
                add(metric, float(line[metric]))
        for metric in RETAINED:
            if line.get(f"dense_{metric}"):
                add(f"kept_{metric}", line[metric] / line[f"dense_{metric}"])
        if "nll" in line:
            add("lost_nll", line["nll"] - line["dense_nll"])
        add("parameters_share", line["parameters"] / line["parameters_before"])
        add("nonzero_share", line["nonzero"] / line["parameters_before"])
        if method.kind in ("closed", "retrain"):
            add("seconds", took)
        for name in ("errors", "ridges"):
            if name in line:
                modules = list(range(1, len(line[name]) + 1))
                add(f"stream_{name}", line[name], step=modules)
        for module, error in enumerate(line.get("alone", [])):
            add("alone", error, module=module)
        if "losses" in line:
            add("retrain_loss", line["losses"], step=list(range(1, len(line["losses"]) + 1)))
    run.write_eval(rows)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
