"""What RL-CFR is compared with: tuned and searched abstractions.

An abstraction of any kind is an ``abstraction.Abstraction`` and goes through the same trees, the
same solver and the same evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from papers.rl_cfr import leduc
from papers.rl_cfr.abstraction import Abstraction, fixed
from papers.rl_cfr.mdp import Belief, Solving, reward, solve_with, uniform_ranges
from papers.rl_cfr.solver import Deal
from papers.rl_cfr.task import first_state, make_deal

Float = NDArray[np.float64]

TUNING_GRID = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
ORACLE_GRID = (
    *(0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75),
    *(1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
)


def root_gains(
    belief: Belief,
    deal: Deal,
    candidates: Sequence[Sequence[float]],
    default: Abstraction,
    how: Solving,
) -> Float:
    """Gain over AA_def (mbb per hand) of each fixed set of sizes at the root, AA_def below."""
    base = solve_with(belief, deal, default, (default, default), how)
    solved = (solve_with(belief, deal, fixed(c), (default, default), how) for c in candidates)
    return np.array([reward(one, base) for one in solved])


def tune_fixed(
    deals: Sequence[tuple[NDArray[np.int64], float]],
    n_sizes: int,
    default: Abstraction,
    how: Solving,
) -> tuple[tuple[float, ...], list[tuple[tuple[float, ...], float]]]:
    """TUNED-FIXED: the set of up to ``n_sizes`` sizes with the largest mean gain on these deals.

    Returns:
        the best set, and every set with its mean gain.
    """
    candidates: list[tuple[float, ...]] = [
        c for k in range(n_sizes + 1) for c in itertools.combinations(TUNING_GRID, k)
    ]
    total = np.zeros(len(candidates))
    for nine, stack in deals:
        belief = Belief(first_state(nine, stack), uniform_ranges())
        total += root_gains(belief, make_deal(nine), candidates, default, how)
    mean = total / len(deals)
    order = np.argsort(-mean)
    return candidates[order[0]], [(candidates[i], float(mean[i])) for i in order]


def best_single_size(belief: Belief, deal: Deal, default: Abstraction, how: Solving) -> Abstraction:
    """GRID oracle: the single root size (or none) that is best for this very state."""
    candidates: list[tuple[float, ...]] = [(), *((x,) for x in ORACLE_GRID)]
    gains = root_gains(belief, deal, candidates, default, how)
    return fixed(candidates[int(gains.argmax())])


def tune_leduc(
    stack: int, n_sizes: int, iterations: int
) -> tuple[tuple[float, ...], list[tuple[tuple[float, ...], float]]]:
    """TUNED-FIXED of no-limit Leduc: the set of sizes with the least security loss."""
    table = []
    for k in range(n_sizes + 1):
        for sizes in itertools.combinations(TUNING_GRID[3:], k):
            games = leduc.build(stack, sizes, None), leduc.build(stack, None, sizes)
            own = [leduc.solve_game(game, iterations).values[p] for p, game in enumerate(games)]
            table.append((sizes, -1000 * float(sum(own)) / 2))
    table.sort(key=lambda line: line[1])
    return table[0][0], table
