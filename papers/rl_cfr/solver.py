"""Discounted CFR on a public tree, vectorised over the hands of both players.

A node of the tree is a *public* state; what depends on private cards is a vector over hands. At a
terminal node player 0 receives ``scale * payoff[matrix, hand_0, hand_1]``: blocked pairs of hands
have entries 0, and the probability of public chance is a factor of the entries. Then

    u_0(node) = sum over h0, h1 of reach_0[h0] payoff[h0, h1] reach_1[h1] * scale.

Everything that belongs to an action is stored at the child it leads to. Children of a node are
neighbours and come after it, so a loop over nodes in (reverse) order is a (backward) forward pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.jit import jit_of
from common.random_bits import SOURCE as RANDOM_BITS

Float = NDArray[np.float64]
Int = NDArray[np.int64]

PLAYER_0, PLAYER_1, CHANCE, TERMINAL = 0, 1, 2, 3

WARM_UP = 20  # iterations that enter no average (repository)
ALPHA = 1.5  # exponent of the discount of positive regrets (paper: DCFR(1.5, 0, 2))

_FILES = ("solver", "abstraction", "task")
jit = jit_of(*(Path(__file__).with_name(f"{name}.py") for name in _FILES), RANDOM_BITS)


class Tree(NamedTuple):
    """A public tree of N nodes, breadth first; node 0 is the root."""

    parent: Int  # [N], -1 at the root
    first: Int  # [N], first child
    last: Int  # [N], one past the last child; equal to first at a terminal node
    kind: Int  # [N], PLAYER_0, PLAYER_1, CHANCE or TERMINAL
    matrix: Int  # [N], which payoff matrix a terminal node has
    scale: Float  # [N], chips by which it is multiplied


class Deal(NamedTuple):
    """What the private cards decide: payoff matrices, and which pairs of hands can be."""

    payoff: Float  # [2, M, n, n], to player p, rows: the opponent's hands, columns: p's
    compatible: Float  # [n, n], weight of a pair of hands (0: they share a card)


class State(NamedTuple):
    """What DCFR carries from one iteration to the next, by child and hand."""

    regret: Float  # [N, n]
    policy: Float  # [N, n], of the player who moves at the parent; 1 elsewhere
    total: Float  # [N, n], sum over iterations of weight * own reach * policy
    owner: Int  # [N, 2], node whose row holds player p's reach of this node


def new_deal(payoff: Float, compatible: Float) -> Deal:
    """From the payoffs [M, n, n] to player 0 (rows: player 0's hands)."""
    both = np.stack([payoff.transpose(0, 2, 1), -payoff])
    return Deal(np.ascontiguousarray(both, float), np.ascontiguousarray(compatible, float))


@jit
def new_state(tree: Tree, n_hands: int) -> State:
    """No regrets, uniform policy."""
    N = tree.kind.size
    policy = np.ones((N, n_hands))
    owner = np.zeros((N, 2), np.int64)
    for c in range(1, N):
        parent = tree.parent[c]
        kind = tree.kind[parent]
        for p in range(2):
            owner[c, p] = c if kind == p else owner[parent, p]
        if kind < CHANCE:
            policy[c] = 1.0 / (tree.last[parent] - tree.first[parent])
    return State(np.zeros((N, n_hands)), policy, np.zeros((N, n_hands)), owner)


@jit
def reaches(tree: Tree, state: State, policy: Float, p: int, start: Float, reach: Float) -> None:
    """Player p's probability [N, n] of playing to each node, valid in rows owned by p.

    Row ``state.owner[i, p]`` holds the reach of node i: nothing is copied where p does not move.
    """
    n = start.size
    for h in range(n):
        reach[0, h] = start[h]
    for i in range(tree.kind.size):
        if tree.kind[i] == p:
            row = state.owner[i, p]
            for c in range(tree.first[i], tree.last[i]):
                for h in range(n):
                    reach[c, h] = reach[row, h] * policy[c, h]


@jit
def leaf_values(
    tree: Tree, deal: Deal, state: State, p: int, opponent_reach: Float, value: Float
) -> None:
    """Counterfactual values [N, n] of player p at the terminal nodes: half of an iteration's time.

    Four of the opponent's hands at a time, which halves the loads and stores of ``value``.
    """
    n = deal.compatible.shape[0]
    matrices = deal.payoff[p]
    n_fours = n - n % 4
    for i in range(tree.kind.size):
        if tree.kind[i] != TERMINAL:
            continue
        row, m, scale = state.owner[i, 1 - p], tree.matrix[i], tree.scale[i]
        for h in range(n):
            value[i, h] = 0.0
        for g in range(0, n_fours, 4):
            w0 = scale * opponent_reach[row, g]
            w1 = scale * opponent_reach[row, g + 1]
            w2 = scale * opponent_reach[row, g + 2]
            w3 = scale * opponent_reach[row, g + 3]
            for h in range(n):
                value[i, h] += (w0 * matrices[m, g, h] + w1 * matrices[m, g + 1, h]) + (
                    w2 * matrices[m, g + 2, h] + w3 * matrices[m, g + 3, h]
                )
        for g in range(n_fours, n):
            w0 = scale * opponent_reach[row, g]
            for h in range(n):
                value[i, h] += w0 * matrices[m, g, h]


@jit
def update(tree: Tree, state: State, p: int, keep: float, value: Float) -> None:
    """Values, regrets and new policy of player p from the values of the terminal nodes.

    R <- kappa R + (v(action) - v(node)), kappa = ``keep`` where R >= 0 and 1/2 where R < 0; then
    regret matching, uniform where no regret is positive.
    """
    regret, policy = state.regret, state.policy
    n = regret.shape[1]
    norm = np.empty(n)
    for i in range(tree.kind.size - 1, -1, -1):
        kind = tree.kind[i]
        if kind == TERMINAL:
            continue
        first, last = tree.first[i], tree.last[i]
        for h in range(n):
            value[i, h] = 0.0
        if kind != p:
            for c in range(first, last):
                for h in range(n):
                    value[i, h] += value[c, h]
            continue
        for c in range(first, last):
            for h in range(n):
                value[i, h] += policy[c, h] * value[c, h]
        for h in range(n):
            norm[h] = 0.0
        for c in range(first, last):
            for h in range(n):
                old = regret[c, h]
                new = old * (keep if old >= 0.0 else 0.5) + (value[c, h] - value[i, h])
                regret[c, h] = new
                norm[h] += max(new, 0.0)
        uniform = 1.0 / (last - first)
        for h in range(n):
            norm[h] = 1.0 / norm[h] if norm[h] > 0.0 else 0.0
        for c in range(first, last):
            for h in range(n):
                positive = max(regret[c, h], 0.0) * norm[h]
                policy[c, h] = positive if norm[h] > 0.0 else uniform


@jit
def add_to_average(tree: Tree, state: State, p: int, weight: float, reach: Float) -> None:
    """Add weight * reach * policy of player p; ``reach`` [N, n] already holds the product."""
    total = state.total
    n = total.shape[1]
    for c in range(1, tree.kind.size):
        if tree.kind[tree.parent[c]] == p:
            for h in range(n):
                total[c, h] += weight * reach[c, h]


@jit
def average_weight(t: int, warm_up: int, gamma: float) -> float:
    """Weight of iteration t in the average: (t - warm_up + 1)^gamma, none during the warm-up."""
    return float(t - warm_up + 1) ** gamma if t >= warm_up else 0.0


@jit
def iterate(
    tree: Tree,
    deal: Deal,
    ranges: Float,
    state: State,
    begin: int,
    end: int,
    warm_up: int,
    gamma: float,
    root: Float,
) -> None:
    """Iterations ``begin`` … ``end`` - 1 of DCFR; iteration t updates player t mod 2 alone.

    The reach that the average of a player needs is the one that the *other* player's update
    computes: a policy set at iteration t - 1 is in use at t (the other's update) and at t + 1 (its
    own next update), and enters with the weights of both.

    Args:
        ranges: [2, n] reach of the players' hands at the root.
        state: updated in place.
        root: [end - begin], player 0's value at the root under the policies of iteration t.
    """
    N, n = state.regret.shape
    reach, value = np.empty((N, n)), np.empty((N, n))
    for t in range(begin, end):
        p = t % 2
        reaches(tree, state, state.policy, 1 - p, ranges[1 - p], reach)
        weight = average_weight(t, warm_up, gamma) + average_weight(t + 1, warm_up, gamma)
        if weight > 0.0:
            add_to_average(tree, state, 1 - p, weight, reach)
        leaf_values(tree, deal, state, p, reach, value)
        grown = float(t + 1) ** ALPHA
        update(tree, state, p, grown / (grown + 1.0), value)
        at_root = 0.0
        for h in range(n):
            at_root += ranges[p, h] * value[0, h]
        root[t - begin] = at_root if p == 0 else -at_root


# -- what a solution is worth ---------------------------------------------------------------------


@jit
def average_policy(tree: Tree, state: State) -> Float:
    """The average strategy [N, n], by child: reach-weighted policies, normalised over siblings."""
    N, n = state.total.shape
    policy = np.ones((N, n))
    for i in range(N):
        if tree.kind[i] >= CHANCE:
            continue
        first, last = tree.first[i], tree.last[i]
        for h in range(n):
            mass = 0.0
            for c in range(first, last):
                mass += state.total[c, h]
            for c in range(first, last):
                policy[c, h] = state.total[c, h] / mass if mass > 0.0 else 1.0 / (last - first)
    return policy


@jit
def hand_values(
    tree: Tree, deal: Deal, ranges: Float, state: State, policy: Float, p: int, best: bool
) -> Float:
    """Player p's counterfactual value [n] of each hand at the root.

    Args:
        policy: [N, n] of both players.
        best: p plays a best response to the opponent's policy instead of its own.
    """
    N, n = policy.shape
    reach, value = np.empty((N, n)), np.empty((N, n))
    reaches(tree, state, policy, 1 - p, ranges[1 - p], reach)
    leaf_values(tree, deal, state, p, reach, value)
    for i in range(N - 1, -1, -1):
        kind = tree.kind[i]
        if kind == TERMINAL:
            continue
        first, last = tree.first[i], tree.last[i]
        for h in range(n):
            value[i, h] = value[first, h] * (policy[first, h] if kind == p and not best else 1.0)
            for c in range(first + 1, last):
                if kind != p:
                    value[i, h] += value[c, h]
                elif best:
                    value[i, h] = max(value[i, h], value[c, h])
                else:
                    value[i, h] += policy[c, h] * value[c, h]
    return value[0]


class Solution(NamedTuple):
    """An approximate equilibrium of a tree; values per compatible pair of hands, in chips."""

    values: Float  # [2] of the average strategies
    iterate_values: Float  # [2] means of the iterates' values (the repository's)
    exploitability: float  # (best response of 0 + best response of 1) / 2
    policy: Float  # [N, n] average strategies, by child
    iterations: int
    nodes: int


def solve(
    tree: Tree,
    deal: Deal,
    ranges: Float,
    iterations: int,
    *,
    tolerance: float | None = None,
    most_iterations: int | None = None,
    warm_up: int = WARM_UP,
    gamma: float = 1.0,
) -> Solution:
    """Run DCFR and measure its average strategies exactly.

    Args:
        ranges: [2, n] of player 0 and player 1 at the root; need not be normalised.
        iterations: T; an iteration updates one player.
        tolerance: while the exploitability is above it, T is doubled.
        most_iterations: T is not doubled beyond this (default: 8 T).
        gamma: exponent of the weights of the average (1: linear).
    """
    state = new_state(tree, ranges.shape[1])
    mass = float(ranges[0] @ deal.compatible @ ranges[1])
    limit = most_iterations or 8 * iterations
    done, roots = 0, []
    while True:
        root = np.zeros(iterations - done)
        iterate(tree, deal, ranges, state, done, iterations, warm_up, gamma, root)
        roots.append(root)
        done = iterations
        policy = average_policy(tree, state)
        best = [
            float(ranges[p] @ hand_values(tree, deal, ranges, state, policy, p, True))
            for p in (0, 1)
        ]
        exploitability = sum(best) / (2 * mass)
        if tolerance is None or exploitability <= tolerance or 2 * iterations > limit:
            break
        iterations *= 2
    value = float(ranges[0] @ hand_values(tree, deal, ranges, state, policy, 0, False)) / mass
    trace = np.concatenate(roots)
    age = np.arange(done) - min(warm_up, done - 1) + 1.0
    weights = np.where(age > 0, np.abs(age) ** gamma, 0.0)
    iterate_value = float(trace @ weights / weights.sum()) / mass
    return Solution(
        np.array([value, -value]),
        np.array([iterate_value, -iterate_value]),
        exploitability,
        policy,
        done,
        tree.kind.size,
    )
