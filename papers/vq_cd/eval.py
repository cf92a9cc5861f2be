"""A run directory -> rows: scores after each task, what is forgotten, errors of latents.

Everything is of the weights that act once the last task was learned; nothing is chosen by an
evaluation. R[i, j] is the score on task j after task i.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.cli import run_cli
from common.control.continual import average_performance, due, forgetting, unknown
from common.run import Run
from common.stacked import randint, randn, seed_generators
from common.timing import alternately
from common.torch_utils import setup
from papers.vq_cd.acting import Learned, Planning, load_learned, rollout
from papers.vq_cd.config import Config
from papers.vq_cd.learning import clean_part, diffused, identity, run_with
from papers.vq_cd.method import QuantizedSpace, condition, noise_loss, perplexity, schedule
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import offline, sequence_of

PROBING = 10  # stream of random numbers
PROBES = 256  # held-out windows of each task that outputs and losses are measured on
POINTS = 2_048  # held-out steps that latents are measured on
WHOLE_TRIANGLE = 4  # tasks up to which R[i, j] is evaluated for all j <= i
TIMINGS = 5  # repeats
Floats = NDArray[np.float64]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


class Found:
    """Rows as they come, one per seed."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.rows = cfg, list[dict[str, Any]]()
        values = {name: getattr(cfg, name) for name in cfg.labels}
        if "lr" in values:
            values["lr"] = cfg.rate
        if "elastic" in values:
            values["elastic"] = cfg.strength
        self.labels = values

    def add(self, metric: str, values: Sequence[Any] | Floats | Tensor, **labels: Any) -> None:
        """A value (or a curve with ``step``) of each seed [S]."""
        name = {"method": self.cfg.method, "task": self.cfg.task}
        for seed, value in zip(self.cfg.seed, np.asarray(values).tolist(), strict=True):
            row = {**name, "seed": seed, "metric": metric, "value": value}
            self.rows.append({**row, **labels, **self.labels})

    def by_task(self, metric: str, values: Mapping[str, Any], mean: str = "") -> None:
        """Values [S] by task, called ``task_…``, and their mean."""
        arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
        for name, value in arrays.items():
            self.add(f"task_{metric}", value, subtask=name)
        self.add(mean or metric, np.mean(list(arrays.values()), 0))


# -- scores -----------------------------------------------------------------------------------


def scores(learned: Learned, task: int, weights: Mapping[str, Tensor], **how: Any) -> Floats:
    """Scores of episodes of a task, the same starts for all seeds and methods. [S, E]"""
    cfg = learned.world.cfg
    source = offline(learned.world.domains[task])
    returns, success = rollout(
        source.batch(len(cfg.seed), cfg.episodes),
        Planning(learned, task, weights, **how),
        len(cfg.seed),
        source.limit,
        stop_at_success=source.by_success,
    )
    return source.scores(returns, success)


def pairs(n_tasks: int) -> Iterator[tuple[int, int]]:
    """Which R[i, j] are evaluated: all j <= i of few tasks, else j = i and the last row."""
    for i in range(n_tasks):
        for j in range(i + 1) if n_tasks <= WHOLE_TRIANGLE else due(i, n_tasks):
            yield i, j


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of parameters are equal, number by number."""
    return all(torch.equal(value, other[name]) for name, value in one.items())


def matrix(learned: Learned) -> Floats:
    """R[i + 1, j] of each seed, unbounded, NaN where nothing was evaluated. [S, I + 1, I]

    Where a task's weights are those of an earlier row, bit for bit, so is its score.
    """
    cfg, shares = learned.world.cfg, learned.shares
    n = len(learned.world.tasks)
    found = np.stack([unknown(n) for _ in cfg.seed])
    at_once = METHODS[cfg.method].data == "at once"
    for i, j in pairs(n):
        if at_once and i < n - 1:
            continue
        weights = shares.at(i, j)
        if i > j and not at_once and same(weights, shares.at(j, j)):
            found[:, i + 1, j] = found[:, j + 1, j]
        else:
            found[:, i + 1, j] = scores(learned, j, weights).mean(1)
    return found


def of_scores(found: Found, learned: Learned) -> list[dict[str, Any]]:
    """Rows of R and of its summaries; the matrix for a figure."""
    cfg, table = found.cfg, matrix(learned)
    names = [task.name for task in learned.world.tasks]
    sources = [offline(domain) for domain in learned.world.domains]
    found.by_task("raw", {name: table[:, -1, j] for j, name in enumerate(names)})
    table = np.stack([of.bounded(table[..., j]) for j, of in enumerate(sources)], -1)
    found.by_task("end", {name: table[:, -1, j] for j, name in enumerate(names)}, mean="end")
    found.add("score", [average_performance(r) for r in table])
    if METHODS[cfg.method].data != "at once":
        own = {name: table[:, j + 1, j] for j, name in enumerate(names)}
        found.by_task("own", own)
        found.add("forgetting", [forgetting(r) for r in table])
    for i, after in enumerate(names):
        for j, name in enumerate(names):
            if np.isfinite(table[:, i + 1, j]).all():
                found.add("R", table[:, i + 1, j], after=after, subtask=name)
    for target in cfg.more_targets:
        end = [
            scores(learned, j, learned.shares.at(len(names) - 1, j), target=target)
            for j in range(len(names))
        ]
        means = [of.bounded(e.mean(1)) for of, e in zip(sources, end, strict=True)]
        found.add("score_at", np.mean(means, 0), target=target)
    shown = [[None if np.isnan(x) else float(x) for x in row] for row in table[:, 1:].mean(0)]
    extra = {"name": "matrix", "method": cfg.method, "task": cfg.task, "seed": cfg.seed[0]}
    return [] if cfg.labels else [{**extra, "tasks": names, "data": shown}]


# -- outputs and losses -----------------------------------------------------------------------


@torch.no_grad()
def of_outputs(found: Found, learned: Learned) -> None:
    """Rows of how far a task's outputs have moved since it was learned, and of held-out losses.

    ``output_change``: of the weights that act; ``unassembled_change``: of the last checkpoint's
    under the task's mask. Largest over tasks of |new - old| / |old|.
    """
    cfg, world, shares = found.cfg, learned.world, learned.shares
    noise, last = schedule(cfg.diffusion_steps), len(world.tasks) - 1
    changes: dict[str, list[Tensor]] = {"output_change": [], "unassembled_change": []}
    losses = {}
    for j, task in enumerate(world.tasks):
        drawing = seed_generators(cfg.seed, 100 * PROBING + j, task.states.device)
        batch = task.windows(
            randint(drawing, len(task.arrays.held), PROBES), cfg.horizon, held=True
        )
        x = diffused(cfg, batch)
        n, epsilon = randint(drawing, len(noise), PROBES), randn(drawing, *x.shape[1:])
        named = identity(cfg, j, batch.returns)
        given = condition(batch.returns, torch.ones_like(batch.returns), named)
        denoise = run_with(learned.net, shares.at(last, j))
        clean = clean_part(cfg, world, x)
        losses[task.name] = noise_loss(denoise, x, n, epsilon, given, noise, clean=clean).cpu()
        if METHODS[cfg.method].data == "at once":
            continue
        old = run_with(learned.net, shares.at(j, j))(x, n, given)
        for metric, acts in (("output_change", None), ("unassembled_change", "last")):
            new = run_with(learned.net, shares.at(last, j, acts))(x, n, given)  # type: ignore[arg-type]
            moved = (new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)
            changes[metric].append(moved.cpu())
    found.by_task("noise_loss", losses)
    for metric, values in changes.items():
        if values:
            found.add(metric, torch.stack(values).amax(0))


@torch.no_grad()
def of_spaces(found: Found, learned: Learned) -> None:
    """Rows of the latents: error of the reconstruction over the variance, codes in use, range."""
    errors: dict[str, dict[str, Tensor]] = {"state_error": {}, "action_error": {}}
    used: dict[str, Tensor] = {}
    largest = []
    for task in learned.world.tasks:
        held = torch.nonzero(~task.arrays.training).squeeze(1)
        at = held[torch.linspace(0, len(held) - 1, min(POINTS, len(held))).long()]
        for metric, space, values in zip(
            errors, task.spaces, (task.arrays.states, task.arrays.actions), strict=True
        ):
            x = values[at.to(values.device)].expand(len(found.cfg.seed), -1, -1)
            x = x.to(task.states.device)
            error = (space.decode(space.encode(x)) - x).square().mean((1, 2))
            errors[metric][task.name] = (error / x.var(1).mean(1)).cpu()
            if isinstance(space, QuantizedSpace) and metric == "state_error":
                index = space.quantized(space.encoder(x))[1]
                used[task.name] = perplexity(index, space.codes.shape[1]).cpu()
        largest.append(task.states.abs().amax((1, 2)).cpu())
    for metric, of in errors.items():
        found.by_task(metric, of)
    if used:
        found.by_task("perplexity", used)
    found.add("largest_latent", torch.stack(largest).amax(0))


def of_size(found: Found, learned: Learned) -> None:
    """Rows of how many numbers of the denoiser have to be kept to act on all tasks."""
    method, n = METHODS[found.cfg.method], len(learned.world.tasks)
    sizes = {name: p[0].numel() for name, p in learned.net.named_parameters()}
    total = sum(sizes.values()) * (n if method.acts == "own" else 1)
    total += (n - 1) * sum(sizes[name] for name in learned.shares.own)
    found.add("parameters", [total] * len(found.cfg.seed))


def of_steps(found: Found, learned: Learned) -> None:
    """Rows of the first task acted with few and with many steps of DDIM: calls, time, scores."""
    cfg, source = found.cfg, offline(learned.world.domains[0])
    weights = learned.shares.at(len(learned.world.tasks) - 1, 0)
    observation = source.batch(1, 1).observations
    one = np.broadcast_to(observation, (len(cfg.seed), *observation.shape))
    both = {k: Planning(learned, 0, weights, steps=k) for k in (cfg.acting_steps, cfg.more_steps)}
    for steps, planning in both.items():
        planning(one)
        found.add("calls", [planning.calls] * len(cfg.seed), steps=steps)
    sides = {str(k): lambda planning=planning: planning(one) for k, planning in both.items()}
    for name, milliseconds in alternately(sides, TIMINGS).items():
        found.add("seconds_action", [milliseconds / 1e3] * len(cfg.seed), steps=int(name))
    for steps in both:
        of_episodes = scores(learned, 0, weights, steps=steps)
        for e in range(cfg.episodes):
            found.add("episode_score", of_episodes[:, e], steps=steps, episode=e)


def of_log(found: Found, lines: Sequence[Mapping[str, Any]]) -> None:
    """Curves of the training losses."""
    for metric in ("loss", "inverse_loss"):
        steps = [line["step"] for line in lines]
        values = np.array([line[metric] for line in lines], np.float64)  # [T, S]
        if steps:
            found.add(metric, values.T, step=steps)


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg, device = run.config(Config), setup(cfg.device, 0)
    found = Found(run_cfg)
    if METHODS[run_cfg.method].kind == "behaviour":
        means = {d.name: [offline(d).behaviour()] for d in sequence_of(run_cfg.task)}
        many = len(run_cfg.seed)
        found.by_task("end", {n: m * many for n, m in means.items()})
        found.add("score", [float(np.mean(list(means.values())))] * many)
        run.write_eval(found.rows)
        return
    learned = load_learned(run, device)
    extras = of_scores(found, learned) if run_cfg.episodes else []
    of_outputs(found, learned)
    of_spaces(found, learned)
    of_size(found, learned)
    if run_cfg.more_steps and run_cfg.episodes:
        of_steps(found, learned)
    of_log(found, run.metrics())
    run.write_eval(found.rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
