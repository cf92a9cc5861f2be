"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from papers.rpe.task import Sizes


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "rpe"  # a name of methods.py; "exact": the tables
    task: str = "rna1-dag"  # see task.TASKS
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 1500  # Adam steps
    batch: int = 32  # trajectories per step and seed [the benchmark's code: 16 to 32]
    eval_every: int = 125  # steps between evaluations (exact P_T)
    eval_samples: int = 20  # samples of the current policy per step, for counting modes
    hidden: int = 256  # width of the two hidden layers [paper: 2048]
    lr: float = 1e-3  # Adam, the same for all learners [paper: one rate; the value is ours]
    lr_log_Z: float = 0.1  # of TB's log Z [the family's value]
    lam: float = 0.9  # lambda of SubTB [the family's value]
    grad_clip: float = 10.0  # largest gradient norm per seed, all learners
    target_rate: float = 0.25  # DQN: share of the online network per target update
    target_every: int = 3  # DQN: steps between target updates
    leaf_coefficient: float = 5.0  # DQN: weight of transitions to objects [released code]
    reference: int = (
        100_000  # strings of 14 letters: uniform strings that set the threshold of a mode
    )
    sizes: Sizes = field(default_factory=Sizes)  # of the tasks (smaller for smoke)
