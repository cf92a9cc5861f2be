"""The configurations of the two stages, and the task with what they change of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common import files
from common.errors import UserError
from common.run import Run
from papers.dlsm.methods import CIFAR, METHODS, Guide, entry
from papers.dlsm.task import ImageNetworks, Task, make_task


@dataclass
class Shared:
    """What both stages have. A hyperparameter that is 0 or None is the task's (see task.py)."""

    method: str = ""  # see methods.METHODS
    task: str = "moons"  # moons, digits, cifar10 or cifar100
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 0  # gradient steps
    batch: int = 0  # points per step and seed
    lr: float = 0.0  # Adam's learning rate
    weight: float | None = None  # exponent w of the loss' noise-level weight sigma^(2w)
    log_every: int = 250  # steps between two lines of metrics
    samples: int = 0  # evaluation: generated points per class
    sampler_steps: int = 0  # evaluation: noise levels (PC) or Langevin steps (moons)
    cas_steps: int = 0  # evaluation: training steps of the network that is trained on samples
    draws: int = 20_000  # evaluation on moons: fresh noisy points for the cross-entropy
    sample_batch: int = 500  # evaluation: images generated at a time
    inception: bool = False  # evaluation on CIFAR: FID, IS, features by Inception (torch-fidelity)
    images: ImageNetworks = field(default_factory=ImageNetworks)  # sizes of CIFAR's networks


@dataclass
class ScoreConfig(Shared):
    """A run of score models: stage 1 ("score"), or one per class ("posterior")."""

    method: str = "score"  # score or posterior
    weights: str = ""  # on CIFAR: a diffusers UNet2DModel in $PAPERS_DATA instead of training

    @property
    def model(self) -> Guide:
        """The method's entry in the table.

        Raises:
            UserError: for an unknown task, or a method that is not for it.
        """
        return entry(self.method, self.task, "score")


@dataclass
class Config(Shared):
    """A run of classifiers: stage 2, the score model frozen."""

    method: str = "total"  # total, dlsm or base
    prior: Path | None = None  # run directory of stage 1; None: where the runner has put it
    prior_seed: int | None = None  # CIFAR: every seed takes the score model of this one
    lambda_ce: float | None = None  # weight of cross-entropy in total

    @property
    def model(self) -> Guide:
        """The method's entry in the table.

        Raises:
            UserError: for an unknown task, or a method that is not for it.
        """
        return entry(self.method, self.task, "classifier")


def of_run(run: Run) -> Config | ScoreConfig:
    """The configuration of a run of either stage."""
    values = files.read_json(run.folder / "config.json")
    made: Config | ScoreConfig
    made = run.config(ScoreConfig if METHODS[values["method"]].kind == "score" else Config)
    made.out = run.folder
    return made


def resolve(cfg: Config | ScoreConfig) -> Task:
    """The task with the configuration's hyperparameters.

    Raises:
        UserError: for an unknown method or task, or one that does not fit the other.
    """
    guide, on_cifar = cfg.model, cfg.task in CIFAR
    if on_cifar and len(cfg.seed) > 1:
        raise UserError("CIFAR trains one seed per job; networks this large are not stacked")
    if cfg.inception and not on_cifar:
        raise UserError("--inception is for CIFAR")
    stage = ""
    changes: dict[str, Any] = {}
    if isinstance(cfg, ScoreConfig):
        stage = "score_"
        if cfg.weights and (not on_cifar or guide.per_class):
            raise UserError("--weights are those of CIFAR's score model: --method score")
    else:
        if cfg.prior_seed is not None and not on_cifar:
            raise UserError("--prior-seed is for CIFAR; moons and digits have one for each seed")
        if cfg.lambda_ce is not None:
            changes["lambda_ce"] = cfg.lambda_ce
    given = {f"{stage}{name}": getattr(cfg, name) for name in ("steps", "batch", "lr")}
    given |= {name: getattr(cfg, name) for name in ("samples", "sampler_steps", "cas_steps")}
    changes |= {name: value for name, value in given.items() if value}
    if cfg.weight is not None:
        changes[f"{stage}weight"] = cfg.weight
    return replace(make_task(cfg.task), **changes)


def labels(cfg: Config | ScoreConfig) -> dict[str, float]:
    """Labels of a run's rows: the losses' settings that are not the task's."""
    found = {"lr": cfg.lr or None, "weight": cfg.weight}
    if isinstance(cfg, Config):
        found["lambda_ce"] = cfg.lambda_ce
    return {name: float(value) for name, value in found.items() if value is not None}
