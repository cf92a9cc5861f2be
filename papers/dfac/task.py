"""The tasks: matrix games, random networks, battles in SMAX and SMAC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import choose


@dataclass(frozen=True)
class GameTask:
    """A matrix game and how it is learnt.

    Attributes:
        game: a name in ``common.marl.matrix_games.GAMES``.
        state: whose laws are compared with the exact ones.
        updates: of the gradient.
        heads, layers: QPLEX's lambda; the released ones are 4 and 1.
        support: smallest and largest atom of C51.
    """

    game: str
    state: int
    updates: int
    heads: int = 4
    layers: int = 1
    support: tuple[float, float] = (-8.0, 17.0)


# QPLEX's own study of such a table widens lambda: 10 heads, two hidden layers
GAMES = {
    "game-m": GameTask("dfac_m", 2, 5_000),
    "game-n": GameTask("dfac_n", 0, 5_000, heads=10, layers=3, support=(-25.0, 15.0)),
}
RANDOM = "digm"  # random networks, nothing is learnt


@dataclass(frozen=True)
class BattleTask:
    """A map, its scale of rewards, and the budget.

    Attributes:
        env: of ``common.marl.environments``.
        options: of the environment.
        steps: environment steps.
        reward_scale: rewards are multiplied by it; SMAC's returns are 20 at most, so SMAX's are
            made to be (the Huber loss's kappa is in units of the return).
        as_released: DFAC's Adam without double Q against the baselines' RMSprop with it.
        hidden: width of the agents by method, where it is not the configuration's.
        noisy: the law of the return is compared with played episodes.
    """

    env: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 120_000
    reward_scale: float = 10.0
    as_released: bool = False
    hidden: Mapping[str, int] = field(default_factory=dict)
    noisy: bool = False


def _super_hard(name: str, *widths: int) -> BattleTask:
    """A map of SMAC: H of IQL, VDN, QMIX, DIQL, DDN, DMIX, as released."""
    methods = ("iql", "vdn", "qmix", "diql", "ddn", "dmix")
    hidden = dict(zip(methods, widths, strict=True))
    return BattleTask(f"smac:{name}", steps=8_000_000, reward_scale=1.0, hidden=hidden)


SUPER_HARD = {
    "smac-3s5z_vs_3s6z": _super_hard("3s5z_vs_3s6z", 512, 128, 128, 256, 512, 256),
    "smac-6h_vs_8z": _super_hard("6h_vs_8z", 128, 128, 256, 512, 512, 256),
    "smac-MMM2": _super_hard("MMM2", 256, 64, 64, 512, 512, 256),
    "smac-27m_vs_30m": _super_hard("27m_vs_30m", 256, 64, 64, 512, 128, 128),
    "smac-corridor": _super_hard("corridor", 256, 128, 256, 512, 128, 64),
}
NOISE = {"terminal_noise": 0.5}  # 5 in the learner's units
BATTLES = {
    "smax-3m": BattleTask("smax:3m"),
    "smax-3m-noise": BattleTask("smax:3m", NOISE, noisy=True),
    "smax-3m-released": BattleTask("smax:3m", as_released=True),
    "smax-2s3z": BattleTask("smax:2s3z", steps=600_000),
    **SUPER_HARD,
}


def game_task(name: str) -> GameTask:
    """A matrix game by its name.

    Raises:
        UserError: for an unknown one.
    """
    choose("matrix game", name, GAMES)
    return GAMES[name]


def battle_task(name: str) -> BattleTask:
    """A map by its name.

    Raises:
        UserError: for an unknown one.
    """
    choose("task", name, BATTLES)
    return BATTLES[name]
