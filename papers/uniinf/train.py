"""One run: a method on an environment, for each alpha and each seed, over the whole horizon."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from common.cli import run_cli
from common.errors import UserError
from common.run import Run
from papers.uniinf.config import Config, environments
from papers.uniinf.methods import METHODS
from papers.uniinf.task import REGRET, TALLY, checkpoints


def train(cfg: Config) -> None:
    """Play all rounds and keep the pseudo-regret at the checkpoints."""
    method = METHODS[cfg.method]
    if cfg.horizon < 2:
        raise UserError(f"--horizon must be 2 or more (log T divides), not {cfg.horizon}")
    if cfg.chunk < 1:
        raise UserError(f"--chunk must be 1 or more, not {cfg.chunk}")
    envs, sigmas, told = environments(cfg)
    runs = list(product(range(len(cfg.alpha)), range(len(cfg.seed))))  # (alpha, seed) by position
    n_arms = envs[0].slope.shape[1]
    marks = checkpoints(cfg.horizon)
    stops = [0, *sorted({*marks, *range(cfg.chunk, cfg.horizon, cfg.chunk)})]

    run = Run.open(cfg.out, cfg)
    states = [method.new_state(n_arms) for _ in runs]
    tallies = np.zeros((len(cfg.alpha), len(cfg.seed), len(TALLY)))
    regret = np.zeros((len(cfg.alpha), len(cfg.seed), len(marks)))
    run.keep(states=states, tallies=tallies, regret=regret)

    def described() -> dict[str, Any]:
        known = {
            "method": cfg.method,
            "task": cfg.task,
            "seeds": list(cfg.seed),
            "alphas": list(cfg.alpha),
            "sigmas": sigmas,
            "n_arms": n_arms,
            "t": marks,
        }
        if method.inverse_rate is not None:
            S = [method.inverse_rate(state) for state in states]
            known["S"] = np.reshape(S, tallies.shape[:2])
        return known

    for step in run.steps(len(stops) - 1, then=described):
        t, stop = stops[step], stops[step + 1]
        for (a, s), state in zip(runs, states, strict=True):
            method.simulate(envs[a], told[a], cfg.seed[s], t, stop, state, tallies[a, s])
        if stop in marks:
            regret[:, :, marks.index(stop)] = tallies[:, :, REGRET]
            run.log(stop, regret=tallies[:, :, REGRET].mean(axis=1).tolist())


if __name__ == "__main__":
    run_cli(train, Config)
