"""The configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "rbs-db"  # a line of methods.METHODS
    task: str = "g16"  # one of task.SPECS, e.g. g16, g32, g16-unseen, b20, g128-paper
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # updates [code: 20k on grids, up to 500k on bits]
    rollouts: int = 16  # forward trajectories (and syntheses) per update [code]
    replay: int = 64  # pairs per update; without a companion twice as many trajectories [code: 256]
    capacity: int = 1_000_000  # trajectories that the replay buffer holds [code]
    lr: float | None = None  # Adam (default: the task's)
    weight: float = 0.1  # lambda of the regulariser at the start (our choice, see NOTES.md)
    weight_decay: float = 0.999  # its factor per update [code]
    subtb: float = 0.9  # lambda of SubTB
    eval_every: int = 50  # updates between exact evaluations
