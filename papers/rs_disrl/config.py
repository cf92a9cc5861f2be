"""The settings of a run, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TALLY = ("in_set_always", "in_set", "optimistic", "broken_optimism", "rejected")
VALUES = ("optimal", "neutral", "markov")  # rho under the truth of the best policies of each kind


@dataclass
class Config:
    """One training run."""

    method: str = "m_mle"  # a name of methods.METHODS
    task: str = "i1"  # a key of task.TASKS
    seed: tuple[int, ...] = (0,)  # each draws a model of its own and its steps
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    risk: tuple[str, ...] = ("cvar25", "entropic_m1")  # keys of risk.RISKS
    episodes: int = 2000  # K; the widths of I2 depend on its logarithm
    replan: int = 1  # I2: episodes between plans (and whenever a count doubles)
    candidates: int = 200  # I3: mixtures tried per plan
    chunk: int = 500  # episodes between two looks at the clock; changes no number
