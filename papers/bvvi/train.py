"""One run: a method on an environment, for each gamma, each bonus scale and each seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.bvvi.baselines import METHODS, PLANNER, RISK_NEUTRAL, exact_values
from papers.bvvi.method import REGRET, TALLY, Setup, iota, solve
from papers.bvvi.task import (
    TASKS,
    check_gamma,
    checkpoints,
    episode_uniforms,
    level_starts,
    make_pomdp,
)


@dataclass
class Config:
    """One training run."""

    method: str = "bvvi_next"  # a key of baselines.METHODS, or "planner", which knows the model
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


def train(cfg: Config) -> None:
    """Play all episodes and keep the regret at the checkpoints."""
    choose("method", cfg.method, [*METHODS, PLANNER])
    choose("task", cfg.task, TASKS)
    if cfg.episodes < 1:
        raise UserError(f"--episodes must be 1 or more, not {cfg.episodes}")
    gammas = [check_gamma(gamma) for gamma in cfg.gamma]
    if cfg.method == PLANNER:
        return plan_exactly(cfg)
    method = METHODS[cfg.method]
    scales = list(cfg.c) if method.explores else [0.0]
    shape = (len(gammas), len(scales), len(cfg.seed))
    marks = checkpoints(cfg.episodes)
    stops = sorted({*marks, *range(cfg.chunk, cfg.episodes, cfg.chunk)})

    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    envs = [make_pomdp(cfg.task, seed) for seed in cfg.seed]
    uniforms = [
        episode_uniforms(cfg.task, seed, cfg.episodes, env)
        for seed, env in zip(cfg.seed, envs, strict=True)
    ]
    starts = level_starts(envs[0])
    setups = {
        (g, c, i): Setup(
            gamma=gammas[g],
            plan_gamma=RISK_NEUTRAL if method.risk_neutral else gammas[g],
            scale=scales[c],
            iota=iota(envs[i], cfg.episodes, cfg.delta),
            v_star=solve(envs[i], gammas[g]).value,
            q_bonus=method.q_bonus,
            exact_first=cfg.first_obs == "exact",
        )
        for g, c, i in product(*map(range, shape))
    }
    saved: dict[str, Any] = run.restore() or {
        "k": 0,
        "states": [list(method.new_state(envs[i])) for _, _, i in setups],
        "tallies": np.zeros((*shape, len(TALLY))),
        "regret": np.zeros((*shape, len(marks))),
    }
    k, tallies, regret = saved["k"], saved["tallies"], saved["regret"]
    states = [tuple(state) for state in saved["states"]]

    for step, stop in enumerate(stops, start=1):
        if stop <= k:
            continue
        for (cell, setup), state in zip(setups.items(), states, strict=True):
            i = cell[2]
            method.learn(envs[i], setup, uniforms[i], starts, k, stop, state, tallies[cell])
        k = stop
        if k in marks:
            regret[..., marks.index(k)] = tallies[..., REGRET]
            run.log(k, regret=tallies[..., REGRET].mean(axis=-1).ravel().tolist())
        if run.due(step):
            run.save(k, {"k": k, "states": states, "tallies": tallies, "regret": regret})

    run.finish(
        {
            "method": cfg.method,
            "task": cfg.task,
            "seeds": list(cfg.seed),
            "gammas": gammas,
            "scales": scales,
            "episodes": cfg.episodes,
            "k": marks,
            "regret": regret,  # [gammas, scales, seeds, checkpoints]
            "tallies": tallies,  # [gammas, scales, seeds, counts]
        }
    )


def plan_exactly(cfg: Config) -> None:
    """Exact values of the environment of each seed."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    run.restore()
    values = []
    for seed, gamma in product(cfg.seed, cfg.gamma):
        enumerated = cfg.task == "rand"  # 2^14 policy trees; elsewhere 2^120
        exact = exact_values(make_pomdp(cfg.task, seed), gamma, enumerated=enumerated)
        values.append({"seed": seed, "gamma": gamma, "values": exact})
    run.finish({"method": PLANNER, "task": cfg.task, "exact": values})


if __name__ == "__main__":
    run_cli(train, Config)
