"""Matrix games: their tables, what is exactly known of them, and plays."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from common.marl.matrix_games import END, GAMES, Game, MatrixGame
from tests.common.marl.checks import conforms

DRAWN = {"dfac_m", "dfac_n"}  # whose pay-offs have a spread


@pytest.mark.parametrize("name", GAMES)
def test_conforms(name: str) -> None:
    conforms(MatrixGame(name, 3), twin=MatrixGame(name, 3), seeds_differ=name in DRAWN)


def test_the_two_step_game_is_worth_8_by_its_second_branch() -> None:
    game = GAMES["two_step"]()
    assert (game.n_agents, game.steps, game.optimal_value()) == (2, 2, 8.0)
    np.testing.assert_array_equal(game.values()[0], [[7, 7], [8, 8]])
    assert game.optimal_value(gamma=0.5) == 4.0  # the first step pays nothing


@pytest.mark.parametrize(("first", "second", "total"), [(0, (0, 1), 7), (1, (1, 1), 8)])
def test_agent_0_alone_picks_the_second_step(first: int, second: tuple, total: float) -> None:
    env = MatrixGame("two_step", 2)
    seen = env.reset(0)
    np.testing.assert_array_equal(seen.obs, np.tile([1.0, 0, 0], (2, 2, 1)))
    step = env.step(np.array([[first, 0], [first, 1]]))  # whatever agent 1 does
    np.testing.assert_array_equal(step.seen.state, np.tile(np.eye(3)[1 + first], (2, 1)))
    assert not step.terminated.any() and (step.reward == 0).all()
    step = env.step(np.array([second, second]))
    assert step.terminated.all() and (step.reward == total).all()
    assert (step.seen.obs == 0).all()


def test_the_tables_of_the_games_with_normal_payoffs() -> None:
    m, n = GAMES["dfac_m"](), GAMES["dfac_n"]()
    assert (m.optimal_value(), n.optimal_value()) == (8.0, 8.0)
    np.testing.assert_array_equal(m.means[1:], [[[7, 7], [7, 7]], [[0, 1], [1, 8]]])
    np.testing.assert_array_equal(m.stds[1:], [[[1, 1], [1, 1]], [[0.5, 1], [1, 2]]])
    assert (m.means[0] == 0).all() and (m.stds[0] == 0).all()
    np.testing.assert_array_equal(n.means[0], [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]])
    np.testing.assert_array_equal(n.stds[0], [[1, 3, 3], [3, 0.5, 0.5], [3, 0.5, 0.5]])


def test_payoffs_have_the_mean_and_spread_of_their_cell() -> None:
    env = MatrixGame("dfac_m", 20_000)
    env.reset(1)
    env.step(np.full((20_000, 2), 1))
    actions = np.zeros((20_000, 2), int)
    actions[10_000:] = 1  # half play (0, 0), half (1, 1)
    reward = env.step(actions).reward
    for half, mean, std in ((reward[:10_000], 0.0, 0.5), (reward[10_000:], 8.0, 2.0)):
        assert half.mean() == pytest.approx(mean, abs=4 * std / 100)
        assert half.std() == pytest.approx(std, rel=0.03)


def test_the_games_of_claus_and_boutilier() -> None:
    climbing = GAMES["climbing"]()
    assert climbing.optimal_value() == 11 and climbing.values()[0, 0, 1] == -30
    assert climbing.values().mean(2).argmax() == 2  # against a random partner: the safe action
    penalty = MatrixGame("penalty", 1, penalty=-10).game
    np.testing.assert_array_equal(penalty.means[0], [[10, 0, -10], [0, 2, 0], [-10, 0, 10]])
    with pytest.raises(UserError, match="0 or below"):
        MatrixGame("penalty", 1, penalty=1.0)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UserError, match="did you mean two_step"):
        MatrixGame("two-step", 1)
    with pytest.raises(UserError, match="one at least"):
        MatrixGame("climbing", 0)
    table = np.zeros((1, 2, 2))
    with pytest.raises(ValueError, match="back"):
        Game(table, table, np.zeros((1, 2, 2), np.int64))
    with pytest.raises(ValueError, match="shape"):
        Game(table, np.zeros((1, 3, 3)), np.full((1, 2, 2), END))
    with pytest.raises(ValueError, match="reset first"):
        MatrixGame("climbing", 1).step(np.zeros((1, 2), int))
