"""One run: a method on an environment, for each alpha and each seed, over the whole horizon."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.uniinf.baselines import METHODS
from papers.uniinf.task import (
    ALPHAS,
    REGRET,
    TALLY,
    TASKS,
    Known,
    checkpoints,
    make_env,
    true_sigma,
)


@dataclass
class Config:
    """One training run."""

    method: str = "uniinf"  # a key of baselines.METHODS
    task: str = "e1"  # an environment of task.TASKS
    seed: tuple[int, ...] = (0,)  # each seed is a run of its own; they share the process
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    alpha: tuple[float, ...] = ALPHAS  # tail parameters of the environment, each in (1, 2]
    horizon: int = 1_000_000  # T, rounds; uniINF and AdaTINF are told it
    chunk: int = 100_000  # rounds of all seeds between two looks at the clock; changes no number


def train(cfg: Config) -> None:
    """Play all rounds and keep the pseudo-regret at the checkpoints."""
    choose("method", cfg.method, METHODS)
    if cfg.horizon < 2:
        raise UserError(f"--horizon must be 2 or more (log T divides), not {cfg.horizon}")
    method = METHODS[cfg.method]
    envs = [make_env(choose("task", cfg.task, TASKS), alpha, cfg.horizon) for alpha in cfg.alpha]
    sigmas = [true_sigma(env, alpha) for env, alpha in zip(envs, cfg.alpha, strict=True)]
    told = [
        Known(float(cfg.horizon), sigma * method.sigma_factor, method.alpha or alpha)
        for sigma, alpha in zip(sigmas, cfg.alpha, strict=True)
    ]
    runs = list(product(range(len(cfg.alpha)), range(len(cfg.seed))))  # (alpha, seed) by position
    n_arms = envs[0].slope.shape[1]
    marks = checkpoints(cfg.horizon)
    stops = sorted({*marks, *range(cfg.chunk, cfg.horizon, cfg.chunk)})

    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    saved: dict[str, Any] = run.restore() or {
        "t": 0,
        "states": [list(method.new_state(n_arms)) for _ in runs],
        "tallies": np.zeros((len(cfg.alpha), len(cfg.seed), len(TALLY))),
        "regret": np.zeros((len(cfg.alpha), len(cfg.seed), len(marks))),
    }
    t, tallies, regret = saved["t"], saved["tallies"], saved["regret"]
    states = [tuple(state) for state in saved["states"]]

    for step, stop in enumerate(stops, start=1):
        if stop <= t:
            continue
        for (a, s), state in zip(runs, states, strict=True):
            method.simulate(envs[a], told[a], cfg.seed[s], t, stop, state, tallies[a, s])
        t = stop
        if t in marks:
            regret[:, :, marks.index(t)] = tallies[:, :, REGRET]
            run.log(t, regret=tallies[:, :, REGRET].mean(axis=1).tolist())
        if run.due(step):
            run.save(t, {"t": t, "states": states, "tallies": tallies, "regret": regret})

    final: dict[str, Any] = {
        "method": cfg.method,
        "task": cfg.task,
        "seeds": list(cfg.seed),
        "alphas": list(cfg.alpha),
        "sigmas": sigmas,
        "n_arms": n_arms,
        "t": marks,
        "regret": regret,  # [alphas, seeds, checkpoints]
        "tallies": tallies,  # [alphas, seeds, counts]
    }
    if cfg.method == "uniinf":
        S = [state[1][0] for state in states]
        final["S"] = np.reshape(S, (len(cfg.alpha), len(cfg.seed)))
    run.finish(final)


if __name__ == "__main__":
    run_cli(train, Config)
