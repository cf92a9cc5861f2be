"""The configuration of a run, and what a method is told in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from papers.uniinf.methods import METHODS
from papers.uniinf.task import ALPHAS, Bandit, Known, make_env, true_sigma


@dataclass
class Config:
    """One training run."""

    method: str = "uniinf"  # a name of methods.METHODS
    task: str = "e1"  # an environment of task.TASKS
    seed: tuple[int, ...] = (0,)  # each seed is a run of its own; they share the process
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    alpha: tuple[float, ...] = ALPHAS  # tail parameters of the environment, each in (1, 2]
    horizon: int = 1_000_000  # T, rounds; uniINF and AdaTINF are told it
    chunk: int = 100_000  # rounds of all seeds between two looks at the clock; changes no number


def environments(cfg: Config) -> tuple[list[Bandit], list[float], list[Known]]:
    """For each alpha: the bandit, its true sigma, and what the method is told."""
    method = METHODS[cfg.method]
    envs = [make_env(cfg.task, alpha, cfg.horizon) for alpha in cfg.alpha]
    sigmas = [true_sigma(env, alpha) for env, alpha in zip(envs, cfg.alpha, strict=True)]
    told = [
        Known(float(cfg.horizon), sigma * method.sigma_factor, method.alpha or alpha)
        for sigma, alpha in zip(sigmas, cfg.alpha, strict=True)
    ]
    return envs, sigmas, told
