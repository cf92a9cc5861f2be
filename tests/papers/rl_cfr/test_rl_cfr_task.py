"""PREFLOP43: cards, rules, trees, public states."""

import itertools

import numpy as np
import pytest

from papers.rl_cfr import abstraction, task
from papers.rl_cfr.solver import TERMINAL

DEFAULT, FINE = (abstraction.fixed(s) for s in (abstraction.DEFAULT_SIZES, abstraction.FINE_SIZES))


def strength(text: str) -> int:
    """Strength of seven cards such as "As Kd …"."""
    cards = ["23456789TJQKA".index(c[0]) * 4 + "cdhs".index(c[1]) for c in text.split()]
    return task.evaluate7(np.array(cards))


def test_categories_and_kickers() -> None:
    ascending = [
        "2c 4d 6h 8s Tc Qd Ah",  # high card
        "2c 4d 6h 9s Tc Qd Ah",
        "2c 2d 6h 8s Tc Qd Ah",  # pair
        "2c 2d 6h 6s Tc Td 3h",  # three pairs: the best two and the best kicker
        "2c 2d Qh 6s Tc Td 6h",
        "3c 3d 3h 8s Tc Qd Ah",  # trips
        "Ac 2d 3h 4s 5c 9d 9h",  # wheel
        "6c 2d 3h 4s 5c 9d 9h",
        "Ac Kd Qh Js Tc 9d 9h",  # straight
        "2c 4c 6c 8c Tc Qd Ah",  # flush
        "2c 4c 6c 8c Tc Qc Ah",  # six of the suit: the best five
        "3c 3d 3h 8s 8c 2d 2h",  # full house
        "3c 3d 3h 8s 8c 8d 2h",  # two trips
        "3c 3d 3h 3s 8c 8d Ah",  # quads
        "3c 3d 3h 3s Ac Ad Ah",  # quads over trips: kicker ace
        "Ac 2c 3c 4c 5c 9d 9h",  # straight flush
        "Ac Kc Qc Jc Tc 9c 8c",
    ]
    found = [strength(text) for text in ascending]
    assert found[13] == found[14]  # the ace is the kicker of both
    assert sorted(set(found)) == [found[i] for i in range(len(found)) if i != 14]
    assert strength("2c 4d 6h 8s Tc Qd Ah") == strength("3c 4d 6h 8s Tc Qd Ah")


def test_order_of_a_hundred_thousand_hands_is_phevaluators() -> None:
    peer = pytest.importorskip("phevaluator", reason="phevaluator is the peer of this test")
    rng = np.random.default_rng(0)
    hands = np.argpartition(rng.random((100_000, 52)), 7, axis=1)[:, :7]
    ours = np.array([task.evaluate7(hand) for hand in hands])
    theirs = np.array([peer.evaluate_cards(*hand) for hand in hands.tolist()])  # 1 is best
    order = np.lexsort((ours, -theirs))
    steps, step_of_theirs = np.diff(ours[order]), np.diff(theirs[order])
    assert (steps[step_of_theirs == 0] == 0).all()
    assert (steps[step_of_theirs < 0] > 0).all()
    assert len(np.unique(theirs)) > 4000


def test_matrices_of_a_deal() -> None:
    nine, _ = task.held_out(1)[0]
    deal = task.make_deal(nine)
    fold, result = deal.payoff[1] * -1  # rows: player 0's hands
    assert deal.compatible.sum() == 756 and (fold == deal.compatible).all()
    np.testing.assert_array_equal(result, -result.T)
    np.testing.assert_array_equal(deal.payoff[0, task.SHOWDOWN], result.T)
    for h0, h1 in itertools.product(range(36), repeat=2):
        a, b = task.HANDS[h0].tolist(), task.HANDS[h1].tolist()
        if set(a) & set(b):
            assert result[h0, h1] == 0
            continue
        board = [nine[j] for j in range(9) if j not in {*a, *b}]
        x, y = (task.evaluate7(np.array([*board, nine[i], nine[j]])) for i, j in (a, b))
        assert result[h0, h1] == np.sign(x - y)


def test_trees_have_the_papers_sizes() -> None:
    """Mean nodes: AA_def 41, FINE at the root 102, AA_def against FINE 150, FINE twice 1150."""
    kinds = [(DEFAULT,) * 3, (FINE, DEFAULT, DEFAULT), (DEFAULT, FINE, DEFAULT), (FINE,) * 3]
    nodes = []
    for nine, stack in task.held_out(40):
        state = task.first_state(nine, stack)
        nodes.append([task.grow(state, *k).tree.kind.size for k in kinds])
    means = np.mean(nodes, axis=0)
    np.testing.assert_allclose(means, [41, 102, 150, 1150], rtol=0.1)


def test_rules() -> None:
    nine, _ = task.held_out(1)[0]
    state = task.first_state(nine, 6.0)
    grown = task.grow(state, DEFAULT, DEFAULT, DEFAULT)
    tree = grown.tree

    def children(i: int) -> list[int]:
        return list(range(tree.first[i], tree.last[i]))

    fold, limp, pot, double, all_in = children(0)
    assert tree.kind[0] == 1 and tree.kind[fold] == TERMINAL
    assert tree.scale[fold] == 0.5  # the small blind loses what it put in
    assert tree.kind[limp] == 0 and list(grown.chips[limp]) == [1, 1]
    assert [grown.chips[c, 1] for c in (pot, double, all_in)] == [3, 5, 6]
    check = children(limp)[0]  # no fold where nothing is to call
    assert tree.kind[check] == TERMINAL and tree.matrix[check] == task.SHOWDOWN
    assert tree.scale[check] == 1
    assert [tree.scale[c] for c in children(all_in)] == [-1, 6]  # the big blind folds, calls
    assert [tree.matrix[c] for c in children(all_in)] == [task.FOLD, task.SHOWDOWN]
    raised = children(pot)  # to call: 2 more, pot 6, 3 behind: 1 and 2 pots are above all-in
    assert [grown.chips[c, 0] for c in raised] == [1, 3, 6]
    assert list(grown.events[raised[2]][:3]) == [1.0, 0.5, -1.0]
    assert tree.kind[raised[1]] == TERMINAL  # the call of a raise ends the hand
    for i in range(1, tree.kind.size):
        assert tree.parent[i] < i and i in children(tree.parent[i])


def test_sizes_are_clipped_merged_and_dropped() -> None:
    nine, _ = task.held_out(1)[0]
    state = task.first_state(nine, 6.0)  # pot 2 after the call, 5 behind: all-in is 2.5 pots

    def raises(*sizes: float) -> list[float]:
        grown = task.grow(state, abstraction.fixed(sizes), DEFAULT, DEFAULT)
        return [round(float(x), 6) for x in grown.chips[3 : grown.tree.last[0], 1]]

    assert raises() == [6]
    assert raises(0.0, 0.05, 0.1) == [1.2, 6]
    assert raises(2.5, 5.0) == [6]
    assert raises(2.0, 0.5, 2.0) == [2, 5, 6]
    assert task.largest_raise(state) == 2.5 and task.has_choice(state)
    assert not task.has_choice(state._replace(chips=np.array([5.0, 1.0])))


def test_actions_are_abstractions() -> None:
    """f(-1) = 0 is dropped, f(1) = 5 pots, y < 0 leaves AA_base, AA_def can be written."""

    def sizes(action: list[float], share: bool = False, most: float = 20.0) -> list[float]:
        return abstraction.chosen_sizes(np.array(action, float), share, most).tolist()

    assert sizes([-1, 1, 1, 1]) == [0, 5]
    assert sizes([0.3, -0.1, 0.9, -1]) == []
    assert sizes([0, 0, 0, -1e-9]) == [2.5]
    assert sizes([-0.6, 1, -0.2, 1]) == pytest.approx([1, 2])
    assert sizes([-1, 1, 1, 1], share=True) == [0.5, 20]  # the repository's f
    nine, stack = task.held_out(1)[0]
    state = task.first_state(nine, stack)
    base = task.grow(state, abstraction.fixed(sizes([0.3, -0.1, 0.9, -1])), DEFAULT, DEFAULT)
    none = task.grow(state, abstraction.fixed(()), DEFAULT, DEFAULT)
    np.testing.assert_array_equal(base.chips, none.chips)


def test_random_abstractions_are_uniform_and_depend_on_the_state_alone() -> None:
    nine, stack = task.held_out(1)[0]
    view = task.features(task.first_state(nine, stack))
    drawn = np.array([abstraction.random_action(k, view, 2) for k in range(1, 4000)])
    assert abs(drawn.mean()) < 0.02 and drawn.var() == pytest.approx(1 / 3, abs=0.01)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.06
    again = abstraction.random_action(7, view.copy(), 2)
    np.testing.assert_array_equal(again, drawn[6])
    view[4] += 1e-3
    assert not np.array_equal(again, abstraction.random_action(7, view, 2))


def test_the_public_state_shows_no_hands_and_is_of_order_one() -> None:
    largest = 0.0
    for nine, stack in task.held_out(50):
        state = task.first_state(nine, stack)
        grown = task.grow(state, DEFAULT, DEFAULT, DEFAULT)
        for i in np.flatnonzero(grown.tree.kind != TERMINAL):
            view = task.features(task.child_state(state, grown, int(i)))
            assert view.shape == (task.FEATURES,)
            largest = max(largest, np.abs(view).max())
    assert largest < 4
    dead = task.dead_card_features(nine)
    assert dead[:13].sum() == pytest.approx(0) and dead[13:].sum() == pytest.approx(0)


def test_evaluation_tuning_and_training_deals_differ() -> None:
    held, tuning = task.held_out(20), task.tuning_deals(20)
    assert all(5 <= stack <= 15 for _, stack in held)
    assert not {tuple(nine) for nine, _ in held} & {tuple(nine) for nine, _ in tuning}
    assert [s for _, s in task.held_out(5)] == [s for _, s in held[:5]]
