"""A run directory -> rows: returns of fresh episodes on every test task, and what prompts say.

What has diverged while it was tuned, at a rate too high for it, does not act: actions that are no
numbers are zeros. So it has a score, which a tuning refuses; losses and distances are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.control.decision_rollout import Outcomes, acting, rollout
from common.control.sequences import Windows
from common.run import Run
from common.torch_utils import setup
from papers.prompt_diffuser.config import Config
from papers.prompt_diffuser.learning import load_base, stream
from papers.prompt_diffuser.method import PromptShape
from papers.prompt_diffuser.suites import Point, Reach, unit
from papers.prompt_diffuser.task import task_of
from papers.prompt_diffuser.train import CURVES
from papers.prompt_diffuser.tuning import EVALUATION, Learner, Prompt, make_learner, prompts_of


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


class Found:
    """Rows as they come."""

    def __init__(self, cfg: Config) -> None:
        self.name: dict[str, Any] = {"method": cfg.method, "task": cfg.task}
        values = {name: getattr(cfg, name) for name in cfg.labels}
        self.labels = {**values, **({"lr": cfg.rate} if "lr" in values else {})}
        self.rows: list[dict[str, Any]] = []

    def add(self, seed: int, metric: str, value: Any, **labels: Any) -> None:
        """One value of a seed, or a curve with ``step``."""
        labels = {**labels, **self.labels}
        self.rows.append({**self.name, "seed": seed, "metric": metric, "value": value, **labels})

    def by_task(self, seed: int, of: Mapping[float, Mapping[str, float]]) -> None:
        """Values by test task, called ``task_…``, and their means."""
        for goal, values in of.items():
            for metric, value in values.items():
                if np.isfinite(value):
                    self.add(seed, f"task_{metric}", value, subtask=f"{goal:g}")
        for metric in next(iter(of.values())):
            mean = float(np.mean([values[metric] for values in of.values()]))
            if np.isfinite(mean):
                self.add(seed, metric, mean)


def outcomes(learner: Learner, prompt: Prompt, n: int) -> Outcomes:
    """n fresh episodes of the test task, a prompt each."""
    base, suite = learner.base, learner.base.world.suite
    if isinstance(prompt, Windows):
        prompt = learner.policy.embed_prompt(prompt)
    policy = acting(learner.policy, prompt)
    return rollout(
        suite.batch(learner.goal, n),
        lambda windows: policy(windows).nan_to_num(),
        action_dim=suite.action_dim,
        context=base.cfg.window,
        limit=suite.limit,
        target_return=base.scales.target,
        return_scale=base.scales.returns,
        standardize=base.scales.standardizer,
        stop_at_success=False,
        device=base.device,
    )


def nearest(x: Tensor, others: Tensor) -> float:
    """Mean over x [n, D] of the distance to the nearest of ``others`` [m, D], per dimension."""
    squares = (x.unsqueeze(1) - others.unsqueeze(0)).square().mean(-1)  # [n, m]
    return float(squares.min(1).values.mean())


def without_rewards(shape: PromptShape, prompt: Windows) -> Tensor:
    """Prompts as vectors, rewards left out. [B, K* (d_s + d_a)]"""
    return torch.cat((prompt.states, prompt.actions), -1).flatten(1)


def of_prompts(learner: Learner, prompt: Windows) -> dict[str, float]:
    """How far prompts are from the expert's and the pool's; where they point, of the point.

    Distances are squared, per number, to the nearest segment of the few episodes.
    """
    base, task = learner.base, task_of(learner.cfg.task)
    own, found = without_rewards(base.shape, prompt), {}
    for name, quality in (("expert", "expert"), ("pool", task.pool)):
        few = base.episodes((learner.goal,), quality, "few", learner.cfg.few)
        others, _ = few.every(base.shape.steps)
        found[f"{name}_distance"] = nearest(own, without_rewards(base.shape, others))
    if isinstance(base.world.suite, Point):
        found["alignment"] = float(pointing(learner.goal, prompt)[:, 0].mean())
    return found


def pointing(goal: float, prompt: Windows) -> Tensor:
    """Mean actions of a point's prompts along and across the task's direction. [B, 2]"""
    along = torch.tensor(unit(goal), dtype=torch.float32)
    turn = torch.stack((along, torch.stack((-along[1], along[0]))))
    return prompt.actions.mean(1).cpu() @ turn.T


@torch.no_grad()
def of_learner(learner: Learner) -> tuple[dict[str, float], list[list[float]]]:
    """Values of a test task, and where its prompts point (of the point)."""
    cfg, suite = learner.cfg, learner.base.world.suite
    generator = stream(learner.base.cfg.seed, EVALUATION, learner.goal)
    # the same prompt before the same start is the same episode
    n = 1 if suite.alike and learner.one_prompt else cfg.episodes
    prompt = prompts_of(learner, n, generator)
    done = outcomes(learner, prompt, n)
    low, high = suite.references(learner.goal)
    returned = float(done.returns.mean())
    found = {"score": (returned - low) / (high - low), "return": returned}
    if isinstance(suite, Reach):
        found["success"] = float(done.success.mean())
    points: list[list[float]] = []
    if isinstance(prompt, Windows):
        found.update(of_prompts(learner, prompt))
        if isinstance(suite, Point):
            drawn = pointing(learner.goal, prompt)
            points = drawn[drawn.isfinite().all(1)].tolist()
    return found, points


def of_log(found: Found, seeds: Sequence[int], lines: Sequence[Mapping[str, Any]]) -> None:
    """Curves of every seed, the mean over its test tasks."""
    for metric in CURVES:
        points = [(line["step"], line[metric]) for line in lines if metric in line]
        for i, seed in enumerate(seeds):
            there = [(step, values[i]) for step, values in points if values[i] is not None]
            if there:
                found.add(seed, metric, [v for _, v in there], step=[s for s, _ in there])


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    run_cfg.out = cfg.run  # where the policies are looked for
    device = setup(cfg.device, 0)
    final, found = run.final(), Found(run_cfg)
    modules = iter(final["modules"])
    extras = []
    for seed in run_cfg.seed:
        base, of, points = load_base(run_cfg, seed, device), {}, []
        for goal in task_of(run_cfg.task).test:
            learner = make_learner(base, run_cfg, goal, experts=False)
            if learner.module is not None:
                learner.module.load_state_dict(next(modules))
            of[goal], drawn = of_learner(learner)
            points += drawn
        found.by_task(seed, of)
        tuned = sum(p.numel() for p in learner.parameters)
        found.add(seed, "parameters", tuned)
        found.add(seed, "policy_parameters", sum(p.numel() for p in base.policy.parameters()))
        found.add(seed, "calls", run_cfg.calls)
        if points and not run_cfg.labels and seed == run_cfg.seed[0]:
            name = {"name": "pointing", "method": run_cfg.method, "task": run_cfg.task}
            extras.append({**name, "seed": seed, "data": np.round(points, 4).tolist()})
    found.add(run_cfg.seed[0], "seconds", final["seconds"])
    of_log(found, run_cfg.seed, run.metrics())
    run.write_eval(found.rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
