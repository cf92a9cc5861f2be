"""One run: a method on a task, for each risk measure and each seed, over all episodes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from papers.rs_disrl.augmented import law, optimum
from papers.rs_disrl.baselines import METHODS, Setting, markov_optimum, set_up
from papers.rs_disrl.method import INSIDE, LIVE, OPTIMISTIC, REGRET
from papers.rs_disrl.risk import RISKS, lipschitz, rho
from papers.rs_disrl.task import TASKS, checkpoints, make_problem

TALLY = ("in_set_always", "in_set", "optimistic", "broken_optimism", "rejected")
VALUES = ("optimal", "neutral", "markov")


@dataclass
class Config:
    """One training run."""

    method: str = "m_mle"  # a key of baselines.METHODS
    task: str = "i1"  # a key of task.TASKS
    seed: tuple[int, ...] = (0,)  # each draws a model of its own and its steps
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # there is nothing here for a GPU
    risk: tuple[str, ...] = ("cvar25", "entropic_m1")  # keys of risk.RISKS
    episodes: int = 2000  # K; the widths of I2 depend on its logarithm
    replan: int = 1  # I2: episodes between plans (and whenever a count doubles)
    candidates: int = 200  # I3: mixtures tried per plan
    chunk: int = 500  # episodes between two looks at the clock; changes no number


def known_values(at: Setting) -> list[float]:
    """rho under the truth of the optimum, the risk-neutral optimum, and the best policy of s."""
    q, start = at.problem.truth, at.problem.start
    neutral = rho(law(q, optimum(q, at.mean, start)[1], start), at.risk)
    return [optimum(q, at.risk, start)[0], neutral, markov_optimum(q, at.risk, start)[0]]


def train(cfg: Config) -> None:
    """Play all episodes and keep the regret and the size of the set at the checkpoints."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    for name in cfg.risk:
        choose("risk", name, RISKS)
    if cfg.episodes < 1 or cfg.replan < 1:
        raise UserError("--episodes and --replan must be 1 or more")
    runs = list(product(cfg.risk, cfg.seed))
    marks = np.array(checkpoints(cfg.episodes))

    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    saved: dict[str, Any] = run.restore() or {
        "done": 0,
        "k": 0,
        "learner": {},
        "record": np.zeros((0, 4)),
        "regret": np.zeros((len(runs), len(marks))),
        "live": np.zeros((len(runs), len(marks))),
        "tally": np.zeros((len(runs), len(TALLY))),
        "values": np.full((len(runs), len(VALUES)), np.nan),
    }
    kept = {name: saved[name] for name in ("regret", "live", "tally", "values")}
    step = 0
    for i, (risk, seed) in enumerate(runs):
        if i < saved["done"]:
            continue
        problem = make_problem(cfg.task, risk, seed)
        at = Setting(problem, risk, cfg.task, seed, cfg.episodes, cfg.replan)
        learner = set_up(cfg.method, at, cfg.candidates)
        k = 0
        if i == saved["done"] and saved["k"] > 0:
            k = saved["k"]
            learner.record[:k] = saved["record"]
            for name, array in learner.state.items():
                array[...] = saved["learner"][name]
        while k < cfg.episodes:
            last = min(k + cfg.chunk, cfg.episodes)
            learner.play(k, last)
            k, step = last, step + 1
            if run.due(step) and k < cfg.episodes:
                now = {"done": i, "k": k, "learner": learner.state, "record": learner.record[:k]}
                run.save(i * cfg.episodes + k, now | kept)
        record = learner.record
        best = optimum(problem.truth, at.risk, problem.start)[0]
        objective_is_risk = METHODS[cfg.method].objective == "risk"
        inside = record[:, INSIDE] > 0
        above = record[:, OPTIMISTIC] >= best - 1e-9
        kept["regret"][i] = np.cumsum(record[:, REGRET])[marks - 1]
        kept["live"][i] = record[marks - 1, LIVE]
        kept["tally"][i] = [
            *(inside.all(), inside.mean(), above.mean()),
            *((inside & ~above).sum() if objective_is_risk else 0, problem.rejected),
        ]
        if cfg.method == "oracle":
            kept["values"][i] = known_values(at)
        run.log((i + 1) * cfg.episodes, regret=float(kept["regret"][i, -1]))
        if run.due(step):
            nothing = {"k": 0, "learner": {}, "record": record[:0]}
            run.save((i + 1) * cfg.episodes, {"done": i + 1} | nothing | kept)
    run.finish(
        {
            "method": cfg.method,
            "task": cfg.task,
            "seeds": list(cfg.seed),
            "risks": list(cfg.risk),
            "lipschitz": [lipschitz(name, TASKS[cfg.task].H) for name in cfg.risk],
            "k": marks.tolist(),
            **{n: a.reshape(len(cfg.risk), len(cfg.seed), -1) for n, a in kept.items()},
        }
    )


if __name__ == "__main__":
    run_cli(train, Config)
