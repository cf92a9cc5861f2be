"""The configuration of a run, and the task that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.errors import UserError, choose
from papers.mst.method import Variation
from papers.mst.methods import METHODS
from papers.mst.task import TASKS, Task


@dataclass
class Config:
    """One training run. What is left at None is the task's (task.TASKS)."""

    method: str = "mst"  # see methods.METHODS
    task: str = "gpt2-tiny"  # see task.TASKS
    seed: int = 0  # of weights, batches, masks
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # T, iterations
    batch: int | None = None  # windows of an iteration
    lr: float | None = None  # peak learning rate
    every: int | None = None  # delta T, iterations between updates of the topology
    stride: int | None = None  # l of sparse attention
    mask_head: bool | None = None  # the tied head and embedding are sparse too
    schedule: Literal["level", "cosine"] | None = None  # of the learning rate
    text: Literal["library", "tenth", "installed", "openwebtext"] | None = None  # what is read
    # sparsity variation: method.Variation
    start: float = 0.5  # sparsity at the beginning of the warm-up (public code)
    peak: float = 0.9  # of the ultra phase (a configuration file of the public code)
    end: float = 0.0  # after the restoration
    warm_up: float = 0.10  # share of training
    restore: float = 0.80  # where the restoration begins
    restored: float = 0.95  # where it has ended
    # topology evolution
    zeta: float = 0.3  # largest share of connections dropped at an update (public code)
    stepwise: bool = False  # the cosine of that share begins anew in each phase
    reset_moments: bool = True  # Adam's, of connections that grow (public code: they stay)
    distribution: Literal["er", "uniform"] = "er"  # of the layers' densities
    # hybrid sparse attention
    pattern: Literal["local", "strided", "sparse", "fixed"] = "sparse"  # in the ultra phase
    # optimiser
    decay: float = 0.1  # weight decay of linear layers, not of embeddings and norms (public code)
    clip: float = 1.0  # norm of the gradient, masked (public code)
    # evaluation
    evaluations: int = 20  # points of a curve
    windows: int = 256  # of the validation text, for a point


def task_of(cfg: Config) -> Task:
    """The task with the configuration's changes.

    Raises:
        UserError: for an unknown method or task, or numbers that make no sense.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    names = ("steps", "batch", "lr", "every", "stride", "mask_head", "schedule", "text")
    changes = {name: getattr(cfg, name) for name in names if getattr(cfg, name) is not None}
    task = replace(TASKS[cfg.task], **changes)
    task = replace(task, micro=min(task.micro, task.batch))
    for name in ("steps", "batch", "every", "stride"):
        if getattr(task, name) < 1:
            raise UserError(f"--{name} is 1 or more, not {getattr(task, name)}")
    if task.batch % task.micro:
        raise UserError(f"--batch {task.batch} is no multiple of {task.micro}, computed at once")
    for name in ("start", "peak", "end"):
        if not 0 <= getattr(cfg, name) < 1:
            raise UserError(f"--{name} is a sparsity in [0, 1), not {getattr(cfg, name):g}")
    if not 0 <= cfg.warm_up < cfg.restore < cfg.restored <= 1:
        raise UserError(
            "the phases want 0 <= --warm-up < --restore < --restored <= 1, not "
            f"{cfg.warm_up:g}, {cfg.restore:g}, {cfg.restored:g}"
        )
    if not 0 <= cfg.zeta <= 1:
        raise UserError(f"--zeta is a share of the connections, in [0, 1], not {cfg.zeta:g}")
    if not 1 <= cfg.evaluations <= task.steps:
        raise UserError(f"--evaluations is 1 to --steps ({task.steps}), not {cfg.evaluations}")
    if cfg.windows < 1:
        raise UserError(f"--windows is 1 or more, not {cfg.windows}")
    return task


def variation_of(cfg: Config) -> Variation:
    """Sparsity variation as configured."""
    names = ("start", "peak", "end", "warm_up", "restore", "restored")
    return Variation(**{name: getattr(cfg, name) for name in names})
