"""One run: a method on a task, for each risk measure and each seed, over all episodes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cli import run_cli
from common.errors import UserError, choose
from common.kept import Kept
from common.run import Run
from papers.rs_disrl.augmented import law, optimum
from papers.rs_disrl.baselines import Learner, Setting, markov_optimum, set_up
from papers.rs_disrl.config import TALLY, VALUES, Config
from papers.rs_disrl.method import INSIDE, LIVE, OPTIMISTIC, REGRET
from papers.rs_disrl.methods import METHODS
from papers.rs_disrl.risk import RISKS, lipschitz, rho
from papers.rs_disrl.task import TASKS, checkpoints, make_problem


def train(cfg: Config) -> None:
    """Play all episodes and keep the regret and the size of the set at the checkpoints."""
    method = METHODS[cfg.method]
    choose("task", cfg.task, TASKS)
    for name in cfg.risk:
        choose("risk", name, RISKS)
    if cfg.episodes < 1 or cfg.replan < 1:
        raise UserError("--episodes and --replan must be 1 or more")
    cells = list(product(cfg.risk, cfg.seed))
    marks = np.array(checkpoints(cfg.episodes))
    stretches = -(-cfg.episodes // cfg.chunk)  # of a cell

    run = Run.open(cfg.out, cfg)
    kept = run.keep(
        learner={},  # of the cell that is being played
        record=np.zeros((0, 4)),
        policies=[],  # of the finished cells: what each plays in the end
        regret=np.zeros((len(cells), len(marks))),
        live=np.zeros((len(cells), len(marks))),
        tally=np.zeros((len(cells), len(TALLY))),
        values=np.full((len(cells), len(VALUES)), np.nan),
    )
    playing = None
    for step in run.steps(
        len(cells) * stretches, lambda: results(cfg, marks, kept), drop=("learner", "record")
    ):
        cell, stretch = divmod(step, stretches)
        if playing is None or stretch == 0:
            risk, seed = cells[cell]
            problem = make_problem(cfg.task, risk, seed)
            at = Setting(problem, risk, cfg.task, seed, cfg.episodes, cfg.replan)
            playing = set_up(cfg.method, at, cfg.candidates)
            if stretch > 0:
                go_on(playing, kept)
        first, last = stretch * cfg.chunk, min((stretch + 1) * cfg.chunk, cfg.episodes)
        playing.play(first, last)
        kept.learner, kept.record = playing.state, playing.record[:last]
        if last == cfg.episodes:
            count(at, method.objective, playing.record, marks, cell, kept)
            if method.known == "optimal":
                kept.values[cell] = known_values(at)
            kept.policies.append(playing.policy())
            kept.learner, kept.record = {}, playing.record[:0]
            run.log((cell + 1) * cfg.episodes, regret=float(kept.regret[cell, -1]))


def go_on(playing: Learner, kept: Kept) -> None:
    """Put a learner where the checkpoint was written."""
    playing.record[: len(kept.record)] = kept.record
    for name, array in playing.state.items():
        array[...] = kept.learner[name]


def known_values(at: Setting) -> list[float]:
    """rho under the truth of the optimum, the risk-neutral optimum, and the best policy of s."""
    q, start = at.problem.truth, at.problem.start
    neutral = rho(law(q, optimum(q, at.mean, start)[1], start), at.risk)
    return [optimum(q, at.risk, start)[0], neutral, markov_optimum(q, at.risk, start)[0]]


def count(
    at: Setting,
    objective: str,
    record: NDArray[np.float64],
    marks: NDArray[np.int64],
    cell: int,
    kept: Kept,
) -> None:
    """Keep what a finished cell's record [K, 4] says."""
    best = optimum(at.problem.truth, at.risk, at.problem.start)[0]
    inside = record[:, INSIDE] > 0
    above = record[:, OPTIMISTIC] >= best - 1e-9
    kept.regret[cell] = np.cumsum(record[:, REGRET])[marks - 1]
    kept.live[cell] = record[marks - 1, LIVE]
    kept.tally[cell] = [
        *(inside.all(), inside.mean(), above.mean()),
        *((inside & ~above).sum() if objective == "risk" else 0, at.problem.rejected),
    ]


def results(cfg: Config, marks: NDArray[np.int64], kept: Kept) -> dict[str, Any]:
    """What evaluation reads: [risks, seeds, ...]."""
    arrays = {name: getattr(kept, name) for name in ("regret", "live", "tally", "values")}
    return {
        "method": cfg.method,
        "task": cfg.task,
        "seeds": list(cfg.seed),
        "risks": list(cfg.risk),
        "lipschitz": [lipschitz(name, TASKS[cfg.task].H) for name in cfg.risk],
        "k": marks.tolist(),
        **{n: a.reshape(len(cfg.risk), len(cfg.seed), -1) for n, a in arrays.items()},
    }


if __name__ == "__main__":
    run_cli(train, Config)
