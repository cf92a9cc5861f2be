"""A run directory -> rows: losses by domain and their means, or what was measured of selections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.cli import run_cli
from common.run import Run
from common.textlab import evaluate as quality
from common.textlab.evaluate import window_losses
from common.torch_utils import setup
from papers.disf.config import AnyConfig, CheckConfig, Config, GeometryConfig, task_of, varied
from papers.disf.geometry import RANKS
from papers.disf.source import Library, source_of
from papers.disf.task import Task, model_of


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def config_of(run: Run) -> AnyConfig:
    """The configuration of a run, of whichever stage it is."""
    names = files.read_json(run.folder / "config.json")
    kind: Any = Config if "lr" in names else GeometryConfig if "sample" in names else CheckConfig
    found: AnyConfig = run.config(kind)
    return found


def means(losses: dict[str, float], target: str) -> dict[str, float]:
    """Mean over domains, the target's loss, mean over the others."""
    others = [loss for name, loss in losses.items() if name != target]
    found = {"macro": float(np.mean(list(losses.values())))}
    if target in losses and others:
        found |= {"on_target": losses[target], "off_target": float(np.mean(others))}
    return found


def rows_of_training(run: Run, cfg: Config, device: str) -> list[dict[str, Any]]:
    """Of the trained model, and of its curve."""
    task, where = task_of(cfg), setup(device, cfg.seed)
    source, final = source_of(task, device), run.final()
    model = model_of(task, cfg.seed)
    model.load_state_dict(final["model"])
    model.to(where).eval()
    label = {"method": cfg.method, "task": cfg.task, "seed": cfg.seed, **varied(cfg)}
    rows: list[dict[str, Any]] = []

    def add(metric: str, value: Any, **labels: Any) -> None:
        rows.append({**label, "metric": metric, "value": value, **labels})

    losses, bits, n_bytes = dict[str, float](), 0.0, 0
    for name, windows in source.windows(task.evaluated).items():
        losses[name] = float(window_losses(model, windows).mean())
        bits += losses[name] * windows[:, 1:].numel() / np.log(2)
        n_bytes += source.bytes_of(windows)
        add("nll", losses[name], domain=name)
    for metric, value in means(losses, task.target).items():
        add(metric, value)
    if n_bytes:
        add("bits_per_byte", bits / n_bytes)
    for metric, value in asked(model, task, cfg.seed, source).items():
        add(metric, value)
    lines = run.metrics()
    curve = [np.mean([v for k, v in line.items() if k.startswith("nll ")]) for line in lines]
    add("curve", [float(x) for x in curve], step=[line["tokens"] for line in lines])
    unique = lines[0]["unique"]
    add("unique_tokens", unique)
    add("files", len(final["chosen"]))
    if unique:
        add("epochs", task.tokens / unique)
        add("seconds_selection", final["seconds"])
    return rows


def asked(model: Any, task: Task, seed: int, source: Any) -> dict[str, float]:
    """Accuracy among four continuations, and of the harness's tasks, where the task has them."""
    found: dict[str, float] = {}
    if task.questions and isinstance(source, Library):
        items = quality.multiple_choice(source.held_out, task.questions, seed)
        scores = quality.answered(model, items, source.held_out.tokenizer)
        found["choices"] = float(scores.right.mean())
    if task.harness:
        accuracies = quality.harness(model, source.tokenizer, list(task.harness))
        found |= {f"harness_{name}": value for name, value in accuracies.items()}
        found["harness"] = float(np.mean(list(accuracies.values())))
    return found


def rows_of_lines(run: Run, cfg: GeometryConfig | CheckConfig) -> list[dict[str, Any]]:
    """What was logged of each seed."""
    rows: list[dict[str, Any]] = []
    for line in run.metrics():
        label = {"method": cfg.method, "task": cfg.task, "seed": int(line["seed"]), **varied(cfg)}
        for metric, value in line.items():
            if metric in ("step", "seed"):
                continue
            kind, _, name = metric.partition(" ")
            row = {**label, "metric": kind, "value": value}
            if name:
                row["domain"] = name
            if metric == "dominance":
                row["step"] = list(RANKS)
            rows.append(row)
    for seed, took in zip(cfg.seed, run.final().get("seconds", []), strict=False):
        label = {"method": cfg.method, "task": cfg.task, "seed": seed, **varied(cfg)}
        rows.append({**label, "metric": "seconds", "value": took})
    return rows


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    made = replace(config_of(run), out=cfg.run, device=cfg.device)
    if isinstance(made, Config):
        run.write_eval(rows_of_training(run, made, cfg.device))
    else:
        run.write_eval(rows_of_lines(run, made))


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
