"""The engine against known values, brute force, a linear program and OpenSpiel."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from papers.rl_cfr import abstraction, leduc, solver, task
from papers.rl_cfr.solver import CHANCE, TERMINAL, Deal, Tree

UNIFORM = np.full((2, 36), 1 / 36)
DEFAULT = abstraction.fixed(abstraction.DEFAULT_SIZES)


def tree_of(nodes: list[tuple[int, int, int, float]]) -> Tree:
    """From (parent, kind, matrix, scale) in breadth-first order."""
    parent, kind, matrix = (np.array([n[j] for n in nodes], np.int64) for j in range(3))
    first, last = np.zeros(len(nodes), np.int64), np.zeros(len(nodes), np.int64)
    for i in range(len(nodes)):
        children = np.flatnonzero(parent == i)
        if len(children):
            first[i], last[i] = children[0], children[-1] + 1
    return Tree(parent, first, last, kind, matrix, np.array([n[3] for n in nodes]))


def kuhn() -> tuple[Tree, Deal, np.ndarray]:
    """Kuhn poker: check/bet; matrices: compatible, sign of the showdown."""
    compatible = 1.0 - np.eye(3)
    cards = np.arange(3)
    sign = np.sign(cards[:, None] - cards[None, :]).astype(float)
    nodes = [(-1, 0, 0, 0.0), (0, 1, 0, 0.0), (0, 1, 0, 0.0)]  # root, after check, after bet
    nodes += [(1, TERMINAL, 1, 1.0), (1, 0, 0, 0.0)]  # check-check; check-bet
    nodes += [(2, TERMINAL, 0, 1.0), (2, TERMINAL, 1, 2.0)]  # bet: fold, call
    nodes += [(4, TERMINAL, 0, -1.0), (4, TERMINAL, 1, 2.0)]
    return (
        tree_of(nodes),
        solver.new_deal(np.stack([compatible, sign]), compatible),
        np.full((2, 3), 1 / 3),
    )


def limit_leduc() -> tuple[Tree, Deal, np.ndarray]:
    """OpenSpiel's leduc_poker: antes 1, raises of 2 then 4, at most two raises a round."""
    nodes = [(-1, 0, 0, 0.0)]
    states: list = [((1, 1), 0, -1, 0, 0)]  # chips, player, board, acted, raises
    i = 0
    while i < len(nodes):
        state, kind = states[i], nodes[i][1]
        i += 1
        if kind == TERMINAL:
            continue
        chips, p, board, acted, raises = state
        if kind == CHANCE:
            for card in range(6):
                nodes.append((i - 1, 0, 0, 0.0))
                states.append((chips, 0, card, 0, 0))
            continue
        top = max(chips)
        if chips[p] < top:
            lost = float(chips[p])
            m = 0 if board < 0 else 1 + board
            nodes.append((i - 1, TERMINAL, m, -lost if p == 0 else lost))
            states.append(None)
        if acted == 0:
            nodes.append((i - 1, 1 - p, 0, 0.0))
            states.append((chips, 1 - p, board, 1, 0))
        elif board < 0:
            nodes.append((i - 1, CHANCE, 0, 0.0))
            states.append(((top, top), 0, -1, 0, 0))
        else:
            nodes.append((i - 1, TERMINAL, 7 + board, float(top)))
            states.append(None)
        if raises < 2:
            bet = top + (2 if board < 0 else 4)
            after = (bet, chips[1]) if p == 0 else (chips[0], bet)
            nodes.append((i - 1, 1 - p, 0, 0.0))
            states.append((after, 1 - p, board, acted + 1, raises + 1))
    return tree_of(nodes), leduc.new_leduc_deal(), leduc.uniform_ranges()


def root(index: int = 0, stack: float | None = None, *kinds: abstraction.Abstraction):
    """Tree, deal and state of a held-out hand."""
    nine, drawn = task.held_out(index + 1)[index]
    state = task.first_state(nine, stack or drawn)
    at_root, of_0, of_1 = kinds or (DEFAULT, DEFAULT, DEFAULT)
    return task.grow(state, at_root, of_0, of_1), task.make_deal(nine), state


# -- known games ---------------------------------------------------------------------------------


def test_kuhn() -> None:
    found = solver.solve(*kuhn(), 20_000)
    assert found.values[0] == pytest.approx(-1 / 18, abs=1e-4)
    assert 0 <= found.exploitability < 2e-4


def test_limit_leduc_has_openspiels_value() -> None:
    found = solver.solve(*limit_leduc(), 4000)
    assert found.values[0] == pytest.approx(-0.0856, abs=5e-4)
    assert found.exploitability < 1e-3


@pytest.mark.parametrize("game", [kuhn, limit_leduc])
def test_dcfr_is_the_textbooks(game) -> None:
    """A second implementation: both players in every iteration, averages by definition."""
    tree, deal, ranges = game()
    n, T, warm_up, gamma = ranges.shape[1], 30, 5, 2.0
    N = tree.kind.size
    regret, policy = np.zeros((N, n)), np.ones((N, n))
    children = [np.arange(tree.first[i], tree.last[i]) for i in range(N)]
    players = [i for i in range(N) if tree.kind[i] < CHANCE]
    for i in players:
        policy[children[i]] = 1 / len(children[i])
    total, trace = np.zeros((N, n)), []
    for t in range(T):
        reach = [np.zeros((N, n)), np.zeros((N, n))]
        for p in (0, 1):
            reach[p][0] = ranges[p]
            for i in range(N):
                for c in children[i]:
                    reach[p][c] = reach[p][i] * (policy[c] if tree.kind[i] == p else 1)
        weight = max(0.0, t - warm_up + 1) ** gamma if t >= warm_up else 0.0
        for i in players:
            total[children[i]] += weight * reach[tree.kind[i]][children[i]]
        p = t % 2
        value = np.zeros((N, n))
        for i in reversed(range(N)):
            if tree.kind[i] == TERMINAL:
                value[i] = tree.scale[i] * reach[1 - p][i] @ deal.payoff[p, tree.matrix[i]]
            elif tree.kind[i] == p:
                value[i] = (policy[children[i]] * value[children[i]]).sum(0)
            else:
                value[i] = value[children[i]].sum(0)
        trace.append((1 if p == 0 else -1) * ranges[p] @ value[0])
        keep = (t + 1) ** 1.5 / ((t + 1) ** 1.5 + 1)
        for i in players:
            if tree.kind[i] == p:
                c = children[i]
                regret[c] = regret[c] * np.where(regret[c] >= 0, keep, 0.5) + value[c] - value[i]
                positive = np.maximum(regret[c], 0)
                mass = positive.sum(0)
                with np.errstate(invalid="ignore"):
                    policy[c] = np.where(mass > 0, positive / mass, 1 / len(c))
    state = solver.new_state(tree, n)
    traced = np.zeros(T)
    solver.iterate(tree, deal, ranges, state, 0, T, warm_up, gamma, traced)
    np.testing.assert_allclose(state.regret, regret, atol=1e-12)
    np.testing.assert_allclose(state.policy, policy, atol=1e-10)
    np.testing.assert_allclose(traced, trace, atol=1e-12)
    # of the player who moved last; the other's total already holds what iteration T adds
    average = solver.average_policy(tree, state)
    for i in players:
        if tree.kind[i] == (T - 1) % 2:
            c, mass = children[i], total[children[i]].sum(0)
            mine = np.divide(total[c], mass, where=mass > 0, out=np.full((len(c), n), 1 / len(c)))
            np.testing.assert_allclose(average[c], mine, atol=1e-9)


def test_going_on_is_the_same_as_going_through() -> None:
    grown, deal, _ = root()
    whole, parts = (solver.new_state(grown.tree, 36) for _ in range(2))
    out = np.zeros(300)
    solver.iterate(grown.tree, deal, UNIFORM, whole, 0, 300, 20, 1.0, out)
    for begin, end in ((0, 7), (7, 120), (120, 300)):
        solver.iterate(grown.tree, deal, UNIFORM, parts, begin, end, 20, 1.0, out)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


# -- PREFLOP43 -----------------------------------------------------------------------------------


def test_values_by_explicit_double_loop() -> None:
    """Blockers and both seats: every pair of hands, every leaf, a random strategy pair."""
    grown, deal, _ = root(1, 5.0)
    tree, rng = grown.tree, np.random.default_rng(0)
    policy = np.ones((tree.kind.size, 36))
    for i in np.flatnonzero(tree.kind < CHANCE):
        c = slice(tree.first[i], tree.last[i])
        policy[c] = rng.dirichlet(np.ones(tree.last[i] - tree.first[i]), 36).T
    ranges = rng.dirichlet(np.ones(36), 2)
    nine, _ = task.held_out(2)[1]
    expected, mass = 0.0, 0.0
    for (h0, a), (h1, b) in itertools.product(enumerate(task.HANDS), enumerate(task.HANDS)):
        if set(a) & set(b):
            continue
        board = [nine[j] for j in range(9) if j not in {*a, *b}]
        strength = [task.evaluate7(np.array([*board, *nine[list(hand)]])) for hand in (a, b)]
        sign = np.sign(strength[0] - strength[1])
        pair = ranges[0, h0] * ranges[1, h1]
        mass += pair
        for leaf in np.flatnonzero(tree.kind == TERMINAL):
            p, i = pair, leaf
            while i > 0:
                kind = tree.kind[tree.parent[i]]
                p *= policy[i, h0 if kind == 0 else h1]
                i = tree.parent[i]
            expected += p * tree.scale[leaf] * (sign if tree.matrix[leaf] == task.SHOWDOWN else 1)
    state = solver.new_state(tree, 36)
    values = [
        ranges[p] @ solver.hand_values(tree, deal, ranges, state, policy, p, False) for p in (0, 1)
    ]
    assert values[0] == pytest.approx(expected, abs=1e-12)
    assert values[0] + values[1] == pytest.approx(0, abs=1e-12)
    assert mass == pytest.approx(ranges[0] @ deal.compatible @ ranges[1])
    best = ranges[0] @ solver.hand_values(tree, deal, ranges, state, policy, 0, True)
    assert best > values[0]


def lp_value(tree: Tree, deal: Deal, ranges: np.ndarray) -> float:
    """Value to player 0 per compatible pair by the sequence-form linear program (HiGHS)."""
    n, owner = ranges.shape[1], solver.new_state(tree, ranges.shape[1]).owner
    mine = [0, *(c for c in range(1, tree.kind.size) if tree.kind[tree.parent[c]] == 0)]
    theirs = [0, *(c for c in range(1, tree.kind.size) if tree.kind[tree.parent[c]] == 1)]
    nodes_0, nodes_1 = (np.flatnonzero(tree.kind == p) for p in (0, 1))
    x = {c: k * n for k, c in enumerate(mine)}
    z = {i: (len(mine) + k) * n for k, i in enumerate(nodes_1)}
    columns = (len(mine) + len(nodes_1)) * n

    def gain(sequence: int, h1: int) -> np.ndarray:
        """Coefficients of what player 0 gets when player 1 holds h1 and plays a sequence."""
        row = np.zeros(columns)
        for leaf in np.flatnonzero((tree.kind == TERMINAL) & (owner[:, 1] == sequence)):
            start = x[owner[leaf, 0]]
            row[start : start + n] += tree.scale[leaf] * deal.payoff[0, tree.matrix[leaf], h1]
        for i in nodes_1:
            if owner[i, 1] == sequence:
                row[z[i] + h1] += 1
        return row

    objective = sum(ranges[1, h] * gain(0, h) for h in range(n))
    upper = lil_matrix(((len(theirs) - 1) * n, columns))
    for k, (c, h) in enumerate(itertools.product(theirs[1:], range(n))):
        row = -gain(c, h)
        row[z[tree.parent[c]] + h] += 1
        upper[k] = row
    equal = lil_matrix(((1 + len(nodes_0)) * n, columns))
    right = np.zeros((1 + len(nodes_0)) * n)
    for h in range(n):
        equal[h, h] = 1
        right[h] = ranges[0, h]
    for k, (i, h) in enumerate(itertools.product(nodes_0, range(n))):
        equal[n + k, x[owner[i, 0]] + h] = -1
        for c in range(tree.first[i], tree.last[i]):
            equal[n + k, x[c] + h] = 1
    bounds = [(0, None)] * (len(mine) * n) + [(None, None)] * (len(nodes_1) * n)
    found = linprog(
        -objective, A_ub=upper.tocsr(), b_ub=np.zeros(upper.shape[0]), A_eq=equal.tocsr(),
        b_eq=right, bounds=bounds, method="highs",
    )  # fmt: skip
    assert found.status == 0
    return -found.fun / (ranges[0] @ deal.compatible @ ranges[1])


def test_lp_of_kuhn() -> None:
    assert lp_value(*kuhn()) == pytest.approx(-1 / 18, abs=1e-9)


def test_value_is_that_of_the_sequence_form_lp() -> None:
    grown, deal, _ = root(0, 5.0)
    exact = lp_value(grown.tree, deal, UNIFORM)
    found = solver.solve(grown.tree, deal, UNIFORM, 4000)
    assert abs(found.values[0] - exact) <= 2 * found.exploitability + 1e-9
    assert found.exploitability < 3e-5
    close = solver.solve(grown.tree, deal, UNIFORM, 20_000, gamma=2.0)
    assert close.values[0] == pytest.approx(exact, abs=1e-5)


def test_larger_own_sets_never_lose_and_larger_opposing_sets_never_give() -> None:
    none, fine = abstraction.fixed(()), abstraction.fixed(abstraction.FINE_SIZES)
    for index in range(2):
        values = {}
        for own, other in itertools.product((none, DEFAULT, fine), repeat=2):
            grown, deal, _ = root(index, 6.0, own, other, own)
            found = solver.solve(grown.tree, deal, UNIFORM, 1000, gamma=2.0)
            key = len(own.sizes), len(other.sizes)
            values[key] = found.values[1], 2 * found.exploitability
        for (a, b), (c, d) in itertools.product(values, repeat=2):
            slack = values[a, b][1] + values[c, d][1]
            if a >= c and b == d:  # {1, 2} is part of FINE
                assert values[a, b][0] >= values[c, d][0] - slack
            if a == c and b >= d:
                assert values[a, b][0] <= values[c, d][0] + slack


def test_values_know_no_suits_and_scale_with_the_chips() -> None:
    nine, stack = task.held_out(3)[2]
    relabelled = np.sort(nine // 4 * 4 + np.array([2, 0, 3, 1])[nine % 4])
    grown, deal, _ = root(2)
    value = solver.solve(grown.tree, deal, UNIFORM, 300).values[0]
    other = solver.solve(grown.tree, task.make_deal(relabelled), UNIFORM, 300).values[0]
    assert other == pytest.approx(value, abs=1e-9)
    larger = grown.tree._replace(scale=7 * grown.tree.scale)
    assert solver.solve(larger, deal, UNIFORM, 300).values[0] == pytest.approx(7 * value, abs=1e-9)


def test_values_are_per_hand_at_every_depth() -> None:
    """The repository's values are not: they shrink with the ranges, and by 756/1296 at the root."""
    grown, deal, _ = root(0)
    assert deal.compatible.sum() == 756
    assert UNIFORM[0] @ deal.compatible @ UNIFORM[1] == pytest.approx(0.5833, abs=1e-4)
    one = solver.solve(grown.tree, deal, UNIFORM, 500)
    thin = solver.solve(grown.tree, deal, UNIFORM * np.array([[0.01], [1.0]]), 500)
    np.testing.assert_allclose(thin.values, one.values, atol=1e-9)
    assert thin.exploitability == pytest.approx(one.exploitability, abs=1e-9)


def test_averages_without_own_reach_are_worse() -> None:
    """The repository averages behaviour: what is hardly ever reached weighs as much as the rest."""
    worse = []
    for index in range(4):
        grown, deal, _ = root(index)
        tree = grown.tree
        state = solver.new_state(tree, 36)
        behaviour, out = np.zeros_like(state.policy), np.zeros(1)
        for t in range(500):
            if t >= 20:
                behaviour += (t - 19) * state.policy
            solver.iterate(tree, deal, UNIFORM, state, t, t + 1, 20, 1.0, out)
        behaviour /= sum(t - 19 for t in range(20, 500))
        gaps = []
        for policy in (solver.average_policy(tree, state), behaviour):
            best = [
                UNIFORM[p] @ solver.hand_values(tree, deal, UNIFORM, state, policy, p, True)
                for p in (0, 1)
            ]
            gaps.append(sum(best))
        worse.append(gaps[1] / gaps[0])
    assert np.mean(worse) > 1.05


def test_the_default_tree_is_not_converged_at_250_iterations() -> None:
    """The small blind's value is too low, so a smaller tree gains by converging faster."""
    repository = abstraction.fixed((0.5, 1, 2, 4, 8))
    drift = []
    for index in range(8):
        grown, deal, _ = root(index, 12.0 + 2 * index, repository, repository, repository)
        early, late = (solver.solve(grown.tree, deal, UNIFORM, T).values[1] for T in (250, 1500))
        drift.append(early - late)
    assert np.mean(drift) * task.MBB < -0.5


def test_solving_goes_on_until_the_tolerance_is_met() -> None:
    grown, deal, _ = root(3)
    loose = solver.solve(grown.tree, deal, UNIFORM, 100, tolerance=1.0)
    assert loose.iterations == 100
    tight = solver.solve(grown.tree, deal, UNIFORM, 100, tolerance=3e-4, most_iterations=6400)
    assert tight.iterations > 100 and tight.exploitability <= 3e-4
    assert solver.solve(grown.tree, deal, UNIFORM, 100, tolerance=0.0).iterations == 800


# -- no-limit Leduc and OpenSpiel ----------------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> tuple[leduc.Game, solver.Solution]:
    game = leduc.build(4)
    return game, leduc.solve_game(game, 1000)


def test_leduc_is_openspiels_game(full: tuple[leduc.Game, solver.Solution]) -> None:
    pytest.importorskip("pyspiel", reason="open_spiel is the peer")
    game, found = full
    peer = leduc.openspiel_game(4)
    infosets = set()
    for state, _, node in leduc.decisions(peer, (game, game)):
        assert node is not None
        children = range(game.tree.first[node], game.tree.last[node])
        assert sorted(state.legal_actions()) == sorted(game.action[c] for c in children)
        infosets.add(state.information_state_string())
    assert len(infosets) == 1536
    theirs = leduc.exploitability(4, (game, game), (found.policy, found.policy))
    assert theirs == pytest.approx(found.exploitability, abs=1e-12)
    assert found.exploitability < 1e-3


def test_exploitability_of_restricted_strategies_is_their_security_loss(
    full: tuple[leduc.Game, solver.Solution],
) -> None:
    """OpenSpiel's best responses in the full game confirm metric (ii)."""
    pytest.importorskip("pyspiel", reason="open_spiel is the peer")
    for sizes in ((), (1.0,)):
        games = leduc.build(4, sizes, None), leduc.build(4, None, sizes)
        solved = [leduc.solve_game(game, 2000) for game in games]
        exact = leduc.exploitability(4, games, (solved[0].policy, solved[1].policy))
        loss = -(solved[0].values[0] + solved[1].values[1]) / 2
        slack = solved[0].exploitability + solved[1].exploitability
        assert abs(exact - loss) <= slack
        assert loss > full[1].exploitability


def test_bets_are_legal() -> None:
    state = leduc.Betting((2, 4), 0, leduc.NO_BOARD, 1, 2)
    assert leduc.bets(state, 9, None) == [6, 7, 8, 9]
    assert leduc.bets(state, 9, ()) == [9]
    assert leduc.bets(state, 9, (0.1, 0.5, 0.6, 3.0)) == [8, 9]  # 4 + 0.5 * 8; too small and large
    assert leduc.bets(state._replace(chips=(2, 9)), 9, None) == []
    assert leduc.bets(state, 5, None) == [5]  # all-in may be below the smallest raise
