"""A run directory -> rows: loss, what it took, and what became of the connections."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import files
from common.cli import run_cli
from common.run import Run
from common.textlab.tokens import fixed_windows
from common.torch_utils import setup
from papers.mst import zero_shot
from papers.mst.config import Config
from papers.mst.costs import prunable
from papers.mst.learning import nll
from papers.mst.method import PHASES
from papers.mst.plan import Plan, costs, patterns, plan_of
from papers.mst.task import text_of
from papers.mst.trained import model_from

Add = Callable[..., None]
SMALL = "gpt2-small"  # the paper's shape, for which the saving is computed


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    plan = plan_of(run_cfg)
    device = setup(cfg.device, 0)
    rows: list[dict[str, Any]] = []
    name = {"method": run_cfg.method, "task": run_cfg.task, "seed": run_cfg.seed}
    name |= {"T": plan.task.steps, "lr": plan.task.lr}

    def add(metric: str, value: Any, **labels: Any) -> None:
        rows.append({**name, "metric": metric, "value": value, **labels})

    final, lines = run.final(), run.metrics()
    add_curves(lines, plan, add)
    add_operations(final["counter"], plan, run_cfg, add)
    add_topology(final, add)
    model = model_from(run, plan).to(device)
    add_quality(model, final, plan, run_cfg, add)
    add("seconds", float(files.read_json(run.folder / "finished.json")["seconds"]))
    read = {**name, "name": "text", "data": [text_of(plan.task).about]}
    run.write_eval(rows, [read])


def add_curves(lines: list[dict[str, Any]], plan: Plan, add: Add) -> None:
    """Loss against operations (in % of the dense training's) and against iterations."""
    points = [line for line in lines if "nll" in line]
    values = [line["nll"] for line in points]
    dense = plan.dense * tokens_of(plan)
    add("nll_curve", values, step=[round(100 * p["flops"] / dense, 6) for p in points])
    add("nll_by_iteration", values, step=[p["step"] for p in points])
    updates = [line for line in lines if "changed" in line]
    if updates:
        steps = [line["step"] for line in updates]
        add("changed", [line["changed"] for line in updates], step=steps)
        add("churn", float(np.mean([line["changed"] for line in updates])))


def tokens_of(plan: Plan) -> int:
    """Tokens of an iteration."""
    return plan.task.batch * plan.task.length


def add_operations(spent: dict[str, float], plan: Plan, cfg: Config, add: Add) -> None:
    """Operations counted from the masks, against the dense training's, MST's and the formula."""
    tokens = tokens_of(plan)
    dense, budget = plan.dense * tokens, plan.budget * tokens
    total = sum(value for key, value in spent.items() if key != "body")
    add("flops", total)
    add("flops_ratio", total / dense)
    add("flops_of_mst", total / budget)
    for phase in (*PHASES, "gradients"):
        add("flops_phase", spent[phase] / dense, phase=phase)
    own, whole = plan.costs, costs(plan.task, plan.task.width, plan.task.heads, cfg.pattern)
    dense_body = (whole.whole - 3 * whole.head) * plan.task.steps  # of the dense training
    add("body_ratio", spent["body"] / (dense_body * tokens))
    F = own.training(plan.course, gradient=plan.scheme.gradient)
    head = own.head * (1 - plan.course.sparsity if plan.task.mask_head else 1.0)
    recorded = plan.course.update & plan.scheme.gradient
    dense_head = np.where(recorded & plan.task.mask_head, own.head - head, 0.0)
    add("body_ratio_planned", float((F - 3 * head - dense_head).sum()) / dense_body)
    names = ("start", "peak", "end", "warm_up", "restore", "restored", "pattern")
    shape = {key: getattr(cfg, key) for key in names}
    theirs = plan_of(Config(method=cfg.method, task=SMALL, **shape))
    add("small_ratio", float(theirs.flops.sum()) / theirs.dense)
    add("tokens_per_weight", plan.steps * tokens / ((whole.sparse + whole.dense - whole.head) / 2))


def add_topology(final: dict[str, Any], add: Add) -> None:
    """Density at the end, and the share of the connections that were ever there."""
    masks = final["masks"]
    for metric, kind in (("density", "bits"), ("explored", "ever")):
        of = [mask.bool() for mask in masks[kind].values()]
        add(metric, float(sum(int(m.sum()) for m in of) / sum(m.numel() for m in of)))


@torch.no_grad()
def add_quality(model: Any, final: dict[str, Any], plan: Plan, cfg: Config, add: Add) -> None:
    """Loss on the validation text with full attention; with what was cut or restored left out."""
    task = plan.task
    text, device = text_of(task), next(model.parameters()).device
    windows = fixed_windows(text.validation, task.length, task.validation)
    found = nll(model, task, windows)
    add("nll", found)
    add("perplexity", math.exp(min(found, 50.0)))
    if text.n_bytes is not None and task.kind == "gpt2":
        targets = windows[:, 1:].numpy()
        add("bits_per_byte", found * targets.size / math.log(2) / int(text.n_bytes[targets].sum()))
    sparse = patterns(task, cfg.pattern)[1].to(device)[None, None]
    add("nll_sparse_attention", nll(model, task, windows, sparse))
    if task.zero_shot:
        for name, value in zero_shot.of_texts(model, task):
            add("zero_shot_nll", value, text=name)
        for name, value in zero_shot.of_tasks(model):
            add("accuracy", value, text=name)
    weights, late = prunable(model, head=task.mask_head), final["late"]
    bits = final["masks"]["bits"]
    still = sum(int((w[bits[key].bool().to(device)] == 0).sum()) for key, w in weights.items())
    add("dead", still / sum(w.numel() for w in weights.values()))
    there = {key: late[key].bool().to(device) for key in weights}
    if plan.scheme.sparsity == "varied":
        grown = torch.cat([w[~there[key]] for key, w in weights.items()])
        old = torch.cat([w[there[key]] for key, w in weights.items()])
        rms = [float(part.square().mean().sqrt()) if part.numel() else 0.0 for part in (grown, old)]
        add("restored_norm", rms[0] / max(rms[1], 1e-12))
        for key, weight in weights.items():
            weight.mul_(there[key])
        add("nll_unrestored", nll(model, task, windows))


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
