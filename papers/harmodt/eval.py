"""A run directory -> rows: success on goals that no data hold, errors of actions, masks, gates.

Everything is of the last iterate; nothing is chosen by an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.control.behaviour import average_actions, expert_outcomes
from common.control.decision_rollout import Outcomes, rollout
from common.control.metaworld_goals import GoalData
from common.control.sequences import action_loss, sequence_data, windows_at
from common.control.trajectories import joined
from common.run import Run
from common.torch_utils import setup
from papers.harmodt.acting import (
    Act,
    Actor,
    beliefs,
    by_group,
    load_actor,
    policy_of,
    unseen_policy,
)
from papers.harmodt.config import Config
from papers.harmodt.learning import Task, World, make_net, make_task, make_world
from papers.harmodt.methods import METHODS
from papers.harmodt.task import (
    ACTION_DIM,
    SUITES,
    Demonstrations,
    behaviour,
    demonstrations,
    goal_batch,
)
from papers.harmodt.train import first_masks, fresh_masks

LATE = 20  # steps after which an episode's motion should have told its group
CURVES = ("loss", "gate_loss", "conflict_dense", "conflict_masked")
CURVES += ("conflict_dense_cosine", "conflict_masked_cosine", "repeat_drop", "repeat_recover")


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


class Found:
    """Rows as they come."""

    def __init__(self, cfg: Config) -> None:
        self.name: dict[str, Any] = {"method": cfg.method, "task": cfg.task, "seed": cfg.seed}
        values = {name: getattr(cfg, name) for name in cfg.labels}
        self.labels = {**values, **({"lr": cfg.rate} if "lr" in values else {})}
        self.rows: list[dict[str, Any]] = []

    def add(self, metric: str, value: Any, **labels: Any) -> None:
        """One value, or a curve with ``step``."""
        self.rows.append({**self.name, "metric": metric, "value": value, **labels, **self.labels})

    def by_task(self, metric: str, values: Mapping[str, float]) -> None:
        """A value per task, called ``task_…``, and their mean."""
        for task, value in values.items():
            self.add(f"task_{metric}", float(value), subtask=task)
        self.add(metric, float(np.mean(list(values.values()))))


def outcomes(cfg: Config, task: Task, act: Act) -> Outcomes:
    """Episodes of a policy on the evaluation's goals."""
    return rollout(
        goal_batch(task.name, cfg.first_goal, cfg.goals),
        act,
        action_dim=ACTION_DIM,
        context=cfg.window,
        limit=SUITES[cfg.task].limit,
        target_return=task.scales.reward,
        return_scale=task.scales.reward,
        standardize=task.scales.standardizer,
        device=task.data.states.device,
    )


def rolled_out(found: Found, done: Mapping[str, Outcomes], prefix: str = "") -> None:
    """Rows of success and return."""
    found.by_task(f"{prefix}success", {t: o.success.mean() for t, o in done.items()})
    found.by_task(f"{prefix}return", {t: o.returns.mean() for t, o in done.items()})


@torch.no_grad()
def held_out_error(actor: Actor, world: World, k: int) -> dict[str, float]:
    """Mean squared errors of actions on a task's held-out episodes, and the gate's accuracy.

    Episodes are cut into windows of K steps. ``action_error`` is against the behaviour's mean
    action (see ``task.Demonstrations``), ``imitation_error`` against what was done, and
    ``misled_error`` is the first with the next task's prompt: whether prompts are read. A gate's
    group is the one believed in after the first step of a window.
    """
    cfg, task = world.cfg, world.tasks[k]
    trajectories = joined(task.source.held_out)
    data = sequence_data(
        trajectories,
        return_scale=task.scales.reward,
        standardizer=task.scales.standardizer,
        device=task.data.states.device,
    )
    wanted = torch.from_numpy(np.concatenate(task.source.wanted)).to(data.actions.device)
    first = torch.from_numpy(np.flatnonzero(trajectories.timesteps % cfg.window == 0))
    windows = windows_at(data, first, cfg.window)
    aims = windows_at(replace(data, actions=wanted), first, cfg.window)
    found = {}
    if actor.gate is None:
        net, prompt = actor.nets[int(actor.groups[k])], world.prompt(task, len(first))
        predicted = net(world.told(windows, k), prompt)
        if prompt is not None:
            other = world.tasks[(k + 1) % len(world.tasks)]
            misled = net(windows, world.prompt(other, len(first)))
            found["misled_error"] = float(action_loss(misled, aims))
    else:
        episodes = data.states.view(len(task.source.held_out), -1, data.states.shape[1])
        believed = beliefs(actor.gate, episodes, cfg.window)  # [E, T]
        right = (believed == int(actor.groups[k])).double()
        found = {"gate_first": float(right[:, 0].mean()), "gate_late": _late(right)}
        predicted = by_group(actor.nets, windows, believed.flatten()[first.to(believed.device)])
    found["action_error"] = float(action_loss(predicted, aims))
    found["imitation_error"] = float(action_loss(predicted, windows))
    return found


def _late(right: Tensor) -> float:
    return float(right[:, min(LATE, right.shape[1] - 1) :].mean())


def jaccard(one: Tensor, other: Tensor) -> Tensor:
    """|A and B| / |A or B| of masks [..., D]."""
    return (one & other).sum(-1) / (one | other).sum(-1)


def of_masks(found: Found, cfg: Config, actor: Actor) -> list[dict[str, Any]]:
    """Rows of how far masks have moved and how much they share; their overlaps for a figure."""
    masks = actor.masks.cpu()
    found.add("density", float(masks.double().mean()))
    if METHODS[cfg.method].masks == "none":
        return []
    net = make_net(cfg)
    begun = fresh_masks(cfg, net, len(masks)) if actor.gate else first_masks(cfg, net)[0]
    found.add("kept_masks", float(jaccard(masks, begun).mean()))
    overlap = jaccard(masks.unsqueeze(0), masks.unsqueeze(1))  # [M, M]
    i, j = torch.triu_indices(*overlap.shape, offset=1).unbind()
    found.add("shared_masks", float(overlap[i, j].mean()))
    extra = {"name": "overlap", "method": cfg.method, "task": cfg.task, "seed": cfg.seed}
    return [] if cfg.labels else [{**extra, "data": overlap.tolist()}]


def of_unseen(found: Found, actor: Actor, world: World, device: torch.device) -> None:
    """Rows of the suite's unseen tasks, by a prompt or by nothing."""
    cfg, suite = world.cfg, SUITES[world.cfg.task]
    if not suite.unseen or METHODS[cfg.method].told == "one-hot":
        return
    shared = world.tasks[0].scales if METHODS[cfg.method].told == "nothing" else None
    done = {}
    for name in suite.unseen:
        source = demonstrations(suite, name, cfg.first_goal, cfg.goals, cfg.episodes)
        task = make_task(cfg, name, source, shared, device)
        done[name] = outcomes(cfg, task, unseen_policy(actor, world, task, cfg.goals))
    rolled_out(found, done, "unseen_")


def reference_error(source: Demonstrations, config: GoalData | None) -> float:
    """Held-out action error of the expert without noise, or of its behaviour's mean.

    The second is where a regression ends that does not learn sigma from an episode's past.
    """
    acted = np.concatenate([e.infos["expert_action"] for e in source.held_out])
    if config is not None:
        acted = average_actions(acted, config)
    return float(np.square(acted - np.concatenate(source.wanted)).mean())


def of_expert(found: Found, cfg: Config) -> None:
    """Rows of the scripted expert, without noise or by its behaviour's mean; and of the data."""
    suite = SUITES[cfg.task]
    done, errors, behaved = {}, {}, {}
    by_mean = METHODS[cfg.method].kind == "mean"
    for name in suite.tasks:
        batch = goal_batch(name, cfg.first_goal, cfg.goals)
        config = behaviour(suite, name) if by_mean else None
        done[name] = expert_outcomes(batch, name, suite.limit, config)
        source = demonstrations(suite, name, cfg.first_goal, cfg.goals, cfg.episodes)
        errors[name] = reference_error(source, config)
        behaved[name] = source.behaviour_success
    rolled_out(found, done)
    found.by_task("action_error", errors)
    found.by_task("behaviour", behaved)


def of_log(found: Found, lines: Sequence[Mapping[str, Any]]) -> None:
    """Curves."""
    for metric in CURVES:
        points = [(line["step"], line[metric]) for line in lines if metric in line]
        if points:
            steps, values = (list(part) for part in zip(*points, strict=True))
            found.add(metric, values, step=steps)


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    device = setup(cfg.device, 0)
    found = Found(run_cfg)
    if METHODS[run_cfg.method].kind in ("expert", "mean"):
        of_expert(found, run_cfg)
        run.write_eval(found.rows)
        return
    world = make_world(run_cfg, device)
    actor = load_actor(run_cfg, run.final(), device)
    n = run_cfg.goals
    if run_cfg.acts:
        done = {
            task.name: outcomes(run_cfg, task, policy_of(actor, world, k, n))
            for k, task in enumerate(world.tasks)
        }
        rolled_out(found, done)
        of_unseen(found, actor, world, device)
    errors = {t.name: held_out_error(actor, world, k) for k, t in enumerate(world.tasks)}
    for metric in next(iter(errors.values())):
        found.by_task(metric, {name: of[metric] for name, of in errors.items()})
    if actor.gate is not None:
        for task, group in zip(world.tasks, actor.groups.tolist(), strict=True):
            found.add("group", group, subtask=task.name)
    of_log(found, run.metrics())
    run.write_eval(found.rows, of_masks(found, run_cfg, actor))


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
