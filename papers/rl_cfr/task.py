"""PREFLOP43, the authors' toy: 43 of 52 cards lie face up and dead, 9 remain.

Each player holds 2 of the 9 (36 hands), the other 5 are the board, best 5 of 7 wins. One betting
round: small blind 0.5, big blind 1, the small blind acts first and its limp gives the big blind an
option. Player 0 is the big blind, player 1 the small blind. Chips are in big blinds.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.rl_cfr.abstraction import Abstraction, sizes_at
from papers.rl_cfr.solver import PLAYER_0, TERMINAL, Deal, Tree, jit, new_deal

Float = NDArray[np.float64]
Int = NDArray[np.int64]

MBB = 1000.0  # thousandths of a big blind
BIG_BLIND, SMALL_BLIND = 1.0, 0.5
N_HANDS = 36
EVENTS = 10  # events of the betting history that a public state shows, the first ones
FEATURES = 32
SMALLEST_RAISE = 0.1  # pots; smaller ones are dropped
FOLD, SHOWDOWN = 0, 1  # payoff matrices of a deal
STACKS = (5.0, 15.0)  # big blinds, uniform (the repository: 10 to 100)
LARGEST_FAMILY = 64  # children of a node
TIE = 1e-9  # sizes closer than this are one
HANDS = np.array(list(itertools.combinations(range(9), 2)))  # [36, 2] positions among the nine
COMPATIBLE = 1.0 - (HANDS[:, None, :, None] == HANDS[None, :, None, :]).any((2, 3))  # [36, 36]


# -- cards --------------------------------------------------------------------------------------


@jit
def _straight_top(ranks: int) -> int:
    """Highest rank of a straight in a set of ranks (bits 0: deuce … 12: ace), or -1."""
    for top in range(12, 3, -1):
        run = 0b11111 << (top - 4)
        if ranks & run == run:
            return top
    wheel = 0b1000000001111
    return 3 if ranks & wheel == wheel else -1


@jit
def evaluate7(cards: Int) -> int:
    """Strength of the best five of seven cards; larger is stronger, equal ties.

    A card is 4 * rank + suit, rank 0 (deuce) … 12 (ace). The strength is the category, then up to
    five ranks by importance, in base 13.
    """
    rank_counts = np.zeros(13, np.int64)
    suit_counts = np.zeros(4, np.int64)
    suit_ranks = np.zeros(4, np.int64)
    ranks = 0
    for card in cards:
        rank, suit = card // 4, card % 4
        rank_counts[rank] += 1
        suit_counts[suit] += 1
        suit_ranks[suit] |= 1 << rank
        ranks |= 1 << rank
    flush = -1
    for suit in range(4):
        if suit_counts[suit] >= 5:
            flush = suit
    # up to two ranks that make the category, then kickers
    key = np.zeros(5, np.int64)
    kickers = 0
    quad, trip, pair, second = -1, -1, -1, -1
    for rank in range(12, -1, -1):
        n = rank_counts[rank]
        if n == 4 and quad < 0:
            quad = rank
        elif n == 3 and trip < 0:
            trip = rank
        elif n >= 2 and pair < 0:
            pair = rank
        elif n >= 2 and second < 0:
            second = rank
    straight = _straight_top(ranks)
    allowed = ranks
    if flush >= 0 and _straight_top(suit_ranks[flush]) >= 0:
        category = 8
        key[0] = _straight_top(suit_ranks[flush])
        start, kickers = 1, 0
    elif quad >= 0:
        category = 7
        key[0] = quad
        start, kickers = 1, 1
    elif trip >= 0 and pair >= 0:
        category = 6
        key[0], key[1] = trip, pair
        start, kickers = 2, 0
    elif flush >= 0:
        category = 5
        start, kickers = 0, 5
        allowed = suit_ranks[flush]
    elif straight >= 0:
        category = 4
        key[0] = straight
        start, kickers = 1, 0
    elif trip >= 0:
        category = 3
        key[0] = trip
        start, kickers = 1, 2
    elif second >= 0:
        category = 2
        key[0], key[1] = pair, second
        start, kickers = 2, 1
    elif pair >= 0:
        category = 1
        key[0] = pair
        start, kickers = 1, 3
    else:
        category = 0
        start, kickers = 0, 5
    rank = 12
    taken = 0
    while taken < kickers:
        used = False
        for j in range(start):
            used = used or key[j] == rank
        if allowed >> rank & 1 and not used:
            key[start + taken] = rank
            taken += 1
        rank -= 1
    strength = category
    for j in range(5):
        strength = strength * 13 + key[j]
    return strength


@jit
def hand_strengths(nine: Int, hands: Int) -> Int:
    """For each hand [36], the strength of the seven cards that it leaves: the *opponent's* hand."""
    strengths = np.empty(hands.shape[0], np.int64)
    seven = np.empty(7, np.int64)
    for h in range(hands.shape[0]):
        k = 0
        for j in range(nine.size):
            if j != hands[h, 0] and j != hands[h, 1]:
                seven[k] = nine[j]
                k += 1
        strengths[h] = evaluate7(seven)
    return strengths


def make_deal(nine: Int) -> Deal:
    """Matrices of the nine live cards: FOLD is compatibility, SHOWDOWN the sign of the result.

    A player's seven cards are the nine without the opponent's two, so 36 evaluations suffice.
    """
    left = hand_strengths(np.asarray(nine), HANDS)
    # player 0 has what player 1's hand left
    result = np.sign(left[None, :] - left[:, None]) * COMPATIBLE
    return new_deal(np.stack([COMPATIBLE, result]), COMPATIBLE)


def dead_card_features(nine: Int) -> Float:
    """[17] numbers of dead cards of each rank and suit, centred."""
    ranks = 4 - np.bincount(np.asarray(nine) // 4, minlength=13)
    suits = 13 - np.bincount(np.asarray(nine) % 4, minlength=4)
    return np.concatenate([ranks - 43 / 13, (suits - 43 / 4) / 2])


# -- public states ------------------------------------------------------------------------------


class Public(NamedTuple):
    """A public state before a player's decision; hand ranges are no part of it."""

    stack: float  # chips of either player at the start of the hand
    chips: Float  # [2] put in so far
    player: int  # who acts
    events: Float  # [EVENTS] first events: 0 call, raise in pots; -1 not yet
    n_events: int  # decisions so far
    dead: Float  # [17] of :func:`dead_card_features`


def first_state(nine: Int, stack: float) -> Public:
    """The small blind's first decision."""
    chips = np.array([BIG_BLIND, SMALL_BLIND])
    return Public(float(stack), chips, 1, np.full(EVENTS, -1.0), 0, dead_card_features(nine))


@jit
def features_of(
    stack: float, chips: Float, player: int, events: Float, n_events: int, dead: Float
) -> Float:
    """The network's view [32] of a public state, scaled to O(1): PS(beta), without ranges.

    Stage (decisions so far), player, pot, to call, largest raise, dead cards, betting history.
    """
    top = max(chips[0], chips[1])
    x = np.empty(FEATURES)
    x[0] = n_events / 4.0
    x[1] = player
    x[2] = (chips[0] + chips[1]) / 10.0
    x[3] = (top - chips[player]) / 10.0
    x[4] = (stack - top) / 10.0
    x[5:22] = dead
    for j in range(EVENTS):
        x[22 + j] = min(events[j], 5.0) / 2.0 if events[j] >= 0 else -1.0
    return x


def features(state: Public) -> Float:
    """:func:`features_of` a public state."""
    return np.asarray(features_of(*state))


def largest_raise(state: Public) -> float:
    """The all-in raise in pots after the call; at most 0 when a raise is impossible."""
    top = float(state.chips.max())
    return (state.stack - top) / (2 * top)


def has_choice(state: Public) -> bool:
    """Whether a raise between the smallest one and all-in is legal: an abstraction matters."""
    return largest_raise(state) > SMALLEST_RAISE + TIE


# -- the tree of a public state ------------------------------------------------------------------


class Grown(NamedTuple):
    """A tree with the public states of its nodes."""

    tree: Tree
    chips: Float  # [N, 2]
    events: Float  # [N, EVENTS]
    n_events: Int  # [N]


@jit
def _legal(sizes: Float, most: float) -> Float:
    """Ascending sizes in [SMALLEST_RAISE, all-in) without repetition; those above merge with it."""
    kept = np.empty(sizes.size)
    count = 0
    previous = -1.0
    for x in np.sort(sizes):
        if x >= SMALLEST_RAISE - TIE and x < most - TIE and x - previous > TIE:
            kept[count] = x
            previous = x
            count += 1
    return kept[:count]


@jit
def _grow(
    stack: float,
    chips_0: Float,
    player_0: int,
    events_0: Float,
    n_events_0: int,
    dead: Float,
    at_root: Abstraction,
    of_0: Abstraction,
    of_1: Abstraction,
    room: int,
) -> tuple:
    """:func:`grow` on plain arrays with room for so many nodes; empty if there are more."""
    parent = np.full(room, -1, np.int64)
    first, last = np.zeros(room, np.int64), np.zeros(room, np.int64)
    kind, matrix = np.zeros(room, np.int64), np.zeros(room, np.int64)
    scale = np.zeros(room)
    chips, events = np.zeros((room, 2)), np.full((room, EVENTS), -1.0)
    n_events = np.zeros(room, np.int64)
    kind[0] = player_0
    chips[0], events[0], n_events[0] = chips_0, events_0, n_events_0
    n, i = 1, 0
    while i < n:
        if kind[i] == TERMINAL:
            first[i] = last[i] = n
            i += 1
            continue
        if n + LARGEST_FAMILY > room:
            return parent[:0], first, last, kind, matrix, scale, chips, events, n_events
        p = kind[i]
        own, top = chips[i, p], max(chips[i, 0], chips[i, 1])
        pot = 2.0 * top  # after the call
        most = (stack - top) / pot
        first[i] = n
        if top > own:  # fold: the folder's own chips are lost
            parent[n], kind[n], matrix[n] = i, TERMINAL, FOLD
            scale[n] = -own if p == PLAYER_0 else own
            chips[n], events[n], n_events[n] = chips[i], events[i], n_events[i] + 1
            n += 1
        # call or check
        parent[n], chips[n], events[n] = i, chips[i], events[i]
        chips[n, p] = top
        n_events[n] = n_events[i] + 1
        if n_events[i] < EVENTS:
            events[n, n_events[i]] = 0.0
        if n_events[i] == 0 and top == BIG_BLIND:  # a limp: the big blind may still raise
            kind[n] = 1 - p
        else:
            kind[n], matrix[n], scale[n] = TERMINAL, SHOWDOWN, top
        n += 1
        if most > TIE:
            if i == 0:
                use = at_root
            elif p == PLAYER_0:
                use = of_0
            else:
                use = of_1
            view = features_of(stack, chips[i], p, events[i], n_events[i], dead)
            raises = _legal(sizes_at(use, view, most), most)
            for k in range(raises.size + 1):
                x = raises[k] if k < raises.size else most  # the last one is all-in
                parent[n], kind[n] = i, 1 - p
                chips[n], events[n] = chips[i], events[i]
                chips[n, p] = top + x * pot if k < raises.size else stack
                n_events[n] = n_events[i] + 1
                if n_events[i] < EVENTS:
                    events[n, n_events[i]] = x
                n += 1
        last[i] = n
        i += 1
    trees = parent[:n], first[:n], last[:n], kind[:n], matrix[:n], scale[:n]
    return trees + (chips[:n], events[:n], n_events[:n])


def grow(state: Public, at_root: Abstraction, of_0: Abstraction, of_1: Abstraction) -> Grown:
    """The tree below a public state.

    Every node has fold (if there is something to call), call or check, and all-in (if chips
    remain); raises come from ``at_root`` at the root and from ``of_p`` where player p acts below.
    A fold loses the folder's own contribution; a call of a raise or all-in, and a check of the
    big blind, end in showdown.
    """
    room = 512
    while not len((arrays := _grow(*state, at_root, of_0, of_1, room))[0]):
        room *= 4
    return Grown(Tree(*arrays[:6]), *arrays[6:])


def child_state(state: Public, grown: Grown, child: int) -> Public:
    """The public state of a node of the tree of ``state``."""
    return state._replace(
        chips=grown.chips[child],
        player=int(grown.tree.kind[child]),
        events=grown.events[child],
        n_events=int(grown.n_events[child]),
    )


# -- deals --------------------------------------------------------------------------------------


def draw_nine(rng: np.random.Generator) -> Int:
    """The nine live cards, ascending."""
    return np.sort(rng.choice(52, 9, replace=False))


def draw_stack(rng: np.random.Generator, stacks: tuple[float, float] = STACKS) -> float:
    """A stack in big blinds."""
    return float(rng.uniform(*stacks))


EVALUATION_STREAM, TUNING_STREAM = 1_000_003, 1_000_033  # apart from every training seed


def held_out(n: int, stacks: tuple[float, float] = STACKS) -> list[tuple[Int, float]]:
    """The first n evaluation deals (nine cards, stack); no training or tuning sees them."""
    rng = np.random.default_rng(EVALUATION_STREAM)
    return [(draw_nine(rng), draw_stack(rng, stacks)) for _ in range(n)]


def tuning_deals(n: int, stacks: tuple[float, float] = STACKS) -> list[tuple[Int, float]]:
    """Deals on which fixed abstractions are tuned."""
    rng = np.random.default_rng(TUNING_STREAM)
    return [(draw_nine(rng), draw_stack(rng, stacks)) for _ in range(n)]
