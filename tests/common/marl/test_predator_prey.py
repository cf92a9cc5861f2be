"""Predator-prey: exact bounds by enumeration, rules, and what is seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import UserError
from common.marl.predator_prey import (
    CAPTURE,
    MOVES,
    STEP_COST,
    PredatorCapturePrey,
    PredatorPrey,
)
from common.marl.protocol import uniform_actions
from tests.common.marl.checks import conforms

Hunt = PredatorPrey | PredatorCapturePrey


# -- exact values --------------------------------------------------------------------------------


def elementary(p: Sequence[float], k: int) -> float:
    """Sum over all sets of k of the product of their numbers."""
    sums = np.zeros(k + 1)
    sums[0] = 1.0
    for x in p:
        sums[1:] = sums[1:] + x * sums[:-1]
    return float(sums[k])


def all_done(few: tuple, many: tuple, cells: Sequence[int]) -> float:
    """Chance that all are done, over distinct starts among ``cells``.

    ``few`` and ``many``: number of agents of a kind, and their chance by the cell of the start.
    """
    (n, p), (m, q) = few, many
    total = 0.0
    for start in itertools.permutations(cells, n):
        rest = [q[c] for c in cells if c not in start]
        total += np.prod([p[c] for c in start]) * math.factorial(m) * elementary(rest, m)
    return total / math.perm(len(cells), n + m)


def mean_steps(d: int, curves: Sequence[NDArray], limit: int, n: int, m: int) -> tuple:
    """Exact mean of min(steps, limit), and chance to be done by then, over all starts and prey.

    ``curves``: by prey, [2, limit + 1, cells]: chance of an agent of either kind to be done.
    """
    mean = success = 0.0
    for prey, by_time in enumerate(curves):
        cells = [c for c in range(d * d) if c != prey]
        done = [all_done((n, p), (m, q), cells) for p, q in zip(*by_time, strict=True)]
        mean += sum(1 - x for x in done[:-1]) / d**2
        success += done[-1] / d**2
    return mean, success


def shortest(d: int, limit: int) -> list[NDArray]:
    """Curves of agents that go straight to the prey; those that capture need one step more."""
    row, col = np.divmod(np.arange(d * d), d)
    away = abs(row[:, None] - row) + abs(col[:, None] - col)
    t = np.arange(limit + 1)[:, None]
    return [np.stack([x + 1 <= t, x <= t]).astype(float) for x in away]


def at_random(d: int, limit: int, n_actions: int) -> list[NDArray]:
    """Curves of agents that act uniformly, from the chain of their cells."""
    curves, row, col = [], *np.divmod(np.arange(d * d), d)
    for prey in range(d * d):
        chain = np.zeros((2, d * d + 1, d * d + 1))
        chain[:, -1, -1] = 1
        for a in range(n_actions):
            to = np.clip(row + MOVES[a][0], 0, d - 1) * d + np.clip(col + MOVES[a][1], 0, d - 1)
            to[prey] = prey
            for c in range(d * d):
                capture = to[c] if c != prey or a != CAPTURE else -1
                chain[0, c, capture] += 1 / n_actions
                chain[1, c, -1 if to[c] == prey else to[c]] += 1 / n_actions
        power = [np.linalg.matrix_power(chain, t)[:, :-1, -1] for t in range(limit + 1)]
        curves.append(np.stack(power, axis=1))
    return curves


def test_bounds_by_enumeration() -> None:
    assert mean_steps(5, shortest(5, 9), 9, 0, 3)[0] == pytest.approx(4.677, abs=1e-3)
    assert mean_steps(5, shortest(5, 9), 9, 0, 5)[0] == pytest.approx(5.192, abs=1e-3)
    assert mean_steps(5, shortest(5, 9), 9, 1, 2)[0] == pytest.approx(5.085, abs=1e-3)


def go(env: Hunt) -> NDArray[np.int64]:
    """The shortest way; who has arrived waits, and captures if it can."""
    way = env.prey[:, None] - env.positions
    closer = np.abs(way[:, :, None] - MOVES[:4]).sum(-1).argmin(-1)
    wait = np.where(env.can_capture, CAPTURE, 4)
    return np.where((way == 0).all(-1), wait, closer)


def played(env: Hunt, seed: int, straight: bool) -> tuple[float, float]:
    """Mean steps (an unfinished episode counts the limit), and success."""
    generator = np.random.default_rng(seed)
    seen, over, steps = env.reset(seed), np.zeros(env.n_envs, bool), np.zeros(env.n_envs)
    while not over.all():
        steps += ~over
        done = env.step(go(env) if straight else uniform_actions(seen, generator))
        seen, over = done.seen, done.terminated | done.truncated
    return steps.mean(), done.won.mean()


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda n: PredatorPrey(n), 4.677),
        (lambda n: PredatorPrey(n, n_predators=5), 5.192),
        (lambda n: PredatorCapturePrey(n), 5.085),
        (lambda n: PredatorCapturePrey(n, n_predators=1, n_capture=3, capture_first=True), 5.784),
        (lambda n: PredatorPrey(n // 4, size=10, n_predators=5), 10.388),
    ],
)
def test_who_knows_the_prey_takes_the_shortest_way(make, bound) -> None:
    env = make(20_000)
    steps, success = played(env, 1, straight=True)
    assert steps == pytest.approx(bound, abs=6 * 2.2 / math.sqrt(env.n_envs)) and success == 1


def test_uniform_actions() -> None:
    """Against the exact chains: limit, walls, who stays, and that all have six actions."""
    exact = mean_steps(4, at_random(4, 12, 5), 12, 0, 3)
    found = played(PredatorPrey(20_000, size=4, limit=12), 2, straight=False)
    assert found == pytest.approx(exact, abs=0.03)
    exact = mean_steps(4, at_random(4, 12, 6), 12, 1, 1)
    env = PredatorCapturePrey(20_000, size=4, n_predators=1, limit=12)
    assert played(env, 2, straight=False) == pytest.approx(exact, abs=0.03)


def test_published_numbers_of_uniform_actions() -> None:
    steps, success = mean_steps(5, at_random(5, 20, 5), 20, 0, 3)
    assert steps == pytest.approx(19.85, abs=0.02) and success == pytest.approx(0.027, abs=0.003)
    steps, success = mean_steps(5, at_random(5, 20, 6), 20, 1, 2)
    assert steps == pytest.approx(19.93, abs=0.01) and success == pytest.approx(0.014, abs=0.001)


# -- rules -----------------------------------------------------------------------------------------


def place(env: Hunt, agents: Sequence, prey: tuple[int, int]) -> None:
    """Every environment's agents and prey on these cells, nobody done."""
    env.reset(0)
    env.positions[:], env.prey[:], env.reached[:] = np.array(agents), np.array(prey), False


def test_moves_walls_cost_and_end() -> None:
    env = PredatorPrey(1, size=3, n_predators=2)
    place(env, [(0, 0), (1, 1)], (0, 1))
    step = env.step(np.array([[0, 2]]))  # into the wall; down
    assert env.positions[0].tolist() == [[0, 0], [2, 1]]
    assert step.reward[0] == pytest.approx(-STEP_COST) and not step.terminated[0]
    step = env.step(np.array([[1, 0]]))  # right, onto the prey; up
    assert env.agent_reward[0].tolist() == pytest.approx([0.0, -STEP_COST])
    assert step.reward[0] == pytest.approx(-STEP_COST / 2)
    step = env.step(np.array([[3, 0]]))  # who has found it stays
    assert env.positions[0].tolist() == [[0, 1], [0, 1]]
    assert step.terminated[0] and step.won[0] and not step.truncated[0] and step.reward[0] == 0
    after = env.step(np.array([[2, 2]]))
    assert np.array_equal(after.seen.obs, step.seen.obs) and after.reward[0] == 0
    for action, (row, col) in enumerate([(0, 1), (1, 2), (2, 1), (1, 0), (1, 1)]):
        place(env, [(1, 1), (1, 1)], (0, 0))
        env.step(np.array([[action, action]]))
        assert env.positions[0, 0].tolist() == [row, col]


def test_the_limit_cuts_and_does_not_end() -> None:
    env = PredatorPrey(2, limit=3)
    place(env, [(0, 0), (0, 1), (0, 2)], (4, 4))
    steps = [env.step(np.full((2, 3), 4)) for _ in range(3)]
    assert [s.truncated.tolist() for s in steps] == [[False] * 2] * 2 + [[True] * 2]
    assert not steps[-1].terminated.any() and not steps[-1].won.any()
    seen = env.reset_where(np.array([True, False]))
    assert np.array_equal(seen.obs[1], steps[-1].seen.obs[1])
    going = env.step(np.full((2, 3), 4))
    assert going.truncated.tolist() == [False, True] and going.reward[1] == 0 > going.reward[0]


def test_capture_takes_the_action_on_the_prey() -> None:
    env = PredatorCapturePrey(1, size=3, n_predators=1)
    place(env, [(0, 0), (2, 1)], (1, 1))
    step = env.step(np.array([[CAPTURE, CAPTURE]]))  # nothing there to capture
    assert env.positions[0].tolist() == [[0, 0], [2, 1]] and not env.reached.any()
    env.step(np.array([[2, 0]]))  # both one step on: down; up, onto the prey
    step = env.step(np.array([[1, 0]]))  # the first onto the prey; the other cannot leave
    assert env.positions[0].tolist() == [[1, 1], [1, 1]]
    assert env.agent_reward[0].tolist() == pytest.approx([0.0, -STEP_COST])
    step = env.step(np.array([[0, CAPTURE]]))
    assert step.won[0] and step.reward[0] == 0


@pytest.mark.parametrize("actions", [np.zeros((1, 3), int), np.full((2, 3), 5), -np.ones((2, 3))])
def test_actions_that_there_are_not(actions) -> None:
    with pytest.raises(ValueError, match="actions are"):
        PredatorPrey(2).step(actions.astype(int))


# -- what is seen ----------------------------------------------------------------------------------


def test_a_window_of_a_predator() -> None:
    env = PredatorPrey(1, size=5, n_predators=3)
    assert env.obs_dim == 261  # the authors' 9 x 29
    place(env, [(0, 0), (0, 1), (3, 3)], (1, 1))
    view = env.step(np.full((1, 3), 4)).seen.obs.reshape(3, 3, 3, 29)
    assert (view[0, 0, :, 26] == 1).all() and (view[0, :, 0, 26] == 1).all()  # beyond the walls
    assert view[0, 0].sum() == 3 and not view[..., 25].any()  # nothing else there
    numbers = [int(view[0, i, j].argmax()) for i in (1, 2) for j in (1, 2)]
    assert numbers == [0, 1, 5, 6]
    assert view[0, 2, 2, 27] == 1 and view[..., 27].sum() == 2  # the prey, by the first two
    assert view[0, 1, 1, 28] == 1 == view[0, 1, 2, 28]  # itself, and the other one
    assert not view[2, ..., 27].any()
    place(env, [(0, 0), (0, 0), (3, 3)], (1, 1))
    view = env.step(np.full((1, 3), 4)).seen.obs.reshape(3, 3, 3, 29)
    assert view[0, 1, 1, 28] == 2


def test_the_blind_see_where_they_are_alone() -> None:
    env = PredatorCapturePrey(1, n_predators=1, n_capture=2, capture_first=True)
    assert env.can_capture.tolist() == [True, True, False]
    place(env, [(0, 0), (2, 2), (2, 3)], (1, 2))
    seen = env.step(np.full((1, 3), 4)).seen
    view = seen.obs.reshape(3, 3, 3, 29)
    assert (view[:2, ..., 25:] == -1).all() and (view[2, ..., 25:] >= 0).all()
    assert view[0, ..., :25].sum() == 4 and view[1, ..., :25].sum() == 9
    assert view[2, 0, 0, 26] == 1 and view[2, 1, 1, 27] == 1 and view[2, 1, 0, 28] == 1
    assert seen.agent_type.tolist() == [[1, 1, 0]]
    moved = seen.obs[:, :2].copy()
    env.prey[:] = (4, 4)
    assert np.array_equal(env.reset_where(np.zeros(1, bool)).obs[:, :2], moved)


@pytest.mark.parametrize("kind", [PredatorPrey, PredatorCapturePrey])
def test_the_protocol(kind) -> None:
    conforms(kind(6, size=3), twin=kind(6, size=3))


def test_starts_are_distinct_and_even() -> None:
    env = PredatorPrey(5_000, size=3, n_predators=3)
    cells = np.concatenate((env.positions, env.prey[:, None]), axis=1) @ np.array([3, 1])
    assert all(len(set(row)) == 4 for row in cells)
    counts = np.stack([np.bincount(cells[:, i], minlength=9) for i in range(4)])
    assert np.abs(counts - 5_000 / 9).max() < 5 * math.sqrt(5_000 / 9)
    again = PredatorPrey(5_000, size=3, n_predators=3)
    assert np.array_equal(again.reset(0).state, env.reset(0).state)
    assert not np.array_equal(again.reset(1).state, env.reset(0).state)


def test_it_goes_on_from_its_state() -> None:
    def walk(env: Hunt, n: int) -> list:
        made = []
        for i in range(n):
            step = env.step(np.random.default_rng(i).integers(0, 6, (64, 4)))
            env.reset_where(step.terminated | step.truncated)
            made.append((step.seen.obs, step.reward, step.truncated))
        return made

    one, other = (
        PredatorCapturePrey(64, size=3, n_predators=2, n_capture=2, limit=6) for _ in range(2)
    )
    one.reset(3)
    walk(one, 8)
    state = one.state_dict()
    whole = walk(one, 12)
    other.load_state_dict(state)
    for mine, theirs in zip(whole, walk(other, 12), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PredatorPrey(0),
        lambda: PredatorPrey(1, size=2, n_predators=4),
        lambda: PredatorPrey(1, vision=-1),
        lambda: PredatorCapturePrey(1, n_capture=0),
    ],
)
def test_what_makes_no_sense_is_refused(make) -> None:
    with pytest.raises(UserError):
        make()
