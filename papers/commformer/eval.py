"""A run directory -> rows: steps to the end, edges in use, and what the graph became."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cli import run_cli
from common.marl.protocol import BatchEnv
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.commformer.agent import Agent
from papers.commformer.config import Config, settings_of
from papers.commformer.methods import METHODS
from papers.commformer.play import bounds, judged
from papers.commformer.task import EVAL_SEED, make_env

LAST = 3  # evaluations whose mean counts
FOUND = {  # metric -> what the log of an evaluation calls it
    **{name: f"eval_{name}" for name in ("steps", "success", "return", "used")},
    **{name: name for name in ("drawn_steps", "drawn_success", "drawn_return")},
}
LOGGED = ("switched", "spread", "clipped", "entropy", "value_loss", "gate")
POINTS = 40  # of a logged curve

Add = Callable[..., None]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    settings = settings_of(run_cfg)
    name = {"method": run_cfg.method, "task": run_cfg.task, "clip": settings.clip}

    def add(metric: str, values: Any, **labels: Any) -> None:
        for seed, value in zip(run_cfg.seed, values, strict=True):
            value = value if isinstance(value, list) else float(value)
            rows.append({**name, "seed": seed, "metric": metric, "value": value, **labels})

    policy = METHODS[run_cfg.method].policy
    if policy != "network":
        env = make_env(run_cfg.task, run_cfg.episodes)
        each = [bounds(policy, env, EVAL_SEED, settings.limit, s) for s in run_cfg.seed]
        for metric in each[0]:
            add(metric, [one[metric] for one in each])
            # the same episodes: there is no other way to act
            add(f"drawn_{metric}", [one[metric] for one in each])
        run.write_eval(rows)
        return
    lines = run.metrics()
    add_curves(lines, add)
    device = setup(cfg.device, 0)
    env = make_env(run_cfg.task, 1)
    agent = Agent(run_cfg, env, device)
    agent.load(run.final()["agent"])
    add_graph(agent, env, lines, add)
    add_cut(agent, run_cfg, device, add)
    for seed, adjacency in zip(run_cfg.seed, agent.exact().cpu().int().tolist(), strict=True):
        extras.append({**name, "name": "adjacency", "seed": seed, "data": adjacency})
    run.write_eval(rows, extras)


def add_curves(lines: list[dict[str, Any]], add: Add) -> None:
    """Evaluations as they were made, the mean of the last ones, and what training logged."""
    for metric, logged in FOUND.items():
        points = [line for line in lines if logged in line]
        values = np.array([line[logged] for line in points])  # [T, S]
        steps = [line["step"] for line in points]
        add(f"{metric}_curve", values.T.tolist(), step=steps)
        add(metric, values[-LAST:].mean(0))
    kinds = ("eval_excess", "drawn_excess")
    excess = [line[kind] for line in lines for kind in kinds if kind in line]
    add("excess", np.array(excess).max(0))
    for metric in LOGGED:
        points = [line for line in lines if metric in line]
        points = points[:: max(1, len(points) // POINTS)]
        if points:
            curves = np.array([line[metric] for line in points]).T
            add(metric, curves.tolist(), step=[line["step"] for line in points])


def add_graph(agent: Agent, env: BatchEnv, lines: list[dict[str, Any]], add: Add) -> None:
    """What the graph at execution is like; rows are receivers."""
    tables = [line["adjacency"] for line in lines if "adjacency" in line]
    over_time = np.array(tables)  # [T, S, N, N]
    moved = [(line["step"], line["switched"]) for line in lines if "switched" in line]
    steps, switched = np.array([step for step, _ in moved]), np.array([s for _, s in moved])
    add("settled", ((switched > 0) * steps[:, None]).max(0))  # 0: never switched
    add("row_error", np.abs(over_time.sum(-1) - agent.k).max((0, 2)))
    last = over_time[-1]
    add("self_edges", np.diagonal(last, axis1=1, axis2=2).mean(1))
    add("most_heard", last.sum(1).max(1))  # receivers of the agent whom most listen to
    blind = getattr(env, "can_capture", None)
    if blind is not None and blind.any() and not blind.all():
        heard = last[:, blind][:, :, ~blind].any(-1)  # [S, blind agents]
        add("to_seeing", heard.sum(1))
        add("blind", np.full(len(last), blind.sum()))


def add_cut(agent: Agent, cfg: Config, device: torch.device, add: Add) -> None:
    """Steps when, after training, every edge to another agent is cut: whether messages matter."""
    judging = [make_env(cfg.task, cfg.episodes) for _ in cfg.seed]
    alone = torch.zeros_like(agent.alpha)
    if not agent.scheme.relations:
        alone = alone + torch.eye(agent.n, device=device)
    cut = agent.graph_of(alone)
    add("steps_cut", judged(agent, judging, EVAL_SEED, device, graph=cut)["steps"])
    drawing = seed_generators(cfg.seed, 7, device)
    found = judged(agent, judging, EVAL_SEED, device, drawn=drawing, graph=cut)
    add("drawn_steps_cut", found["steps"])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
