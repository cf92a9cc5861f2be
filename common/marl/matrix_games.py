"""Matrix games in batches: common pay-offs of one or several steps, drawn from normal laws.

A game is a table per state: mean and standard deviation of the pay-off of every joint action, and
the state that it leads to. Everything about it can be computed exactly (:meth:`Game.values`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.marl.protocol import Bools, Ints, Seen, Step

END = -1  # in ``Game.following``: the episode is over


@dataclass(frozen=True)
class Game:
    """A table per state; play begins in state 0. N agents have A actions each.

    Attributes:
        means: of the pay-off. [states, A, ..., A], an axis per agent.
        stds: its standard deviation, of the same shape.
        following: the state that comes next, or ``END``, of the same shape; always a later one.
    """

    means: NDArray[np.float64]
    stds: NDArray[np.float64]
    following: Ints

    def __post_init__(self) -> None:
        if not self.means.shape == self.stds.shape == self.following.shape:
            raise ValueError("means, standard deviations and what follows differ in shape")
        for state, following in enumerate(self.following):
            if not ((following == END) | (following > state)).all():
                raise ValueError(f"state {state} leads to itself or back: play might not end")

    @property
    def n_agents(self) -> int:
        """N."""
        return self.means.ndim - 1

    @property
    def steps(self) -> int:
        """Steps of the longest episode."""
        longest = np.zeros(len(self.means) + 1, np.int64)  # the last entry is that of END
        for state in reversed(range(len(self.means))):
            longest[state] = 1 + longest[self.following[state]].max()
        return int(longest[0])

    def values(self, gamma: float = 1.0) -> NDArray[np.float64]:
        """Expected return of each joint action and the best play after it. Shape of ``means``."""
        best = np.zeros(len(self.means) + 1)
        values = np.zeros_like(self.means)
        for state in reversed(range(len(self.means))):
            values[state] = self.means[state] + gamma * best[self.following[state]]
            best[state] = values[state].max()
        return values

    def optimal_value(self, gamma: float = 1.0) -> float:
        """Expected return of the best play."""
        return float(self.values(gamma)[0].max())


def _game(means: Any, stds: Any = 0.0, following: Any = END) -> Game:
    table = np.array(means, np.float64)
    return Game(
        means=table,
        stds=np.broadcast_to(np.asarray(stds, np.float64), table.shape).copy(),
        following=np.broadcast_to(np.asarray(following, np.int64), table.shape).copy(),
    )


def two_step() -> Game:
    """QMIX's game (Rashid et al., 2018): agent 0's first action leads to all 7s, or to an 8."""
    return _game([np.zeros((2, 2)), [[7, 7], [7, 7]], [[0, 1], [1, 8]]], following=_SECOND_STEP)


def dfac_m() -> Game:
    """The two-step game with normal pay-offs; both second steps have laws of their own."""
    return _game(
        [np.zeros((2, 2)), [[7, 7], [7, 7]], [[0, 1], [1, 8]]],
        [np.zeros((2, 2)), [[1, 1], [1, 1]], [[0.5, 1], [1, 2]]],
        _SECOND_STEP,
    )


def dfac_n() -> Game:
    """One step, three actions, not monotonic; the best joint action has neighbours of -12."""
    return _game(
        [[[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]],
        [[[1, 3, 3], [3, 0.5, 0.5], [3, 0.5, 0.5]]],
    )


def climbing() -> Game:
    """The climbing game (Claus & Boutilier, 1998): 11 beside -30, a safe 5."""
    return _game([[[11, -30, 0], [-30, 7, 6], [0, 0, 5]]])


def penalty(penalty: float = -100.0) -> Game:
    """The penalty game (Claus & Boutilier, 1998): two best joint actions that must not be mixed.

    Args:
        penalty: k, of mixing them, 0 or below.

    Raises:
        UserError: if it is above 0.
    """
    if not penalty <= 0:
        raise UserError(f"the penalty must be 0 or below, not {penalty}")
    return _game([[[10, 0, penalty], [0, 2, 0], [penalty, 0, 10]]])


_SECOND_STEP = [[[1, 1], [2, 2]], [[END, END], [END, END]], [[END, END], [END, END]]]
GAMES: dict[str, Callable[..., Game]] = {
    "two_step": two_step,
    "dfac_m": dfac_m,
    "dfac_n": dfac_n,
    "climbing": climbing,
    "penalty": penalty,
}


class MatrixGame:
    """E plays of one game, a :class:`common.marl.protocol.BatchEnv`.

    Every agent sees the state as a one-hot vector, and so does the critic; zeros when the play is
    over. Once it is, ``terminated`` stays set until the environment is reset.

    Args:
        game: a name in ``GAMES``, or a game.
        n_envs: E.
        options: what the game's function takes ("penalty").

    Raises:
        UserError: for an unknown name or if ``n_envs`` is below 1.
    """

    action_dim, n_types = 0, 1

    def __init__(self, game: str | Game, n_envs: int, **options: Any) -> None:
        if n_envs < 1:
            raise UserError(f"{n_envs} environments: there must be one at least")
        if isinstance(game, str):
            self.name = f"matrix:{choose('matrix game', game, GAMES)}"
            self.game = GAMES[game](**options)
        else:
            self.name, self.game = "matrix", game
        self.n_envs, self.n_agents = n_envs, self.game.n_agents
        self.obs_dim = self.state_dim = len(self.game.means)
        self.n_actions = self.game.means.shape[-1]
        self.episode_limit = self.game.steps
        self._generator: np.random.Generator | None = None
        self._state = np.full(n_envs, END)

    def reset(self, seed: int) -> Seen:
        """Begin a play in every environment; the seed is that of the pay-offs."""
        self._generator = np.random.default_rng(seed)
        return self.reset_where(np.ones(self.n_envs, bool))

    def reset_where(self, mask: Bools) -> Seen:
        """Begin anew where ``mask`` [E] is set."""
        where = np.asarray(mask, bool)
        if where.shape != (self.n_envs,):
            raise ValueError(f"the mask is {where.shape}, not ({self.n_envs},)")
        self._state[where] = 0
        return self._seen()

    def step(self, actions: NDArray[Any]) -> Step:
        """Act, [E, N] integers.

        Raises:
            ValueError: for an action that there is not, in a play that is not over.
        """
        if self._generator is None:
            raise ValueError("no episode has begun: call reset first")
        actions = np.asarray(actions)
        expected = (self.n_envs, self.n_agents)
        if actions.shape != expected or actions.dtype.kind not in "iu":
            raise ValueError(
                f"the actions are {actions.shape} {actions.dtype}, not {expected} integers"
            )
        running = self._state != END
        known = (actions >= 0) & (actions < self.n_actions)
        if (running[:, None] & ~known).any():
            raise ValueError(f"{self.name}: actions are 0 to {self.n_actions - 1}")
        cell = (self._state, *np.where(known, actions, 0).T)
        noise = self._generator.standard_normal(self.n_envs)
        payoff = self.game.means[cell] + self.game.stds[cell] * noise
        self._state = np.where(running, self.game.following[cell], END)
        return Step(
            seen=self._seen(),
            reward=np.where(running, payoff, 0.0).astype(np.float32),
            terminated=self._state == END,
            truncated=np.zeros(self.n_envs, bool),
            won=np.zeros(self.n_envs, bool),
        )

    def state_dict(self) -> dict[str, Any]:
        """The states and the generator."""
        if self._generator is None:
            raise ValueError("no episode has begun: call reset first")
        return {"state": self._state.copy(), "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave.

        Raises:
            ValueError: if it is that of another number of environments.
        """
        if state["state"].shape != (self.n_envs,):
            raise ValueError(f"{state['state'].size} plays were kept, here are {self.n_envs}")
        self._state = np.array(state["state"])
        self._generator = np.random.default_rng(0)
        self._generator.bit_generator.state = state["generator"]

    def _seen(self) -> Seen:
        E, N, S = self.n_envs, self.n_agents, self.state_dim
        state = np.zeros((E, S), np.float32)
        running = np.flatnonzero(self._state != END)
        state[running, self._state[running]] = 1.0
        return Seen(
            obs=np.repeat(state[:, None], N, axis=1),
            state=state,
            avail=np.ones((E, N, self.n_actions), bool),
            alive=np.ones((E, N), bool),
            agent_type=np.zeros((E, N), np.int64),
        )


__all__ = ["END", "GAMES", "Game", "MatrixGame"]
