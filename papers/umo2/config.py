"""The configuration of a run, and the settings within it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from papers.umo2.methods import UTILITY


@dataclass
class Config:
    """One training run."""

    method: str = "nso"  # a policy of methods.METHODS that the task has
    task: str = "net-a"  # a network of task.TASKS
    seed: tuple[int, ...] = (0,)  # each seed is a run of its own; they share the process
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    horizon: tuple[int, ...] = (100_000,)  # T, slots
    rho: tuple[float, ...] = (0.42,)  # arrivals per slot and source; not read by the utility task
    kappa: tuple[float, ...] = (0.4,)  # the capacities switch T^kappa times
    v: tuple[float, ...] = (0.3,)  # V = T^v; read by the utility task only
    experts: int = 8  # J of AdaPFOL; 8 is enough for T = 1e5, the formula gives ceil(log2(T)/2)+1
    chunk: int = 200_000  # slots between two looks at the clock; changes no number


class Setting(NamedTuple):
    """What is varied within a job."""

    horizon: int
    rho: float
    kappa: float
    v: float


def settings_of(cfg: Config) -> list[Setting]:
    """All settings of a job; a flag that the task does not read stands once, as 0."""
    utility = cfg.task == UTILITY
    rhos, vs = ((0.0,), cfg.v) if utility else (cfg.rho, (0.0,))
    kappas = (0.0,) if cfg.task == "net-a-static" else cfg.kappa
    return [Setting(*values) for values in product(cfg.horizon, rhos, kappas, vs)]
