"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import choose
from papers.tdil.method import TDILConfig
from papers.tdil.methods import METHODS
from papers.tdil.task import SETTINGS, Setting

SWEPT = ("kappa", "lr", "log_alpha")  # given on the command line, they become labels of the rows


@dataclass
class Config:
    """One training run; what is None is the task's own (see task.SETTINGS)."""

    method: str = "tdil"  # see methods.METHODS
    task: str = "grid"  # see task.SETTINGS
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps per seed, the warm-up included
    warm_up: int | None = None  # steps before the first update
    eval_every: int | None = None  # steps between two evaluations
    episodes: int | None = None  # test episodes of an evaluation
    rho: float | None = None  # policy threshold
    filtered: bool | None = None  # whether the policy threshold is used
    kappa: float | None = None  # weight of the positives
    expert_critic: bool | None = None  # second critic step on the demonstration
    expert_states: int | None = None  # expert states per reward; 0: all
    batch: int | None = None  # transitions per update and seed
    hidden: int | None = None  # units per hidden layer
    lr: float | None = None  # Adam's learning rate of every network
    log_alpha: float | None = None  # fixed temperature; None: learned (discrete: it decays)


def resolve(cfg: Config) -> Setting:
    """The task's setting with the method's changes and then the command line's.

    Raises:
        UserError: for an unknown method or task.
    """
    method = METHODS[cfg.method]
    choose("task", cfg.task, SETTINGS)
    setting = SETTINGS[cfg.task]
    given = {k: v for k, v in vars(cfg).items() if v is not None}
    tdil = replace(setting.tdil, **method.changes)
    tdil = replace(tdil, **{k: v for k, v in given.items() if k in TDILConfig.__annotations__})
    own = {k: given[k] for k in ("steps", "eval_every", "episodes") if k in given}
    return replace(setting, tdil=tdil, **own)
