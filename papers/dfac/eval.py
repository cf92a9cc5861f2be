"""A finished run as rows.

Matrix games: laws against the exact ones, what is chosen. Random networks: DIGM. Battles: curves,
greedy episodes, the law of the return. W1 is the first Wasserstein distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray

from common import files
from common.cli import run_cli
from common.marl.environments import make_env
from common.marl.episodes import outcomes
from common.marl.matrix_games import GAMES, Game
from common.run import Run
from common.torch_utils import setup
from papers.dfac import digm
from papers.dfac.config import Config, GameConfig, battle_learning, battle_sizes
from papers.dfac.games import (
    LEVELS,
    Table,
    choices,
    exact_laws,
    exact_quantiles,
    fit,
    joint_actions,
    learnt_laws,
    value_of_play,
)
from papers.dfac.learner import Learner
from papers.dfac.method import DFACConfig, midpoints
from papers.dfac.methods import METHODS
from papers.dfac.optimum import least_loss
from papers.dfac.play import first_laws, greedy_episodes, returns_of
from papers.dfac.task import BATTLES, RANDOM, GameTask, battle_task, game_task
from papers.dfac.train_games import learnt, make_learner, summary

CVARS = (1.0, 0.25, 0.1)  # what agents maximise; 1: the mean
LAST_BATTLES, LAST = 3, 5  # evaluations whose mean is a final number: battles, games
LATER_SEED = 950_000_000  # of episodes after training
DRAWN = 16  # quantile levels of a figure
Add = Callable[..., None]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    task = files.read_json(cfg.run / "config.json")["task"]
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    device = setup(cfg.device, 0)
    trained: Config | GameConfig = run.config(Config if task in BATTLES else GameConfig)
    seeds = (trained.seed,) if isinstance(trained.seed, int) else trained.seed
    name = {"method": trained.method, "task": task}

    def add(metric: str, values: Any, **labels: Any) -> None:
        for seed, value in zip(seeds, values, strict=True):
            value = value if isinstance(value, list) else float(value)
            rows.append({**name, "seed": seed, "metric": metric, "value": value, **labels})

    def draw(title: str, data: Any) -> None:
        extras.append({**name, "name": title, "seed": seeds[0], "data": data})

    if isinstance(trained, Config):
        battle_rows(trained, run, add, device)
    elif task == RANDOM:
        digm_rows(trained, add)
    else:
        game_rows(trained, run, add, draw, device)
    run.write_eval(rows, extras)


# --------------------------------------------------------------------------- random networks


def digm_rows(cfg: GameConfig, add: Add) -> None:
    """Shares of random networks whose agents' best actions are not the best joint one."""
    checks = [digm.check(cfg.method, seed, cfg.draws) for seed in cfg.seed]
    add("violations", [c.violated.mean() for c in checks])
    add("cvar_violations", [c.violated_cvar.mean() for c in checks])
    add("mean_gap", [c.mean_gap.max() for c in checks])


# --------------------------------------------------------------------------- matrix games


def game_rows(cfg: GameConfig, run: Run, add: Add, draw: Add, device: torch.device) -> None:
    """The laws of the state that is judged, and what greedy agents choose and get."""
    task = game_task(cfg.task)
    table = Table(GAMES[task.game](), device)
    exact = exact_quantiles(table.game, task.state)
    if METHODS[cfg.method].trained:
        learner = make_learner(cfg, device)
        learner.load(run.final()["learner"])
        at_the_end = learnt(learner, table, task, exact)
        for cvar in CVARS:
            chosen = choices(learner.net, table, cvar).cpu().numpy()
            choice_rows(chosen, table.game, add, cvar)
        found = learnt_laws(learner.net, table)
        laws = None if found is None else found[:, task.state].double().cpu().numpy()
    else:
        law = told(cfg.method, table.game, task, exact)
        laws = np.broadcast_to(law, (len(cfg.seed), *law.shape)).copy()
        at_the_end = summary(laws, exact)
    in_the_course_of_training(run, at_the_end, add, cfg.lr)
    if laws is None:
        return
    judged = fit(laws, exact)
    for u, actions in enumerate(joint_actions(table.game)):
        cell = " ".join(map(str, actions))
        for metric in ("mean", "std", "w1"):
            add(metric, getattr(judged, metric)[:, u], cell=cell)
    step = LEVELS // DRAWN
    draw("laws", np.round(laws[0][:, step // 2 :: step], 3).tolist())


def in_the_course_of_training(
    run: Run, at_the_end: Mapping[str, list[float]], add: Add, lr: float
) -> None:
    """What was logged of laws and choices: curves, and the mean over the last evaluations.

    A single evaluation moves by the noise of the last updates. What has no training, or none worth
    logging, is as it is ``at_the_end``.
    """
    lines = run.metrics()
    for metric, values in at_the_end.items():
        points = [(line["step"], line[metric]) for line in lines if metric in line]
        if not points:
            add(metric, values)
            continue
        steps, logged = [step for step, _ in points], np.array([v for _, v in points], dtype=float)
        rate = {"lr": lr} if metric == "worst_mean_error" else {}  # what a tuning goes by
        add(metric, logged[-LAST:].mean(0), **rate)
        curves = [list(map(float, curve)) for curve in logged.T]
        add(f"{metric}_curve", curves, step=steps)


def told(name: str, game: Game, task: GameTask, exact: NDArray[np.float64]) -> Any:
    """Laws of one state that are read off the table. [U, levels]."""
    method = METHODS[name]
    if method.law == "exact":
        return exact
    if method.law == "mean":
        return np.repeat(exact.mean(-1, keepdims=True), exact.shape[-1], -1)
    means, stds = (x[task.state].reshape(game.means.shape[1:]) for x in exact_laws(game))
    return least_loss(means, stds, free_mean=method.mean == "qmix", levels=exact.shape[-1])


def choice_rows(chosen: NDArray[np.int64], game: Game, add: Add, cvar: float) -> None:
    """What is chosen when agents maximise a CVaR. ``chosen``: [S, states, n]."""
    add("value_of_play", [value_of_play(game, one) for one in chosen], cvar=cvar)
    if len(game.means) > 1:  # agent 0's first action: the risky game B, or all 7s
        add("chooses_b", chosen[:, 0, 0] == 1, cvar=cvar)


# --------------------------------------------------------------------------- battles


def battle_rows(cfg: Config, run: Run, add: Add, device: torch.device) -> None:
    """Curves over environment steps, greedy episodes with fixed and drawn fractions, the law."""
    task = battle_task(cfg.task)
    lines = run.metrics()
    total = cfg.steps or task.steps
    # a round ends somewhat after its mark; the mark is the same for all
    marks = [int(line["point"] * total / cfg.evaluations) for line in lines]
    for metric in ("win_rate", "return", "length", "loss", "value", "spread", "gradient"):
        if metric in lines[0]:
            add(f"{metric}_curve", [[float(line[metric]) for line in lines]], step=marks)
    won = np.array([line["win_rate"] for line in lines])
    add("auc", [won.mean()], lr=cfg.lr)  # what a tuning goes by
    add("final_win_rate", [won[-LAST_BATTLES:].mean()])
    add("updates", [lines[-1]["updates"]])
    add("env_steps", [lines[-1]["step"]])
    add("seconds", [files.read_json(run.folder / "finished.json")["seconds"]])

    env = make_env(task.env, cfg.envs, **task.options)
    learner = Learner(cfg.method, battle_learning(cfg), battle_sizes(cfg, env), (cfg.seed,), device)
    learner.load(run.final()["learner"])
    fixed = midpoints(DFACConfig.acting)
    for metric, levels in (("won_fixed", fixed), ("won_drawn", DFACConfig.acting)):
        made = greedy_episodes(learner.net, env, cfg.episodes, LATER_SEED, levels)
        add(metric, [outcomes(made).won.mean()])
    if task.noisy and METHODS[cfg.method].joint:
        played = greedy_episodes(learner.net, env, cfg.monte_carlo, LATER_SEED + 1_000, fixed)
        returns = returns_of(played, cfg.gamma, task.reward_scale)
        law_rows(first_laws(learner.net, played, env.n_actions, LEVELS), returns, add)


def law_rows(laws: NDArray[np.float64], returns: NDArray[np.float64], add: Add) -> None:
    """Z_jt of the first moments [episodes, K] against the returns of these episodes.

    The learnt law is a mixture over the episodes' beginnings; for ``w1_point`` each part of it is
    the point mass at its mean.
    """
    w1 = scipy.stats.wasserstein_distance
    centred, means = laws - laws.mean(), laws.mean(-1)
    away = returns - returns.mean()
    add("w1_return", [w1(laws.ravel(), returns)])
    add("w1_point", [w1(means, returns)])
    add("w1_shape", [w1(centred.ravel(), away)])  # both with mean 0
    add("w1_shape_point", [w1(means - means.mean(), away)])
    add("law_std", [laws.std()])
    add("return_std", [returns.std()])
    add("law_mean", [laws.mean()])
    add("return_mean", [returns.mean()])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
