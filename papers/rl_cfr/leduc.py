"""No-limit Leduc poker on the same solver, and lifted into OpenSpiel's full game.

Six cards (3 ranks, 2 suits), one private card each, antes of 1 chip, two betting rounds, one board
card between them; any integer bet from the minimum raise to all-in. The rules are those of
OpenSpiel's ``universal_poker`` (:func:`openspiel_game`), where exploitability is computed exactly.

A player's *own* bets are restricted to an abstraction while the opponent keeps every bet: the
strategy that comes out is one of the full game, without translating anything, and the mean of the
two players' losses is the exploitability of the pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.rl_cfr.solver import CHANCE, TERMINAL, Deal, Solution, Tree, new_deal, solve

Float = NDArray[np.float64]

TASKS = ("leduc-4", "leduc-6", "leduc-8")  # stack in chips, antes included
N_CARDS = 6
ANTE = 1
NO_BOARD = -1
FOLD_ACTION, CALL_ACTION = 0, 1  # OpenSpiel's; a bet is the number of chips put in so far


def stack_of(task: str) -> int:
    """Chips of a task of TASKS."""
    return int(task.rsplit("-", maxsplit=1)[1])


class Betting(NamedTuple):
    """A public state of the game."""

    chips: tuple[int, int]
    player: int
    board: int  # card, or NO_BOARD
    acted: int  # actions in this round
    raise_by: int  # smallest legal raise


@dataclass(frozen=True)
class Game:
    """A public tree with OpenSpiel's action at each edge."""

    tree: Tree
    action: NDArray[np.int64]  # [N], into the node; the board card below a chance node


def new_leduc_deal() -> Deal:
    """Matrices: 0 a fold without board, 1 + b a fold and 7 + b a showdown on board b."""
    cards = np.arange(N_CARDS)
    compatible = (cards[:, None] != cards[None, :]).astype(float)
    rank = cards // 2
    matrices = [compatible]
    shown = []
    for board in cards:
        free = compatible * (cards[:, None] != board) * (cards[None, :] != board)
        strength = rank + 3 * (rank == rank[board])
        matrices.append(free / 4)  # the board is one of the four cards left
        shown.append(np.sign(strength[:, None] - strength[None, :]) * free / 4)
    return new_deal(np.stack(matrices + shown), compatible)


def bets(
    state: Betting, stack: int, sizes: Sequence[float] | None, smallest_raise: int = ANTE
) -> list[int]:
    """Chips put in after each legal bet; ``sizes`` in pots (None: all), all-in always."""
    top = max(state.chips)
    if top == stack:
        return []
    least = top + max(state.raise_by, smallest_raise)
    if sizes is None:
        return [*range(least, stack), stack]
    wanted = {top + round(x * 2 * top) for x in sizes}
    return [*sorted(b for b in wanted if least <= b < stack), stack]


def build(
    stack: int, of_0: Sequence[float] | None = None, of_1: Sequence[float] | None = None
) -> Game:
    """The public tree, breadth first; ``of_p`` are player p's bet sizes in pots, None: all."""
    states: list[Betting | None] = [Betting((ANTE, ANTE), 0, NO_BOARD, 0, ANTE)]
    parent, first, last = [-1], [], []
    kind, matrix, scale, action = [0], [0], [0.0], [-1]

    def add(
        above: int, how: int, k: int, state: Betting | None, m: int = 0, u: float = 0.0
    ) -> None:
        parent.append(above)
        action.append(how)
        kind.append(k)
        states.append(state)
        matrix.append(m)
        scale.append(u)

    i = 0
    while i < len(states):
        state = states[i]
        first.append(len(states))
        if state is not None and kind[i] == CHANCE:
            for board in range(N_CARDS):
                if state.chips[0] == stack:
                    add(i, board, TERMINAL, None, 1 + N_CARDS + board, float(stack))
                else:
                    add(i, board, 0, state._replace(board=board))
        elif state is not None and kind[i] != TERMINAL:
            p, chips = state.player, state.chips
            own, top = chips[p], max(chips)
            if top > own:
                m = 0 if state.board == NO_BOARD else 1 + state.board
                add(i, FOLD_ACTION, TERMINAL, None, m, float(own if p == 1 else -own))
            if top == own and state.acted == 0:  # a check that the other may answer
                add(i, CALL_ACTION, 1 - p, state._replace(player=1 - p, acted=1))
            elif state.board == NO_BOARD:
                add(i, CALL_ACTION, CHANCE, Betting((top, top), 0, NO_BOARD, 0, ANTE))
            else:
                add(i, CALL_ACTION, TERMINAL, None, 1 + N_CARDS + state.board, float(top))
            for bet in bets(state, stack, of_0 if p == 0 else of_1):
                after = (bet, chips[1]) if p == 0 else (chips[0], bet)
                raised = max(bet - top, state.raise_by)
                add(i, bet, 1 - p, Betting(after, 1 - p, state.board, state.acted + 1, raised))
        last.append(len(states))
        i += 1
    plain = (np.array(x, np.int64) for x in (parent, first, last, kind, matrix))
    return Game(Tree._make([*plain, np.array(scale)]), np.array(action, np.int64))


def uniform_ranges() -> Float:
    """Every card is as likely."""
    return np.full((2, N_CARDS), 1.0 / N_CARDS)


def solve_game(game: Game, iterations: int, gamma: float = 1.0) -> Solution:
    """DCFR on a tree; values in chips per hand."""
    return solve(game.tree, new_leduc_deal(), uniform_ranges(), iterations, gamma=gamma)


# -- OpenSpiel ------------------------------------------------------------------------------------


def openspiel_game(stack: int) -> Any:
    """The same game in OpenSpiel, all bets allowed."""
    import pyspiel

    return pyspiel.load_game(
        "universal_poker",
        {
            "betting": "nolimit",
            "bettingAbstraction": "fullgame",
            "numPlayers": 2,
            "numRounds": 2,
            "blind": f"{ANTE} {ANTE}",
            "firstPlayer": "1 1",
            "numSuits": 2,
            "numRanks": 3,
            "numHoleCards": 1,
            "numBoardCards": "0 1",
            "stack": f"{stack} {stack}",
        },
    )


def decisions(game: Any, games: tuple[Game, Game]) -> Iterator[tuple[Any, int, int | None]]:
    """Every decision of OpenSpiel's game: state, private card, and the node in the actor's tree.

    The node is None where the actor's own tree has not the actions that led there.
    """

    def below(node: int | None, tree: Game, action: int) -> int | None:
        if node is None:
            return None
        first, last = tree.tree.first[node], tree.tree.last[node]
        found = np.flatnonzero(tree.action[first:last] == action)
        return int(first + found[0]) if len(found) else None

    for private_0 in range(N_CARDS):
        for private_1 in range(N_CARDS):
            if private_0 == private_1:
                continue
            root = game.new_initial_state()
            root.apply_action(private_0)
            root.apply_action(private_1)
            stack: list[tuple[Any, tuple[int | None, ...]]] = [(root, (0, 0))]
            while stack:
                state, nodes = stack.pop()
                if state.is_terminal():
                    continue
                if not state.is_chance_node():
                    p = state.current_player()
                    yield state, (private_0, private_1)[p], nodes[p]
                for action in state.legal_actions():
                    after = tuple(below(nodes[p], games[p], action) for p in (0, 1))
                    stack.append((state.child(action), after))


def lift(stack: int, games: tuple[Game, Game], policies: tuple[Float, Float]) -> tuple[Any, Any]:
    """OpenSpiel's game, and the pair of strategies as its policy.

    Args:
        games: the tree of each player, in which the opponent has every bet.
        policies: average strategies [N, 6] of the trees; player p's part of the p-th is used.

    Returns:
        the game, a ``pyspiel.TabularPolicy``.
    """
    import pyspiel

    game = openspiel_game(stack)
    table: dict[str, list[tuple[int, float]]] = {}
    for state, private, node in decisions(game, games):
        key = state.information_state_string()
        if key in table:
            continue
        p, legal = state.current_player(), state.legal_actions()
        if node is None:  # never reached by its own play
            table[key] = [(action, 1.0 / len(legal)) for action in legal]
            continue
        tree, policy = games[p], policies[p]
        children = range(int(tree.tree.first[node]), int(tree.tree.last[node]))
        chosen = {int(tree.action[c]): float(policy[c, private]) for c in children}
        table[key] = [(action, chosen.get(action, 0.0)) for action in legal]
    return game, pyspiel.TabularPolicy(table)


def exploitability(stack: int, games: tuple[Game, Game], policies: tuple[Float, Float]) -> float:
    """Exact exploitability in the full game, in chips per hand: NashConv / 2, by OpenSpiel."""
    import pyspiel

    game, policy = lift(stack, games, policies)
    return float(pyspiel.nash_conv(game, policy)) / 2
