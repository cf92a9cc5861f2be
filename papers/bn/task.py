"""Environments: HyperGrids, sets, RNA strings and QED strings, enumerated; and the tabular grid.

Every state is a row of a table, every object's reward is known, so the L1 distance is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.gfn.dag import EnumeratedDAG, SlotMoves
from common.gfn.hypergrid import HyperGrid
from common.gfn.sets import set_dag
from common.gfn.strings import StringEnv

GRIDS = {"g1": (2, 16), "g2": (3, 8), "g3": (4, 8)}  # D, H
SETS = {"g4": 0.0, "g4-small": -6.0}  # what is added to every log R: the target is the same
ROW_TASKS = (*GRIDS, *SETS, "rna", "qed")
SAMPLED_TASKS = ("rna-long", "seh")  # too large to be enumerated (scale "paper")
TASKS = (*ROW_TASKS, "tabular", *SAMPLED_TASKS)


@dataclass
class Problem:
    """An enumerated task."""

    dag: EnumeratedDAG
    mode: Tensor  # [N] long: number of the mode that an object belongs to, -1: none
    n_modes: int
    epsilon: float  # probability of a uniformly random action while training
    moves: SlotMoves | None = None  # compiled sampling, where the environment can be so written
    index: Callable[[Tensor], Tensor] | None = None  # its states -> row numbers
    side: int = 0  # H of a two-dimensional grid, whose distribution can be drawn

    def to(self, device: torch.device) -> Problem:
        """The same with its tables on a device."""
        return replace(self, dag=self.dag.to(device), mode=self.mode.to(device))


def grid_problem(ndim: int, height: int, reward: str = "standard-3") -> Problem:
    """A HyperGrid; modes are the 2^D corner regions."""
    env = HyperGrid(ndim, height, reward)
    return Problem(
        dag=env.dag(),
        mode=env.region(env.all_states()),
        n_modes=2**ndim,
        epsilon=0.0,
        moves=env.moves(),
        index=env.index,
        side=height if ndim == 2 else 0,
    )


def planted_pairs(n_items: int = 16, n_pairs: int = 12, seed: int = 0) -> Tensor:
    """Distinct pairs of items that the reward of ``g4`` counts. [n_pairs, 2], the same always."""
    every = torch.combinations(torch.arange(n_items))
    rng = torch.Generator().manual_seed(seed)
    return every[torch.randperm(len(every), generator=rng)[:n_pairs]]


def set_problem(n_items: int = 16, size: int = 5, log_scale: float = 0.0) -> Problem:
    """Sets of ``size`` items with R = exp(log_scale + 2 #{planted pairs contained})."""
    pairs = planted_pairs(n_items)

    def log_reward(members: Tensor) -> Tensor:
        return log_scale + 2.0 * members[:, pairs].all(-1).sum(-1)

    dag = set_dag(n_items, size, log_reward)
    return Problem(dag, *top_modes(dag), epsilon=0.0)


def top_modes(dag: EnumeratedDAG, share: float = 0.005) -> tuple[Tensor, int]:
    """Numbers the best ``share`` of the objects by reward, ties included. [N] (-1: none), count."""
    rewards = dag.log_reward[torch.isfinite(dag.log_reward)]
    lowest = rewards.topk(max(1, round(share * len(rewards)))).values[-1]
    best = dag.log_reward >= lowest
    return torch.where(best, best.cumsum(0) - 1, -1), int(best.sum())


def string_problem(env: StringEnv, epsilon: float) -> Problem:
    """Strings under prepend and append; modes are the best 0.5 % of the strings."""
    dag = env.dag()
    return Problem(dag, *top_modes(dag), epsilon=epsilon, moves=env.moves(), index=env.index)


def from_table(log_reward: Tensor, n_letters: int) -> Callable[[Tensor], Tensor]:
    """log R of complete strings from a table in base-V order, first letter most significant."""

    def look_up(strings: Tensor) -> Tensor:
        radix = n_letters ** torch.arange(strings.shape[-1] - 1, -1, -1)
        return log_reward[(strings * radix).sum(-1)]

    return look_up


def rna_problem(length: int = 8, target: str = "RNA1", beta: float = 8.0) -> Problem:
    """RNA strings that bind to a target: R = max(f, 1e-3)^8, rescaled to at most 10."""
    from common.gfn import rna

    table = rna.log_reward(rna.fitness_table(target, length), beta)
    env = StringEnv("prepend_append", length, 4, from_table(table, 4))
    return string_problem(env, epsilon=0.01)


def qed_problem(length: int = 4, beta: float = 8.0) -> Problem:
    """QED strings: R = (QED clip((10 - SA)/9))^8, rescaled to at most 10."""
    from common.gfn import molecule_strings

    table = torch.from_numpy(np.log(molecule_strings.score_table(length)))
    table = beta * (table - table.max()) + float(np.log(10.0))
    n_letters = len(molecule_strings.BLOCKS)
    env = StringEnv("prepend_append", length, n_letters, from_table(table, n_letters))
    return string_problem(env, epsilon=0.01)


def problem(
    task: str, *, ndim: int | None, height: int | None, length: int | None, reward: str | None
) -> Problem:
    """The preset of a task with the sizes given on the command line put in."""
    if task in GRIDS:
        preset = GRIDS[task]
        return grid_problem(ndim or preset[0], height or preset[1], reward or "standard-3")
    if task in SETS:
        return set_problem(log_scale=SETS[task])
    if task == "rna":
        return rna_problem(length or 8)
    return qed_problem(length or 4)
