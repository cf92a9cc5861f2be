"""Configurations of the three kinds of runs, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from common.errors import UserError, choose
from papers.sewa.method import Selection
from papers.sewa.methods import METHODS
from papers.sewa.task import TASKS, Task

TRAININGS = ("plain", "online", "online-lawa")  # methods of the first stage
SHARED = ("steps", "k", "interval", "examples", "episodes", "limit")


@dataclass
class TrajectoryConfig:
    """Stage 1: one training, whose last snapshots are kept. What is None is the task's."""

    method: str = "plain"  # see config.TRAININGS
    task: str = "digits"  # see task.TASKS
    seed: int = 0  # of data, weights, batches
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # of training
    k: int | None = None  # snapshots
    interval: int | None = None  # steps between two of them
    examples: int | None = None  # of training; episodes, where there are demonstrations
    episodes: int | None = None  # of the test
    limit: int | None = None  # steps of an episode
    K: int | None = None  # averaged by the online mode
    iterations: int = 300  # of mask learning in the online mode
    samples: int = 4  # M, likewise
    decay: float = 0.999  # of the moving average over every step


@dataclass
class Config:
    """Stage 2: snapshots of one or several seeds are averaged."""

    method: str = "sewa"  # see methods.METHODS
    task: str = "digits"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # one after the other
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    trajectories: Path | None = None  # folder with seed-S of stage 1; default: beside this run
    K: tuple[int, ...] | None = None  # how many are averaged; default: the task's
    window: float = 1.0  # share of the snapshots, the latest, that can be chosen
    # the mask: method.Selection
    lr: float | None = None  # default: the method's, see methods.METHODS
    iterations: int = 300
    samples: int = 4
    tau: float = 1.0


@dataclass
class NeighboursConfig:
    """Logistic regression on two data sets that differ in one example."""

    method: str = "sewa"  # sewa or a baseline without a training loss
    task: str = "neighbours"  # the only one
    seed: tuple[int, ...] = (0,)  # pairs of data sets
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu
    n: int = 200  # examples
    steps: int = 2000  # T
    k: int = 50  # last iterates; half of T is tried as well
    K: int = 10  # averaged
    iterations: int = 300  # of mask learning


def of_training(cfg: TrajectoryConfig) -> Task:
    """The task with the configuration's changes.

    Raises:
        UserError: for an unknown training or task, or numbers that make no sense.
    """
    choose("training", cfg.method, TRAININGS)
    choose("task", cfg.task, TASKS)
    named = {name: getattr(cfg, name) for name in (*SHARED, "K")}
    task = replace(TASKS[cfg.task], **{k: v for k, v in named.items() if v is not None})
    if task.of:
        raise UserError(f"{cfg.task} uses the training of {task.of}; train that")
    for name in ("steps", "k", "interval", "examples", "episodes", "limit"):
        if named[name] is not None and named[name] < 1:
            raise UserError(f"--{name} is 1 or more, not {named[name]}")
    if (task.k - 1) * task.interval >= task.steps:
        raise UserError(
            f"{task.k} snapshots {task.interval} steps apart want more than "
            f"{(task.k - 1) * task.interval} steps, not {task.steps}"
        )
    if cfg.method != "plain" and not 1 <= task.K <= task.k:
        raise UserError(f"--K is 1 to --k ({task.k}), not {task.K}")
    if not 0 <= cfg.decay < 1:
        raise UserError(f"--decay is in [0, 1), not {cfg.decay:g}")
    return task


def selection_of(cfg: Config) -> Selection:
    """The mask's settings.

    Raises:
        UserError: for an unknown method or task, or numbers that make no sense.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    for name in ("lr", "tau"):
        if (value := getattr(cfg, name)) is not None and value <= 0:
            raise UserError(f"--{name} is positive, not {value:g}")
    for name in ("iterations", "samples"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name} is 1 or more, not {getattr(cfg, name)}")
    if not 0 < cfg.window <= 1:
        raise UserError(f"--window is a share of the snapshots, in (0, 1], not {cfg.window:g}")
    if not cfg.seed or len(set(cfg.seed)) < len(cfg.seed):
        raise UserError(f"--seed is one or several different seeds, not {cfg.seed}")
    known = {f.name for f in fields(Selection)}
    asked = {k: v for k, v in vars(cfg).items() if k in known and v is not None}
    return Selection(**{"lr": METHODS[cfg.method].lr, **asked})


def sizes(cfg: Config) -> tuple[int, ...]:
    """K of each average of a run: one where the method does not depend on it."""
    asked = cfg.K or (TASKS[cfg.task].K,)
    return asked if METHODS[cfg.method].sized else asked[:1]
