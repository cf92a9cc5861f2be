"""One run of a matrix game: one method, all seeds at once, plays of uniformly random actions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from common.cli import run_cli
from common.marl.matrix_games import GAMES
from common.run import Run
from common.torch_utils import setup
from papers.dfac.config import GameConfig, check_game, game_learning, game_updates
from papers.dfac.games import (
    Plays,
    Table,
    choices,
    exact_quantiles,
    fit,
    learnt_laws,
    value_of_play,
)
from papers.dfac.learner import Learner
from papers.dfac.methods import METHODS
from papers.dfac.networks import Sizes
from papers.dfac.task import RANDOM, GameTask, game_task


def game_sizes(cfg: GameConfig, task: GameTask) -> Sizes:
    """Networks for a game; agents see the state and their own number."""
    game = GAMES[task.game]()
    n, states = game.n_agents, len(game.means)
    return Sizes(
        *(n, states + n, game.means.shape[-1], states),
        hidden=cfg.hidden,
        heads=task.heads,
        layers=task.layers,
        support=task.support,
    )


def make_learner(cfg: GameConfig, device: torch.device) -> Learner:
    """The networks of all seeds."""
    sizes = game_sizes(cfg, game_task(cfg.task))
    return Learner(cfg.method, game_learning(cfg), sizes, cfg.seed, device)


def summary(laws: NDArray[np.float64], exact: NDArray[np.float64]) -> dict[str, list[float]]:
    """Laws [S, U, K] of one state against the exact ones [U, K]; by seed."""
    found = fit(laws, exact)
    best = exact.mean(-1).argmax()
    return {
        "w1_mean": found.w1.mean(-1).tolist(),
        "worst_mean_error": found.mean_error.max(-1).tolist(),
        "best_cell_error": found.mean_error[:, best].tolist(),
        "crossing": found.crossing.mean(-1).tolist(),
    }


def learnt(
    learner: Learner, table: Table, task: GameTask, exact: NDArray[np.float64]
) -> dict[str, list[float]]:
    """What is chosen now, and how the laws of the state that is judged compare; by seed."""
    chosen = choices(learner.net, table).cpu().numpy()
    values = np.array([value_of_play(table.game, one) for one in chosen])
    found = (values >= table.game.optimal_value() - 1e-9).astype(float)
    laws = learnt_laws(learner.net, table)
    judged = {} if laws is None else summary(laws[:, task.state].double().cpu().numpy(), exact)
    return {"optimal": found.tolist(), **judged}


def train(cfg: GameConfig) -> None:
    """Train, or go on from the last checkpoint; what is not learnt finishes at once."""
    check_game(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    if cfg.task == RANDOM or not METHODS[cfg.method].trained:
        run.finish()
        return
    task, updates = game_task(cfg.task), game_updates(cfg)
    table = Table(GAMES[task.game](), device)
    exact = exact_quantiles(table.game, task.state)
    learner = make_learner(cfg, device)
    plays = Plays(table, cfg.seed, cfg.buffer)
    run.keep(learner=learner, plays=plays)
    every = max(1, updates // cfg.evaluations)
    for step in run.steps(updates, drop=("plays",)):
        # 1. one play of every seed
        plays.play()

        # 2. one gradient step
        metrics = learner.update(plays.sample(cfg.batch))

        # 3. the laws of the state that is judged
        if (step + 1) % every == 0:
            logged = {name: value.tolist() for name, value in metrics.items()}
            run.log(step + 1, **logged, **learnt(learner, table, task, exact))


if __name__ == "__main__":
    run_cli(train, GameConfig)
