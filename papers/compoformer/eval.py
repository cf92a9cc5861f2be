"""A run directory -> rows: success after each task and in the end, forgetting, transfer, reuse.

What was measured while tasks came and went is in the last checkpoint; an untrained network and the
references are rolled out here. Everything is of the last iterate of a task; nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.cli import run_cli
from common.control.behaviour import expert_outcomes
from common.control.continual import (
    average_performance,
    backward_transfer,
    forgetting,
    forward_transfer,
)
from common.run import Run
from common.torch_utils import setup
from papers.compoformer.config import Config
from papers.compoformer.learning import held_out_actions, make_net, make_world, outcomes
from papers.compoformer.methods import METHODS
from papers.compoformer.network import Continual
from papers.compoformer.task import STREAMS, behaviour, demonstrations, goal_batch

Floats = NDArray[np.float64]
SWEPT = {"lr": "rate", "strength": "lam", "give_back": "given_back"}  # None: the method's own


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


class Found:
    """Rows as they come."""

    def __init__(self, cfg: Config) -> None:
        self.name: dict[str, Any] = {"method": cfg.method, "task": cfg.task, "seed": cfg.seed}
        self.labels = {name: getattr(cfg, SWEPT.get(name, name)) for name in cfg.labels}
        self.tasks = STREAMS[cfg.task].tasks
        self.rows: list[dict[str, Any]] = []

    def add(self, metric: str, value: Any, **labels: Any) -> None:
        """One value, or a curve with ``step``."""
        self.rows.append({**self.name, "metric": metric, "value": value, **labels, **self.labels})

    def by_place(self, metric: str, values: Sequence[float] | Floats) -> None:
        """A value per place of the stream, where there is one, called ``place_…``."""
        for place, value in enumerate(values, 1):
            if np.isfinite(value):
                own = self.tasks[place - 1]
                self.add(f"place_{metric}", float(value), place=place, subtask=own)


def of_scores(found: Found, scores: Floats, errors: Floats, joint: bool) -> None:
    """P, F, FWT, BWT and what they are made of. The scores are [K + 1, K]."""
    found.add("performance", average_performance(scores))
    found.add("action_error", float(errors[-1].mean()))
    found.by_place("success", scores[-1])
    found.by_place("action_error", errors[-1])
    found.by_place("initial", scores[0])
    if joint:
        return
    found.add("forgetting", forgetting(scores))
    found.by_place("own_success", np.diagonal(scores[1:]))
    found.by_place("own_error", np.diagonal(errors[1:]))
    found.by_place("forgotten", np.diagonal(scores[1:]) - scores[-1])
    if len(found.tasks) > 1:
        found.add("forward_transfer", forward_transfer(scores))
        found.add("backward_transfer", backward_transfer(scores))


def recognised(net: Continual, k: int) -> bool | None:
    """Whether the largest weight is that of the same task; None: it is new or had no weights."""
    earlier = net.stream.earlier(k)
    if earlier is None or not net.decided[k] or net.method.composition in ("uniform", "own"):
        return None
    if net.reused[earlier]:
        earlier = int(net.alpha[earlier].argmax())
    return int(net.alpha[k].argmax()) == earlier


def parameters_to_act(net: Continual, k: int) -> int:
    """Numbers that a task has added to what acts; masks count each weight for the one that owns it.

    A meta-policy is a row of constants once its warm-up is over, so many as there are sources.
    """
    weights = len(net.sources(k)) if net.method.composes else 0
    if net.reused[k]:
        return weights
    head = net.exit(k)
    own = sum(p.numel() for p in head.parameters()) if net.head_of(k) == k else 0
    base = sum(p.numel() for p in net.base(k).values())
    growth = net.method.growth
    if growth == "apart" or (k == 0 and growth in ("shared", "lora")):
        own += base
    if growth == "lora":
        own += sum(p.numel() for p in net.low_rank(k))
    if growth == "masks":
        fixed = base - sum(p.numel() for p in net.maskable().values())
        own += int((net.owner == k).sum()) + (fixed if k == 0 else 0)
    return own + weights


def of_growth(found: Found, net: Continual, final: Mapping[str, Any]) -> None:
    """Rows of what was added, reused and recognised, and of how far finished tasks have moved."""
    K = len(found.tasks)
    found.add("parameters", sum(parameters_to_act(net, k) for k in range(K)))
    found.by_place("drift", final["drift"])
    if np.isfinite(final["drift"]).all():
        found.add("drift", float(np.mean(final["drift"])))
    if not net.method.composes:
        return
    found.add("grown", int(net.grown.sum()))
    found.by_place("test", final["tests"])
    found.by_place("composed_error", final["composed"])
    found.by_place("reused", net.reused.double().cpu().numpy())
    for k in range(K):
        if (same := recognised(net, k)) is not None:
            own = {"place": k + 1, "subtask": found.tasks[k]}
            found.add("place_recognised", float(same), **own)
            weight = float(net.alpha[k, net.stream.earlier(k)])
            found.add("place_weight_of_same", weight, **own)


def of_untrained(found: Found, cfg: Config, device: torch.device) -> None:
    """Rows of a network before any task."""
    world, net = make_world(cfg, device), make_net(cfg).to(device)
    K = len(world.tasks)
    success = [outcomes(net, world, k, cfg.first_goal).success.mean() for k in range(K)]
    errors = [held_out_actions(net, world, k)[1] for k in range(K)]
    found.add("performance", float(np.mean(success)))
    found.add("action_error", float(np.mean(errors)))
    found.by_place("success", success)
    found.by_place("action_error", errors)


def of_expert(found: Found, cfg: Config) -> None:
    """Rows of the scripted expert, without noise or by its behaviour's mean; and of the data."""
    stream, success, behaved = STREAMS[cfg.task], {}, {}
    for name in dict.fromkeys(stream.tasks):
        batch = goal_batch(name, cfg.first_goal, cfg.goals)
        config = behaviour(stream, name) if METHODS[cfg.method].kind == "mean" else None
        done = expert_outcomes(batch, name, stream.limit, config)
        success[name] = float(done.success.mean())
        source = demonstrations(stream, name, cfg.first_goal, cfg.goals, cfg.episodes)
        behaved[name] = source.behaviour_success
    found.add("performance", float(np.mean([success[name] for name in stream.tasks])))
    found.by_place("success", [success[name] for name in stream.tasks])
    found.by_place("behaviour", [behaved[name] for name in stream.tasks])


def of_log(found: Found, lines: Sequence[Mapping[str, Any]]) -> None:
    """The training loss."""
    points = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    if points:
        steps, values = (list(part) for part in zip(*points, strict=True))
        found.add("loss", values, step=steps)


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    device = setup(cfg.device, 0)
    found, method = Found(run_cfg), METHODS[run_cfg.method]
    if method.kind in ("expert", "mean"):
        of_expert(found, run_cfg)
        run.write_eval(found.rows)
        return
    if method.kind == "untrained":
        of_untrained(found, run_cfg, device)
        run.write_eval(found.rows)
        return
    final = run.final()
    scores, errors = np.asarray(final["scores"]), np.asarray(final["errors"])
    net = make_net(run_cfg)
    net.load_state_dict(final["net"])
    of_scores(found, scores, errors, method.joint)
    of_growth(found, net, final)
    of_log(found, run.metrics())
    extras = []
    if net.decided.any() and not run_cfg.labels:
        named = {"name": "attention", **found.name}
        extras = [{**named, "data": net.alpha.tolist(), "grown": net.grown.tolist()}]
    run.write_eval(found.rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
