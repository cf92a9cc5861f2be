"""The configurations of the three stages, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError, choose
from papers.disf.method import Ask
from papers.disf.methods import METHODS
from papers.disf.shards import ENGINES
from papers.disf.task import TASKS, Task

ORDERS = ("shuffled", "crawl")
FEATURES = ("minilm", "contriever", "hashed")


@dataclass
class Config:
    """Select files and train a language model on them. None: the task's value."""

    method: str = "disf"  # see methods.METHODS
    task: str = "library"  # see task.TASKS
    seed: int = 0  # of the selection, of first weights and of the order of text
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    batch: int | None = None  # b, files that compete
    picks: int | None = None  # k, files taken of each batch
    features: str | None = None  # minilm, contriever or hashed
    files: int | None = None  # N, files to select from
    target: str | None = None  # domain of a targeted baseline
    order: str = "shuffled"  # of files: shuffled, or crawl
    steps: int | None = None  # of AdamW
    lr: float | None = None  # peak learning rate
    evaluations: int = 10  # points of a curve
    watched: int = 8  # windows of each domain for a point
    engine: str = "here"  # where groups of files are worked on: here, threads, ray, pyspark
    workers: int = 1  # of the engine


@dataclass
class GeometryConfig:
    """Select files, with several seeds, and look at their features; nothing is trained."""

    method: str = "disf"  # see methods.METHODS
    task: str = "library"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # one selection each
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    batch: int | None = None  # b, files that compete
    picks: int | None = None  # k, files taken of each batch
    features: str | None = None  # minilm, contriever or hashed
    files: int | None = None  # N, files to select from
    target: str | None = None  # domain of a targeted baseline
    order: str = "shuffled"  # of files: shuffled, or crawl
    sample: int = 128  # files of each selection whose spectrum is taken, the same for all
    engine: str = "here"  # where groups of files are worked on: here, threads, ray, pyspark
    workers: int = 1  # of the engine


@dataclass
class CheckConfig:
    """Greedy against all sets of small pools, or against the public code's loop in time."""

    method: str = "disf"  # see methods.METHODS
    task: str = "normals"  # normals or timing
    seed: tuple[int, ...] = (0,)  # a pool each
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    batch: int | None = None  # files of a pool
    picks: int | None = None  # of them taken
    width: int | None = None  # numbers of a vector: 4 (normals), 384 (timing)
    starts: int = 24  # selections of a pool


AnyConfig = Config | GeometryConfig | CheckConfig
VARIED = ("batch", "picks", "features", "target", "order", "steps", "lr", "files")


def task_of(cfg: AnyConfig) -> Task:
    """The task with the configuration's changes.

    Raises:
        UserError: for an unknown method or task, or numbers that make no sense.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    task = TASKS[cfg.task]
    there = {name: getattr(cfg, name, None) for name in (*VARIED, "width")}
    changes = {k: v for k, v in there.items() if v is not None and k != "order"}
    task = replace(task, **changes)
    choose("order", there["order"] or "shuffled", ORDERS)
    choose("features", task.features, FEATURES)
    choose("engine", getattr(cfg, "engine", "here"), ENGINES)
    for name in ("batch", "picks", "steps"):
        if getattr(task, name) < 1:
            raise UserError(f"--{name} is 1 or more, not {getattr(task, name)}")
    if task.picks > task.batch:
        raise UserError(f"--picks {task.picks} is more than --batch {task.batch}")
    checks = task.data in ("normals", "timing")
    if checks is not isinstance(cfg, CheckConfig):
        module = "papers.disf.checks" if checks else "papers.disf.geometry or papers.disf.train"
        raise UserError(f"the task {cfg.task} belongs to {module}")
    if isinstance(cfg, Config):
        if not 1 <= cfg.evaluations <= task.steps:
            raise UserError(f"--evaluations is 1 to --steps ({task.steps}), not {cfg.evaluations}")
        if not (task.lr > 0 and cfg.watched > 0):
            raise UserError("--lr and --watched are above 0")
    if isinstance(cfg, GeometryConfig) and cfg.sample < 3:
        raise UserError(f"--sample is 3 or more, not {cfg.sample}")
    if isinstance(cfg, CheckConfig) and task.data == "normals" and task.batch > 16:
        raise UserError("--batch is 16 at most for normals: all sets are looked at")
    return task


def ask_of(cfg: Config | GeometryConfig, task: Task, seed: int) -> Ask:
    """What a selection is asked for."""
    order: Any = cfg.order
    return Ask(task.batch, task.picks, seed, order, task.target, cfg.device)


def varied(cfg: AnyConfig) -> dict[str, Any]:
    """Labels of what is not the task's own."""
    task, found = TASKS[cfg.task], {}
    for name in VARIED:
        own = "shuffled" if name == "order" else getattr(task, name)
        value = getattr(cfg, name, None)
        if value is not None and value != own:
            found[name] = value
    return found


__all__ = [
    "VARIED",
    "CheckConfig",
    "Config",
    "GeometryConfig",
    "ask_of",
    "task_of",
    "varied",
]
