"""Configurations of the two kinds of runs, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, choose
from common.marl.protocol import BatchEnv
from papers.dfac.learner import Learning
from papers.dfac.method import DFACConfig
from papers.dfac.methods import METHODS
from papers.dfac.networks import Sizes
from papers.dfac.task import GAMES, RANDOM, battle_task, game_task


@dataclass
class GameConfig:
    """One run of a matrix game, all its seeds side by side (train_games.py)."""

    method: str = "dmix"  # see methods.METHODS
    task: str = "game-m"  # game-m, game-n, or digm: random networks, nothing is learnt
    seed: tuple[int, ...] = (0,)  # trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    updates: int | None = None  # gradient updates, and plays (per game)
    batch: int = 32  # plays of an update
    buffer: int = 5_000  # plays
    lr: float = 5e-4  # Adam
    samples: int = 8  # N = N' quantile fractions
    kappa: float | None = None  # of the Huber loss (1; the method's own)
    hidden: int = 64  # H
    target_every: int = 200  # updates between copies into the target network
    evaluations: int = 20  # in the course of training
    draws: int = 200  # random networks of a seed (digm)


@dataclass
class Config:
    """One run of a battle (train.py). What is left at None is the task's or the method's."""

    method: str = "dmix"  # see methods.METHODS
    task: str = "smax-3m"  # see task.BATTLES
    seed: int = 0  # training seed
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps
    envs: int = 16  # environments that are stepped together
    steps_per_update: int = 60  # environment steps per gradient update
    batch: int = 32  # episodes of an update
    buffer: int = 5_000  # episodes
    lr: float = 1e-3  # learning rate (released: 5e-4)
    samples: int = 8  # N = N' quantile fractions
    kappa: float | None = None  # of the Huber loss (1; the method's own)
    gamma: float = 0.99  # discount
    double_q: bool = True  # the next actions are the online network's
    as_released: bool = False  # DFAC: Adam, no double Q; baselines: RMSprop, double Q; DDN's N 1
    hidden: int | None = None  # H (64; on SMAC the released table by map and method)
    epsilon: float = 0.05  # exploration at the end
    anneal: int | None = None  # environment steps over which it falls from 1 (a quarter)
    target_every: int = 50  # updates between copies into the target network
    evaluations: int = 20  # in the course of training
    episodes: int = 64  # of an evaluation, greedy
    monte_carlo: int = 512  # episodes whose returns the learnt law is compared with (noisy tasks)


def check_game(cfg: GameConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown method or task, or random networks of a method without a law.
    """
    method = METHODS[cfg.method]
    choose("task", cfg.task, [*GAMES, RANDOM])
    if cfg.task == RANDOM and not (
        method.joint and method.law in ("quantile", "categorical", "per-quantile")
    ):
        raise UserError(f"{method.label} has no joint law whose best action could be looked for")


def game_updates(cfg: GameConfig) -> int:
    """Gradient updates of a run: none where nothing is learnt."""
    method = METHODS[cfg.method]
    if cfg.task == RANDOM or not method.trained:
        return 0
    given = method.changes.get("updates", cfg.updates)
    return int(game_task(cfg.task).updates if given is None else given)


def _kappa(method: str, given: float | None) -> float:
    default = METHODS[method].changes.get("kappa", DFACConfig.kappa)
    kappa = float(default if given is None else given)
    if kappa <= 0:
        raise UserError(f"--kappa must be above 0, not {kappa:g}")
    return kappa


def game_learning(cfg: GameConfig) -> Learning:
    """How a game is learnt: undiscounted, the next action by the target network."""
    loss = DFACConfig(
        gamma=1.0,
        samples=cfg.samples,
        target_samples=cfg.samples,
        kappa=_kappa(cfg.method, cfg.kappa),
    )
    return Learning(loss=loss, lr=cfg.lr, target_every=cfg.target_every)


def battle_learning(cfg: Config) -> Learning:
    """How a battle is learnt; as released or equally by all methods."""
    method = METHODS[cfg.method]
    as_released = cfg.as_released or battle_task(cfg.task).as_released
    scalar = method.law == "scalar"
    one = as_released and not scalar and method.mean in ("none", "sum")
    samples = 1 if one else cfg.samples
    loss = DFACConfig(
        gamma=cfg.gamma,
        samples=samples,
        target_samples=samples,
        kappa=_kappa(cfg.method, cfg.kappa),
        double_q=scalar if as_released else cfg.double_q,
    )
    if as_released:
        optimizer = "rmsprop" if scalar else "adam"
        return Learning(loss, optimizer, 5e-4, target_every=cfg.target_every)  # type: ignore[arg-type]
    return Learning(loss=loss, lr=cfg.lr, target_every=cfg.target_every)


def check_battle(cfg: Config) -> None:
    """Refuse what cannot be run.

    Raises:
        UserError: for an unknown method, or one that is not learnt from episodes.
    """
    method = METHODS[cfg.method]
    if not method.trained or method.changes.get("updates") == 0:
        raise UserError(f"{method.label} learns nothing from battles; it is there for the games")


def battle_sizes(cfg: Config, env: BatchEnv) -> Sizes:
    """Networks for an environment."""
    task = battle_task(cfg.task)
    n, A = env.n_agents, env.n_actions
    return Sizes(
        *(n, env.obs_dim + A + n, A, env.state_dim),
        hidden=cfg.hidden or task.hidden.get(cfg.method, 64),
        support=(-0.25 * 20, 1.25 * 20),  # returns reach 20
    )
