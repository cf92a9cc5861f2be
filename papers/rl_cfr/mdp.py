"""The MDP over public states of RL-CFR (Li, Fang and Huang, ICML 2024).

State s: a public state (``task.features``: no hand ranges). Action a in [-1, 1]^{2K}: an
abstraction (``abstraction.chosen_sizes``). Reward: what the acting player p gains at the root,

    r(s, a) = v_p^{AA(a)}(beta) - v_p^{AA_def}(beta),                                   reward

both values solved by CFR on trees that differ in the root's actions alone. Transition: a child of
one of the two solved roots, with ranges updated by Bayes' rule.                        transition
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.rl_cfr.abstraction import Abstraction
from papers.rl_cfr.solver import TERMINAL, Deal, Solution, solve
from papers.rl_cfr.task import MBB, N_HANDS, Grown, Public, child_state, features, grow

Float = NDArray[np.float64]
SMALLEST_MASS = 1e-6  # a range, or a pair of ranges, below this is impossible


class Belief(NamedTuple):
    """A public belief state: a public state and both players' ranges [2, 36], each of sum 1."""

    state: Public
    ranges: Float


def uniform_ranges() -> Float:
    """Ranges [2, 36] before anybody has acted."""
    return np.full((2, N_HANDS), 1.0 / N_HANDS)


@dataclass(frozen=True)
class Solving:
    """How subgames are solved and which number of a solution is its value."""

    iterations: int = 500  # T
    tolerance_mbb: float | None = 1.0  # T is doubled while a tree is more exploitable; None: never
    value: str = "average"  # of the average strategies, or "iterates": mean of the iterates' values


class Solved(NamedTuple):
    """A tree, its solution, and the acting player's value in mbb per hand."""

    grown: Grown
    solution: Solution
    value: float


def solve_with(
    belief: Belief,
    deal: Deal,
    at_root: Abstraction,
    below: tuple[Abstraction, Abstraction],
    how: Solving,
) -> Solved:
    """Solve the subgame of a public belief state with an abstraction at its root.

    The value is divided by the probability that the two ranges are compatible: true mbb per hand,
    also at deep nodes (the repository divides by nothing, its rewards shrink with reach).

    Args:
        below: abstractions of players 0 and 1 at all other nodes.
    """
    grown = grow(belief.state, at_root, *below)
    tolerance = None if how.tolerance_mbb is None else how.tolerance_mbb / MBB
    solution = solve(grown.tree, deal, belief.ranges, how.iterations, tolerance=tolerance)
    values = solution.values if how.value == "average" else solution.iterate_values
    return Solved(grown, solution, float(values[belief.state.player]) * MBB)


def reward(chosen: Solved, default: Solved) -> float:
    """r = v_p^{AA(a)} - v_p^{AA_def} in mbb per hand; the trees differ at the root alone."""
    return chosen.value - default.value


def explore(action: Float, noise: float, rng: np.random.Generator) -> Float:
    """clip(a + N(0, noise^2), -1, 1)."""
    return np.clip(action + noise * rng.standard_normal(action.size), -1.0, 1.0)


def transition(
    belief: Belief,
    deal: Deal,
    chosen: Solved,
    default: Solved,
    rng: np.random.Generator,
    *,
    p_chosen: float = 2 / 3,
    p_uniform: float = 1 / 4,
) -> Belief | None:
    """The next public belief state, or None where the hand ends.

    Goes on along the chosen root with probability ``p_chosen``, else along the default one; the
    child is uniform with probability ``p_uniform``, else from the range-weighted average strategy.
    The actor's range is multiplied by the probability of the action and normalised. If that leaves
    no hand, or none that goes with the opponent's, it is kept: such a child is never played.
    """
    solved = chosen if rng.random() < p_chosen else default
    first, last = int(solved.grown.tree.first[0]), int(solved.grown.tree.last[0])
    p = belief.state.player
    policy = solved.solution.policy[first:last]  # [actions, 36]
    if rng.random() < p_uniform:
        index = int(rng.integers(last - first))
    else:
        probabilities = policy @ belief.ranges[p]
        cumulative = np.cumsum(probabilities)
        index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        index = min(index, last - first - 1)
    child = first + index
    if solved.grown.tree.kind[child] == TERMINAL:
        return None
    updated = belief.ranges[p] * policy[index]
    ranges = belief.ranges.copy()
    if updated.sum() > SMALLEST_MASS:
        ranges[p] = updated / updated.sum()
        if ranges[0] @ deal.compatible @ ranges[1] < SMALLEST_MASS:
            ranges[p] = belief.ranges[p]
    return Belief(child_state(belief.state, solved.grown, child), ranges)


def inputs(belief: Belief, with_ranges: bool) -> Float:
    """What the networks see: the public state [32]; in the PBS ablation the ranges [72] too."""
    view = features(belief.state)
    if not with_ranges:
        return view
    return np.concatenate([view, (belief.ranges * N_HANDS - 1.0).ravel().clip(-1.0, 3.0)])
