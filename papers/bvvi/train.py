"""One run: a method on an environment, for each gamma, each bonus scale and each seed."""

from __future__ import annotations

from itertools import product

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.bvvi.baselines import exact_values
from papers.bvvi.config import Config
from papers.bvvi.method import REGRET, TALLY
from papers.bvvi.methods import METHODS
from papers.bvvi.task import (
    TASKS,
    check_gamma,
    checkpoints,
    episode_uniforms,
    level_starts,
    make_pomdp,
)


def train(cfg: Config) -> None:
    """Play all episodes and keep the regret at the checkpoints."""
    method = METHODS[cfg.method]
    choose("task", cfg.task, TASKS)
    if cfg.episodes < 1:
        raise UserError(f"--episodes must be 1 or more, not {cfg.episodes}")
    gammas = [check_gamma(gamma) for gamma in cfg.gamma]
    if method.learn is None:
        return plan_exactly(cfg)
    scales = list(cfg.c) if method.explores else [0.0]
    shape = (len(gammas), len(scales), len(cfg.seed))
    marks = checkpoints(cfg.episodes)
    stops = sorted({*marks, *range(cfg.chunk, cfg.episodes, cfg.chunk)})

    run = Run.open(cfg.out, cfg)
    envs = [make_pomdp(cfg.task, seed) for seed in cfg.seed]
    starts = level_starts(envs[0])
    uniforms = [
        episode_uniforms(cfg.task, seed, cfg.episodes, env)
        for seed, env in zip(cfg.seed, envs, strict=True)
    ]
    setups = {
        (g, c, i): method.setup(
            envs[i], gammas[g], scales[c], cfg.episodes, cfg.delta, cfg.first_obs == "exact"
        )
        for g, c, i in product(*map(range, shape))
    }
    kept = run.keep(
        states=[method.new_state(envs[i]) for _, _, i in setups],
        tallies=np.zeros((*shape, len(TALLY))),  # [gammas, scales, seeds, counts]
        regret=np.zeros((*shape, len(marks))),  # [gammas, scales, seeds, checkpoints]
    )
    found = {
        "method": cfg.method,
        "task": cfg.task,
        "seeds": list(cfg.seed),
        "gammas": gammas,
        "scales": scales,
        "episodes": cfg.episodes,
        "k": marks,
    }
    for step in run.steps(len(stops), then=lambda: found):
        first, last = (stops[step - 1] if step else 0), stops[step]
        for (cell, setup), state in zip(setups.items(), kept.states, strict=True):
            i, tally = cell[2], kept.tallies[cell]
            method.learn(envs[i], setup, uniforms[i], starts, first, last, state, tally)
        if last in marks:
            kept.regret[..., marks.index(last)] = kept.tallies[..., REGRET]
            run.log(last, regret=kept.tallies[..., REGRET].mean(axis=-1).ravel().tolist())


def plan_exactly(cfg: Config) -> None:
    """Exact values of the environment of each seed."""
    run = Run.open(cfg.out, cfg)
    kept = run.keep(method=cfg.method, task=cfg.task, exact=[])
    cells = list(product(cfg.seed, cfg.gamma))
    for step in run.steps(len(cells)):
        seed, gamma = cells[step]
        enumerated = cfg.task == "rand"  # 2^14 policy trees; elsewhere 2^120
        values = exact_values(make_pomdp(cfg.task, seed), gamma, enumerated=enumerated)
        kept.exact.append({"seed": seed, "gamma": gamma, "values": values})


if __name__ == "__main__":
    run_cli(train, Config)
