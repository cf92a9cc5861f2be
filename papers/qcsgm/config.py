"""The configuration of a run of score models, and which networks it stacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from papers.qcsgm.methods import Model, entry
from papers.qcsgm.task import SETTINGS, family


@dataclass
class Config:
    """One training run."""

    method: str = "qc"  # see methods.METHODS
    task: str = "8gaussians"  # 8gaussians, spirals, checkerboard, digits, cifar10, …
    seed: tuple[int, ...] = (0,)  # trained together
    seed_offset: int = 0  # added to each seed; pilots use 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    lam: tuple[float, ...] = ()  # weights of L_QC, trained together; empty: the task's
    steps: int = 0  # gradient steps; 0: the task's
    batch: int = 0  # points a step; 0: the task's
    lr: float | None = None  # Adam's learning rate; none: the task's
    regularise_after: int = -1  # steps of plain U before L_QC sets in; -1: the task's
    slices: int = 1  # K, sign vectors per point of the estimate
    clip: float = 1.0  # largest gradient norm, of every member by itself (authors' code)
    pretrained: bool = True  # images: start from U's weights in $PAPERS_DATA, else from nothing

    @property
    def model(self) -> Model:
        """The method's entry in the table.

        Raises:
            UserError: for an unknown task, or a method that is not for it.
        """
        return entry(self.method, self.task, family(self.task))


def members(cfg: Config) -> list[tuple[int, float]]:
    """(seed, lambda) of every network of the stack; lambda is 0 without a regulariser."""
    lams = (cfg.lam or SETTINGS[cfg.task].lam) if cfg.model.regulariser else (0.0,)
    return [(seed + cfg.seed_offset, lam) for lam in lams for seed in cfg.seed]
