"""The configuration of a run, and what follows from it for an environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UserError, choose
from papers.meow.methods import METHODS
from papers.meow.task import TASKS, Settings


@dataclass
class Config:
    """One training run. What is left at None is the environment's (task.TASKS) or the method's."""

    method: str = "meow"  # see methods.METHODS
    task: str = "multigoal"  # environment (see task.TASKS)
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps
    learning_starts: int | None = None  # steps with uniform actions and no update
    batch: int = 256  # transitions per update
    lr: float | None = None  # Adam's learning rate (MEow 1e-3, SAC 3e-4)
    tau: float | None = None  # step of the slow copy (the method's own, else per environment)
    alpha: float | None = None  # MEow's temperature (per environment)
    evaluate_every: int | None = None  # steps between evaluations (MuJoCo)
    episodes: int | None = None  # episodes of an evaluation (MuJoCo)
    quick: bool = False  # a coarse evaluation of multi-goal (smoke)
    checkpoint_every: int = 1  # a checkpoint falls on a multiple of it (buffers can be large)


def settings_of(cfg: Config) -> Settings:
    """The environment's settings with the method's and the configuration's changes.

    Raises:
        UserError: for an unknown method or task, or a run that would learn nothing.
    """
    method = METHODS[cfg.method]
    choose("task", cfg.task, TASKS)
    names = ("steps", "learning_starts", "tau", "alpha", "evaluate_every", "episodes")
    changes = {n: getattr(cfg, n) for n in names if getattr(cfg, n) is not None}
    if method.tau is not None:
        changes.setdefault("tau", method.tau)
    settings = replace(TASKS[cfg.task], **changes)
    if settings.learning_starts >= settings.steps:
        raise UserError(
            f"--steps {settings.steps} must exceed --learning-starts {settings.learning_starts}"
        )
    return settings
