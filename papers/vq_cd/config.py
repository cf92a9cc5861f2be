"""The configurations of runs. Comments give the paper's values (Table 3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, choose
from papers.vq_cd.methods import METHODS
from papers.vq_cd.task import aligned, sequence_of

SPACES = ("vq", "ae", "vae")


@dataclass
class Config:
    """One run: a method on a sequence of tasks, all seeds at once."""

    method: str = "vq_cd"  # see methods.METHODS
    task: str = "spaces-rsh"  # sequence of tasks, see task.SEQUENCES
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    spaces: Path | None = None  # run of papers.vq_cd.align; default: beside this one's stage
    steps: int = 5_000  # updates of a task (500,000)
    batch: int = 32  # windows of an update (32)
    width: int = 32  # channels of the U-Net's first level (256)
    multipliers: tuple[int, ...] = (1, 2)  # of the width, by level
    inverse_hidden: int = 128  # units of inverse dynamics' two layers (256)
    horizon: int = 8  # T_e, states of a window (8)
    diffusion_steps: int = 200  # K (200)
    acting_steps: int = 10  # of DDIM (10)
    dropout: float = 0.25  # of the return condition (.25)
    omega: float = 1.2  # guidance (1.2)
    target: float = 0.95  # return that acting is conditioned on (.95 and .8)
    more_targets: tuple[float, ...] = ()  # others, at the end
    differences: bool = False  # plans tell differences of states to come, not the states
    preconditioned: bool = True  # eps = sqrt(1 - abar) x + sqrt(abar) net; else eps = net
    in_painted: bool = True  # the current state is clean in training as in acting
    lr: float | None = None  # Adam's rate, falls to 0 in each task; None: the method's (3e-4)
    average: float = 0.995  # decay of the weights' average, which a task ends with
    elastic: float | None = None  # EWC's lambda; None: the method's
    fisher_batches: int = 200  # batches that EWC's Fisher information is measured on
    remembered: float = 0.1  # share of windows that replay keeps
    retraining: float = 0.2  # share of a task's updates after PackNet has pruned
    episodes: int = 10  # of an evaluation, per task; 0: none
    more_steps: int = 0  # another number of DDIM's steps that the first task is acted with
    labels: tuple[str, ...] = ()  # fields whose values the rows carry (a grid's)

    @property
    def rate(self) -> float:
        """Adam's rate."""
        return METHODS[self.method].lr if self.lr is None else self.lr

    @property
    def strength(self) -> float:
        """EWC's lambda."""
        return METHODS[self.method].elastic if self.elastic is None else self.elastic


@dataclass
class AlignConfig:
    """Latents of all tasks of a sequence, each learned of its own data, all seeds at once."""

    task: str = "spaces-rsh"  # sequence of tasks, see task.SEQUENCES
    kind: str = "vq"  # vq, ae or vae
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2_000  # updates of a task (500,000)
    batch: int = 64  # states and actions of an update (32)
    hidden: int = 128  # units of encoder and decoder (256)
    codes: int = 128  # of a codebook (512)
    lr: float = 1e-3  # Adam's rate, falls to a tenth in each task (1e-3 to 1e-4)


def check(cfg: Config) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown method or sequence, or settings that do not fit together.
    """
    method = METHODS[cfg.method]
    sequence_of(cfg.task)
    if not aligned(cfg.task) and (method.align != "vq" or method.standardised):
        raise UserError(
            f"{cfg.method}: the tasks of {cfg.task} share their spaces; none is aligned"
        )
    levels = 2 ** (len(cfg.multipliers) - 1)
    if cfg.width % 8 or cfg.horizon % levels or cfg.horizon < 2:
        raise UserError(
            f"--width {cfg.width} has to be a multiple of 8, --horizon {cfg.horizon} of {levels}"
        )
    for steps in (cfg.acting_steps, cfg.more_steps or 1):
        if steps < 1 or cfg.diffusion_steps % steps:
            raise UserError(f"{steps} steps of DDIM do not divide the {cfg.diffusion_steps}")
    for name in ("dropout", "remembered", "retraining"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise UserError(f"--{name} {getattr(cfg, name):g} is no share")


def check_align(cfg: AlignConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown sequence or kind.
    """
    sequence_of(cfg.task)
    choose("kind", cfg.kind, SPACES)
    if not aligned(cfg.task):
        raise UserError(f"the tasks of {cfg.task} share their spaces: nothing is to be aligned")
