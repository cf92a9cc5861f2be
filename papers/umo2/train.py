"""One run: a policy on a network, for each setting (horizon, load, switching, V) and each seed."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.umo2.config import Config, settings_of
from papers.umo2.methods import UTILITY, policies
from papers.umo2.simulate import NO_LOG, State, make_plan, new_measurements, new_state, simulate
from papers.umo2.task import QUEUE, TASKS, VALUE, make_network


def train(cfg: Config) -> None:
    """Play all slots and keep the sums of every window, and where each policy ended."""
    choose("task", cfg.task, TASKS)
    choose(f"method of {cfg.task}", cfg.method, policies(cfg.task))
    if cfg.experts < 1:
        raise UserError(f"--experts must be 1 or more, not {cfg.experts}")
    if cfg.chunk < 1:
        raise UserError(f"--chunk must be 1 or more, not {cfg.chunk}")
    policy = policies(cfg.task)[cfg.method]
    settings = settings_of(cfg)
    networks = [make_network(cfg.task, s.rho, s.kappa, s.horizon) for s in settings]
    plans = [
        make_plan(policy, net, V=float(s.horizon**s.v) if cfg.task == UTILITY else 0.0)
        for s, net in zip(settings, networks, strict=True)
    ]
    runs = list(product(range(len(settings)), range(len(cfg.seed))))  # (setting, seed) by position
    pieces = [  # of a run: setting, seed, slots played before it
        (s, k, first) for s, k in runs for first in range(0, settings[s].horizon, cfg.chunk)
    ]

    run = Run.open(cfg.out, cfg)
    measured = np.zeros((len(settings), len(cfg.seed), *new_measurements().shape))
    states: list[dict[str, Any]] = []  # of the runs begun so far; the last one is being played
    run.keep(measured=measured, states=states)

    def described() -> dict[str, Any]:
        return {
            "kind": "network",
            "method": cfg.method,
            "task": cfg.task,
            "seeds": list(cfg.seed),
            "settings": [s._asdict() for s in settings],
        }

    for step in run.steps(len(pieces), then=described):
        s, k, first = pieces[step]
        last = min(first + cfg.chunk, settings[s].horizon)
        if first == 0:
            states.append(new_state(policy, networks[s], cfg.experts)._asdict())
        state = State(**states[-1])  # updated in place
        simulate(networks[s], plans[s], cfg.seed[k], first, last, state, measured[s, k], NO_LOG)
        if last == settings[s].horizon:
            sums = measured[s, k].sum(axis=0) / last
            run.log(len(states), mean_queue=sums[QUEUE], utility=sums[VALUE])


if __name__ == "__main__":
    run_cli(train, Config)
