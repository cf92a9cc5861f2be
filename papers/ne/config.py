"""The configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError, choose
from papers.ne.method import NEConfig
from papers.ne.methods import METHODS
from papers.ne.task import SETTINGS, Setting

POLICY_DELAY = 2  # an update of the actor and the targets for so many of the critics
SWEPT = ("lr", "start_sparsity", "phases")  # by a grid; no claim reads rows with these labels


@dataclass
class Config:
    """One run of TD3, all seeds at once; what is None is the task's own (see task.SETTINGS)."""

    method: str = "ne"  # see methods.METHODS
    task: str = "cycle"  # see task.SETTINGS
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    labels: tuple[str, ...] = ()  # of SWEPT, those whose values the rows carry (a grid's)
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps of a seed, the warm-up included
    warm_up: int | None = None  # steps of random actions before the first update
    phases: int | None = None  # stretches of training; between them a direction flips
    limit: int | None = None  # steps of an episode
    eval_every: int | None = None  # steps between two evaluations
    episodes: int | None = None  # of an evaluation, in each direction
    batch: int | None = None  # transitions of an update and seed
    hidden: int | None = None  # units of the two hidden layers
    lr: float | None = None  # Adam's learning rate
    interval: int | None = None  # gradient steps between changes of the topology
    redo_every: int | None = None  # gradient steps between ReDo's recyclings
    capacity: int | None = None  # transitions that a seed's buffer holds
    start_sparsity: float = NEConfig.start_sparsity  # S_0 of what is sparse
    end_sparsity: float = NEConfig.end_sparsity  # S_1 of what grows
    omega: float = NEConfig.omega  # most connections pruned, of those grown
    gamma: float = 0.99  # discount
    tau: float = 0.005  # polyak step of the targets
    early: float = 0.3  # oldest share of the buffer, which is reviewed
    floor: float = 0.5  # least threshold of the review


def resolve(cfg: Config) -> tuple[Setting, NEConfig]:
    """The task's setting with the command line's changes, and the method's expansion.

    Raises:
        UserError: for an unknown method or task, or numbers that do not fit together.
    """
    choose("task", cfg.task, SETTINGS)
    setting = SETTINGS[cfg.task]
    given = {k: getattr(cfg, k) for k in vars(setting) if getattr(cfg, k, None) is not None}
    setting = replace(setting, **given)
    if setting.interval % POLICY_DELAY:
        raise UserError(f"--interval {setting.interval} is no multiple of {POLICY_DELAY}")
    if setting.steps <= setting.warm_up:
        raise UserError(
            f"--steps {setting.steps} leave nothing after a warm-up of {setting.warm_up}"
        )
    if setting.phases < 1:
        raise UserError(f"--phases {setting.phases}: training has one or more")
    if setting.phases > 1 and SETTINGS[cfg.task].phases == 1:
        raise UserError(f"--phases {setting.phases}: {cfg.task} has no direction that flips")
    return setting, expansion(METHODS[cfg.method].changes, cfg, setting.interval)


def expansion(changes: Mapping[str, Any], cfg: Any, interval: int) -> NEConfig:
    """Sparsities and omega of a configuration, with a method's changes.

    Raises:
        UserError: for shares that are none, a network that would shrink, or an unknown label.
    """
    for name in cfg.labels:
        choose("label", name, SWEPT)
    if not 0 <= cfg.end_sparsity <= cfg.start_sparsity < 1:
        raise UserError(
            "a network grows: give 0 <= --end-sparsity <= --start-sparsity < 1, "
            f"not {cfg.end_sparsity} and {cfg.start_sparsity}"
        )
    if not 0 <= cfg.omega < 1:
        raise UserError(f"--omega {cfg.omega} is no share below 1")
    own = {k: getattr(cfg, k) for k in ("start_sparsity", "end_sparsity", "omega")}
    return NEConfig(**{**own, **changes, "interval": interval})
