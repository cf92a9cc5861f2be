"""The configuration of a run, and what follows from it for a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UserError, choose
from papers.commformer.methods import METHODS
from papers.commformer.task import TASKS, Settings


@dataclass
class Config:
    """One training run. What is left at None is the task's (task.TASKS)."""

    method: str = "commformer"  # see methods.METHODS
    task: str = "pp-5"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps
    n_envs: int | None = None  # environments side by side
    horizon: int | None = None  # steps of each per update
    epochs: int | None = None  # PPO epochs per update; every fifth is the graph's
    mini_batches: int | None = None  # into which the samples of an epoch are divided
    clip: float | None = None  # of PPO's ratio and of the value's change
    lr: float | None = None  # of the networks
    graph_lr: float = 1e-4  # of the graph (authors' code)
    sparsity: float = 0.4  # S: a row has max(floor(N S), 1) edges (paper)
    warmup: int | None = None  # updates with the full graph
    post_ratio: float | None = None  # share of updates after which the graph is sampled no more
    diagonal: str | None = None  # added or replaced
    gate_penalty: float | None = None  # lambda_g (the method's own)
    width: int = 64  # of the networks (authors' code)
    dropout: float = 0.1  # in the encoder while training (authors' code)
    evaluate_every: int = 2  # updates
    episodes: int = 256  # of an evaluation, one per environment


def settings_of(cfg: Config) -> Settings:
    """The task's settings with the configuration's changes.

    Raises:
        UserError: for an unknown method or task, or numbers that make no sense.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    names = ("steps", "n_envs", "horizon", "epochs", "mini_batches", "clip", "lr")
    graph = ("warmup", "post_ratio", "diagonal")
    changes = {n: getattr(cfg, n) for n in (*names, *graph) if getattr(cfg, n) is not None}
    settings = replace(TASKS[cfg.task], **changes)
    choose("diagonal", settings.diagonal, ("added", "replaced"))
    if not 0 < cfg.sparsity <= 1:
        raise UserError(f"--sparsity is a share of the edges, in (0, 1], not {cfg.sparsity:g}")
    if settings.steps < settings.n_envs * settings.horizon:
        raise UserError(
            f"--steps {settings.steps} is less than one update: "
            f"{settings.n_envs} environments x {settings.horizon} steps"
        )
    return settings


def updates_of(settings: Settings) -> int:
    """How many updates a run has."""
    return settings.steps // (settings.n_envs * settings.horizon)
