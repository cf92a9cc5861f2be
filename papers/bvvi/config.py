"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Config:
    """One training run."""

    method: str = "bvvi_next"  # a name of methods.METHODS
    task: str = "gamble"  # an environment of task.TASKS
    seed: tuple[int, ...] = (0,)  # each seed is a run of its own; they share the process
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    gamma: tuple[float, ...] = (-3.0, -1.0, 1.0, 3.0)  # risk parameters; < 0 is risk-averse
    c: tuple[float, ...] = (1.0, 0.1, 0.02)  # bonus scales; 1 is the paper; greedy has none
    episodes: int = 2000  # K, as the authors run
    delta: float = 0.2  # failure probability in iota, as the authors set it
    first_obs: Literal["exact", "ignore"] = "exact"  # "ignore": sigma_1 = mu, as the authors' code
    chunk: int = 1000  # episodes of all runs between two looks at the clock; changes no number
