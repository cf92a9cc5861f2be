"""Environments by name: ``make_env("smax:3m", 16)``.

=============  ==================================  ============================================
family         names                               options
=============  ==================================  ============================================
``smax``       3m, 2s3z, 5m_vs_6m,                 sight_range, terminal_noise
               smacv2_5_units, ...
``mpe``        facmac_mpe, facmac_distinct,        of ``JaxMpe``
               spread
``mamujoco``   HalfCheetah-2x3, Ant-4x2,           agent_obsk, Gymnasium's
               Walker2d-6x1, ...
``pp``         5x5-3: grid, predators              vision, limit
``pcp``        5x5-2+1: grid, predators that see   vision, limit, capture_first
               + capture agents that do not
``matrix``     two_step, dfac_m, dfac_n,           penalty (of the game of that name)
               climbing, penalty
``pettingzoo`` a module: mpe2.simple_spread_v3     reward, limit, what its parallel_env takes
``lbf``        8x8-2p-2f-coop, 2s-10x10-3p-3f      reward
``rware``      tiny-2ag, small-4ag-hard            reward
``smac``       3m, MMM2, 27m_vs_30m, ...           of StarCraft2Env
``smacv2``     terran_5_vs_5, zerg_10_vs_11        of StarCraft2Env
=============  ==================================  ============================================

A simulator is imported when one of its environments is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from common.errors import UserError, choose
from common.marl.protocol import BatchEnv


def make_env(name: str, n_envs: int, **options: Any) -> BatchEnv:
    """A batch of environments.

    Args:
        name: FAMILY:TASK, see the module.
        n_envs: E.
        options: of the family, see the module.

    Raises:
        UserError: for an unknown family or task, if ``n_envs`` is below 1, or if a package or a
            game is missing; the message says how it is had.
    """
    family, colon, task = name.partition(":")
    choose("family of environments", family, _FAMILIES)
    if not colon or not task:
        raise UserError(f"'{name}' names no task; write {family}:TASK")
    if n_envs < 1:
        raise UserError(f"{n_envs} environments: there must be one at least")
    try:
        env = _FAMILIES[family](task, n_envs, **options)
    except ModuleNotFoundError as error:
        raise UserError(
            f"'{name}' needs the package '{error.name}', which is missing; "
            "'make setup PAPER=<paper>' installs what a paper needs (extra \"marl\")"
        ) from error
    env.name = name
    return env


def _smax(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.smax import Smax

    return Smax(task, n_envs, **options)


def _mpe(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.jax_mpe import JaxMpe

    return JaxMpe(task, n_envs, **options)


def _mamujoco(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.mamujoco import MaMujoco

    return MaMujoco(task, n_envs, **options)


def _grid(task: str, form: str, example: str) -> list[int]:
    """The numbers of a task on a grid, which has to be square."""
    match = re.fullmatch(form, task)
    if not match or match[1] != match[2]:
        raise UserError(f"'{task}' is no predator-prey task; write it like {example}")
    return [int(number) for number in match.groups()[1:]]


def _pp(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.predator_prey import PredatorPrey

    size, predators = _grid(task, r"(\d+)x(\d+)-(\d+)", "5x5-3: grid, predators")
    return PredatorPrey(n_envs, size=size, n_predators=predators, **options)


def _pcp(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.predator_prey import PredatorCapturePrey

    example = "5x5-2+1: grid, predators + capture agents"
    size, predators, capture = _grid(task, r"(\d+)x(\d+)-(\d+)\+(\d+)", example)
    return PredatorCapturePrey(
        n_envs, size=size, n_predators=predators, n_capture=capture, **options
    )


def _matrix(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.matrix_games import MatrixGame

    return MatrixGame(task, n_envs, **options)


def _pettingzoo(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.pettingzoo_env import PettingZoo

    return PettingZoo(task, n_envs, **options)


def _lbf(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.gym_tuples import Foraging

    return Foraging(task, n_envs, **options)


def _rware(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.gym_tuples import Warehouse

    return Warehouse(task, n_envs, **options)


def _smac(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.smac import Smac

    return Smac(task, n_envs, **options)


def _smacv2(task: str, n_envs: int, **options: Any) -> BatchEnv:
    from common.marl.smac import SmacV2

    return SmacV2(task, n_envs, **options)


_FAMILIES: dict[str, Callable[..., BatchEnv]] = {
    "smax": _smax,
    "mpe": _mpe,
    "mamujoco": _mamujoco,
    "pp": _pp,
    "pcp": _pcp,
    "matrix": _matrix,
    "pettingzoo": _pettingzoo,
    "lbf": _lbf,
    "rware": _rware,
    "smac": _smac,
    "smacv2": _smacv2,
}
FAMILIES = tuple(_FAMILIES)

__all__ = ["FAMILIES", "make_env"]
