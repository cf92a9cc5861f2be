"""One run: a policy on a network, for each setting (horizon, load, switching, V) and each seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.umo2.baselines import METHODS, UTILITY_METHODS
from papers.umo2.simulate import NO_LOG, State, make_plan, new_measurements, new_state, simulate
from papers.umo2.task import QUEUE, TASKS, UTILITY, make_network


@dataclass
class Config:
    """One training run."""

    method: str = "nso"  # a key of baselines.METHODS, on the utility task of UTILITY_METHODS
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
    utility = cfg.task == "utility"
    rhos, vs = ((0.0,), cfg.v) if utility else (cfg.rho, (0.0,))
    kappas = (0.0,) if cfg.task == "net-a-static" else cfg.kappa
    return [Setting(*values) for values in product(cfg.horizon, rhos, kappas, vs)]


def train(cfg: Config) -> None:
    """Play all slots and keep the sums of every window."""
    choose("task", cfg.task, TASKS)
    policies = UTILITY_METHODS if cfg.task == "utility" else METHODS
    choose("method", cfg.method, policies)
    if cfg.experts < 1:
        raise UserError(f"--experts must be 1 or more, not {cfg.experts}")
    policy = policies[cfg.method]
    settings = settings_of(cfg)
    networks = [make_network(cfg.task, s.rho, s.kappa, s.horizon) for s in settings]
    plans = [
        make_plan(policy, net, V=float(s.horizon**s.v) if cfg.task == "utility" else 0.0)
        for s, net in zip(settings, networks, strict=True)
    ]
    runs = list(product(range(len(settings)), range(len(cfg.seed))))  # (setting, seed) by position

    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    measured = np.zeros((len(settings), len(cfg.seed), *new_measurements().shape))
    saved: dict[str, Any] = run.restore() or {"run": 0, "t": 0, "step": 0, "measured": measured}
    done, t, step, measured = saved["run"], saved["t"], saved["step"], saved["measured"]

    for r in range(done, len(runs)):
        s, k = runs[r]
        net = networks[s]
        state = State(**saved["state"]) if t > 0 else new_state(policy, net, cfg.experts)
        while t < net.horizon:
            stop = min(t + cfg.chunk, net.horizon)
            simulate(net, plans[s], cfg.seed[k], t, stop, state, measured[s, k], NO_LOG)
            t = stop
            step += 1
            if t < net.horizon and run.due(step):
                tree = {"run": r, "t": t, "step": step, "measured": measured}
                run.save(step, tree | {"state": state._asdict()})
        sums = measured[s, k].sum(axis=0) / net.horizon
        run.log(r + 1, mean_queue=sums[QUEUE], utility=sums[UTILITY])
        t = 0
        if run.due(step):
            run.save(step, {"run": r + 1, "t": 0, "step": step, "measured": measured})

    run.finish(
        {
            "kind": "network",
            "method": cfg.method,
            "task": cfg.task,
            "seeds": list(cfg.seed),
            "settings": [s._asdict() for s in settings],
            "measured": measured,  # [settings, seeds, windows, sums]
        }
    )


if __name__ == "__main__":
    run_cli(train, Config)
