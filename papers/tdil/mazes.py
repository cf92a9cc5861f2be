"""Two mazes with the same walls, batched NumPy: the authors' grid and a continuous one of ours.

Positions are (row, column) in [0, 10]^2; the grid's cell (r, c) is centred at (r + .5, c + .5).
States are (position - 5) / 10, of cells (cell - 5) / 10 as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from papers.tdil.demonstration import Demonstration

SIDE = 10
LIMIT = 50  # steps of an episode
# (axis that the wall is orthogonal to, where on it, from and to along the other axis)
WALLS = (
    (1, 4.0, 3.0, 10.0),  # between columns 3 and 4, rows 3 to 9
    (1, 7.0, 4.0, 9.0),  # between columns 6 and 7, rows 4 to 8
    (0, 9.0, 7.0, 10.0),  # between rows 8 and 9, columns 7 to 9
    *((axis, end, 0.0, 10.0) for axis in (0, 1) for end in (0.0, 10.0)),  # the border
)
MARGIN = 1e-3  # a blocked move of the continuous maze stops so far in front of the wall

ACTIONS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # up, right, down, left
GOAL = (9, 9)
PATH = (  # cells of the grid's demonstration
    *((2, 1), (2, 2), (2, 3), (2, 4), (3, 4), (4, 4), (5, 4), (5, 5), (5, 6)),
    *((6, 6), (7, 6), (8, 6), (9, 6), (9, 7), (9, 8), (9, 9)),
)
CORNERS = ((2.5, 1.5), (2.5, 4.5), (5.5, 4.5), (5.5, 6.5), (9.5, 6.5), (9.5, 9.5))

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scaled(position: NDArray) -> NDArray[np.float32]:
    """What networks see of a position or a cell."""
    return ((position - 5.0) / 10.0).astype(np.float32)


# -- continuous maze --------------------------------------------------------------------------


def free_share(position: Floats, move: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Share of each move up to the first wall (less the margin), and whether one is met. [N]."""
    share = np.ones(len(position))
    blocked = np.zeros(len(position), dtype=bool)
    for axis, at, low, high in WALLS:
        along = move[:, axis]
        safe = np.where(along == 0, 1.0, along)
        t = np.where(along == 0, np.inf, (at - position[:, axis]) / safe)
        meets = position[:, 1 - axis] + np.where(np.isinf(t), 0.0, t) * move[:, 1 - axis]
        # a wall that is behind or farther than the move is not met
        hit = (t >= 0) & (t <= 1 + MARGIN / np.abs(safe)) & (meets >= low) & (meets <= high)
        share = np.where(hit, np.minimum(share, t - MARGIN / np.abs(safe)), share)
        blocked |= hit & (t <= 1)
    return np.clip(share, 0.0, 1.0), blocked


def move(position: Floats, displacement: Floats) -> Floats:
    """Positions after a move that stops in front of the first wall. [N, 2], [N, 2] in [-1, 1]."""
    displacement = np.clip(displacement, -1.0, 1.0)
    share, _ = free_share(position, displacement)
    return position + share[:, None] * displacement


def continuous_demonstration(seed: int = 0, steps: int = 20, jitter: float = 0.05) -> Demonstration:
    """The grid's path in `steps` moves, with a random walk on top (seed fixed once for all)."""
    corners = np.array(CORNERS)
    lengths = np.concatenate(([0.0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()))
    at = np.linspace(0.0, lengths[-1], steps + 1)
    path = np.stack([np.interp(at, lengths, corners[:, i]) for i in (0, 1)], axis=1)
    path += jitter * np.random.default_rng(seed).standard_normal(path.shape).cumsum(axis=0)
    return Demonstration(
        observations=scaled(path[:-1]),
        actions=np.diff(path, axis=0).astype(np.float32),
        next_observations=scaled(path[1:]),
        rewards=np.zeros(steps, np.float32),
    )


# -- grid maze --------------------------------------------------------------------------------


def _successors() -> Ints:
    cells = np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1)
    columns = []
    for action in ACTIONS:
        tiled = np.broadcast_to(action, cells.shape).astype(float)
        _, blocked = free_share(cells + 0.5, tiled)
        following = np.where(blocked[:, None], cells, cells + action)
        columns.append(following[:, 0] * SIDE + following[:, 1])
    return np.stack(columns, axis=1)


SUCCESSORS = _successors()  # [100, 4]: cell r * 10 + c after each action; a blocked move stays
CELLS = np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1)  # [100, 2]
GOAL_CELL = GOAL[0] * SIDE + GOAL[1]
PATH_CELLS = np.array([r * SIDE + c for r, c in PATH])  # [16]


def grid_demonstration() -> Demonstration:
    """The 15 transitions of PATH."""
    actions = [
        int(np.flatnonzero(SUCCESSORS[here] == there)[0])
        for here, there in zip(PATH_CELLS[:-1], PATH_CELLS[1:], strict=True)
    ]
    return Demonstration(
        observations=scaled(CELLS[PATH_CELLS[:-1]]),
        actions=np.array(actions),
        next_observations=scaled(CELLS[PATH_CELLS[1:]]),
        rewards=np.zeros(len(actions), np.float32),
    )


def one_step_pairs() -> NDArray[np.bool_]:
    """[100, 100]: whether the second cell can follow the first in one step; 389 pairs."""
    pairs = np.zeros((SIDE**2, SIDE**2), dtype=bool)
    pairs[np.arange(SIDE**2)[:, None], SUCCESSORS] = True
    return pairs


def neighbours(walled: bool) -> NDArray[np.bool_]:
    """[100, 100]: ordered pairs of adjacent cells with (30), or without (330), a wall between."""
    adjacent = np.abs(CELLS[:, None] - CELLS[None]).sum(-1) == 1
    return adjacent & (one_step_pairs() != walled)


def exact_discriminator(kappa: float, hard_negatives: bool = False) -> Floats:
    """The loss's optimum for the uniform random policy, whose cells are uniform. [100, 100]."""
    n = SIDE**2
    step = np.zeros((n, n))
    np.add.at(step, (np.repeat(np.arange(n), 4), SUCCESSORS.ravel()), 0.25)
    happened = kappa * step / n
    random = (1 - kappa) / n * step.mean(axis=0)
    reversed_ = step.T / n if hard_negatives else 0.0
    return happened / (happened + random + reversed_)


def exact_reward(kappa: float) -> Floats:
    """R_TDIL of arriving in each cell, from the exact discriminator. [100]."""
    return exact_discriminator(kappa)[:, PATH_CELLS[1:]].sum(axis=1)


def follow_scores(cells: Ints) -> dict[str, Floats]:
    """What greedy rollouts came to. cells: [N, L + 1], the goal repeated once it is reached.

    Returns, each [N]: `reach` (visited a cell of the demonstration), `steps` until then (NaN if
    never), `follow` (share of the demonstration after the first cell touched that was made, in
    order; 0 if never) and `success` (reached, followed to the end, and ended at the goal).
    """
    index = np.full(SIDE**2, -1)
    index[PATH_CELLS] = np.arange(len(PATH_CELLS))
    touched = index[cells]  # [N, L + 1]
    reach = (touched >= 0).any(axis=1)
    first = np.where(reach, (touched >= 0).argmax(axis=1), 0)
    start = touched[np.arange(len(cells)), first]  # k, the first index touched
    last = len(PATH_CELLS) - 1
    at = start.copy()
    for t in range(cells.shape[1] - 1):
        made = (t >= first) & (at < last) & (cells[:, t] == PATH_CELLS[at])
        made &= cells[:, t + 1] == PATH_CELLS[np.minimum(at + 1, last)]
        at = at + made
    follow = np.where(start == last, 1.0, (at - start) / np.maximum(last - start, 1))
    follow = np.where(reach, follow, 0.0)
    success = reach & (cells[:, -1] == GOAL_CELL) & (follow == 1.0)
    return {
        "reach": reach.astype(float),
        "steps": np.where(reach, first, np.nan).astype(float),
        "follow": follow,
        "success": success.astype(float),
    }


# -- training environments --------------------------------------------------------------------


class GridMaze:
    """One grid maze per generator; an episode ends at the goal or after 50 steps."""

    def __init__(self, rngs: Sequence[np.random.Generator]) -> None:
        self.rngs = rngs
        self.cell = np.array([g.integers(SIDE**2) for g in rngs])
        self.clock = np.zeros(len(rngs), dtype=np.int64)

    @property
    def observation(self) -> NDArray[np.float32]:
        """Current states, [N, 2]."""
        return scaled(CELLS[self.cell])

    def step(self, action: Ints) -> tuple[NDArray[np.float32], Floats]:
        """Next states (before a reset) and the environment's rewards: 1 at the goal."""
        self.cell = SUCCESSORS[self.cell, action]
        self.clock += 1
        following, at_goal = self.observation, self.cell == GOAL_CELL
        for i in np.flatnonzero(at_goal | (self.clock >= LIMIT)):
            self.cell[i], self.clock[i] = self.rngs[i].integers(SIDE**2), 0
        return following, at_goal.astype(float)

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        rngs = [g.bit_generator.state for g in self.rngs]
        return {"cell": self.cell.copy(), "clock": self.clock.copy(), "rngs": rngs}

    def load(self, state: dict[str, object]) -> None:
        """What `state` gave."""
        self.cell, self.clock = state["cell"].copy(), state["clock"].copy()  # type: ignore[attr-defined]
        for g, s in zip(self.rngs, state["rngs"], strict=True):  # type: ignore[call-overload]
            g.bit_generator.state = s


class ContinuousMaze:
    """One continuous maze per generator; every episode lasts 50 steps."""

    def __init__(self, rngs: Sequence[np.random.Generator]) -> None:
        self.rngs = rngs
        self.position = np.stack([g.uniform(0.0, SIDE, 2) for g in rngs])
        self.clock = 0

    @property
    def observation(self) -> NDArray[np.float32]:
        """Current states, [N, 2]."""
        return scaled(self.position)

    def step(self, action: Floats) -> tuple[NDArray[np.float32], Floats]:
        """Next states (before a reset) and rewards, all 0."""
        self.position = move(self.position, action.astype(np.float64))
        self.clock += 1
        following = self.observation
        if self.clock >= LIMIT:
            self.position = np.stack([g.uniform(0.0, SIDE, 2) for g in self.rngs])
            self.clock = 0
        return following, np.zeros(len(self.rngs))

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        rngs = [g.bit_generator.state for g in self.rngs]
        return {"position": self.position.copy(), "clock": self.clock, "rngs": rngs}

    def load(self, state: dict[str, object]) -> None:
        """What `state` gave."""
        self.position, self.clock = state["position"].copy(), state["clock"]  # type: ignore[attr-defined,assignment]
        for g, s in zip(self.rngs, state["rngs"], strict=True):  # type: ignore[call-overload]
            g.bit_generator.state = s
