"""Predator-prey grid worlds as batches of environments, in NumPy.

``PredatorPrey``: N predators look for one prey that does not move, on a grid of d x d cells. A
predator sees the (2v+1)^2 cells around it, stays where it has found the prey, and costs 0.05 a
step until then; the episode ends when all have found it. ``PredatorCapturePrey``: some of the
agents see only where they are; they stay on the prey's cell as well, and have to capture it there.

The rules are those of IC3Net's environment (Singh et al., 2019) in its mode "mixed" and of its
extension by HetNet (Seraj et al., 2022), with a time limit in training as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.marl.protocol import Bools, Floats, Ints, Seen, Step

STEP_COST = 0.05  # of each agent that has not reached the prey yet
#: up, right, down, left, stay, and capture: row and column.
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (0, 0)])
CAPTURE = 5  # the action; for an agent that has nothing to capture it is to stay


class _Hunt:
    """What both worlds share.

    A window's cell has d^2 + 4 features: one-hot of its number in the grid, then four more:

    - ``PredatorPrey``: one that is never used, outside of the grid, number of prey, of predators;
    - ``PredatorCapturePrey``: outside, number of prey, of predators, of capture agents. For an
      agent that does not see all four are -1.

    Attributes:
        agent_reward: of each agent at the last step, [E, N]; its mean is the team's reward.
        can_capture: which agents have to capture the prey (and see nothing), [N].
        positions: row and column of each agent, [E, N, 2].
        prey: row and column of the prey, [E, 2].
        reached: which agents are done. [E, N].
    """

    def __init__(
        self,
        name: str,
        n_envs: int,
        size: int,
        can_capture: NDArray[np.bool_],
        vision: int,
        limit: int,
    ) -> None:
        n = len(can_capture)
        if n_envs < 1 or n < 1 or limit < 1:
            raise UserError(f"{name} needs an environment, an agent and a step or more")
        if vision < 0:
            raise UserError(f"{name}: vision must be 0 or more, not {vision}")
        if size * size <= n:
            raise UserError(
                f"{name}: a grid of {size} x {size} has no room for {n} agents and prey"
            )
        self.name, self.n_envs, self.n_agents = name, n_envs, n
        self.size, self.vision, self.episode_limit = size, vision, limit
        self.can_capture = can_capture
        captures = bool(can_capture.any())
        self.n_actions, self.action_dim = (6 if captures else 5), 0
        self.n_types = 2 if captures else 1
        self.features = size * size + 4
        self.obs_dim = (2 * vision + 1) ** 2 * self.features
        self.state_dim = (n + 1) * size * size + n
        self._rows = np.arange(n_envs)
        self._type = np.where(can_capture, 1, 0).astype(np.int64)
        self._views = self._make_views(captures)
        self._generator = np.random.default_rng(0)
        self.positions = np.zeros((n_envs, n, 2), dtype=np.int64)
        self.prey = np.zeros((n_envs, 2), dtype=np.int64)
        self.reached = np.zeros((n_envs, n), dtype=bool)
        self.agent_reward = np.zeros((n_envs, n), dtype=np.float32)
        self._t = np.zeros(n_envs, dtype=np.int64)
        self._terminated = np.zeros(n_envs, dtype=bool)
        self._truncated = np.zeros(n_envs, dtype=bool)
        self.reset(0)

    # -- what is seen ---------------------------------------------------------------------------

    def _make_views(self, captures: bool) -> dict[str, NDArray[Any]]:
        """Tables by the cell where an agent stands.

        Returns:
            "window": indices into the padded grid, [cells, W]; "empty": features of the window
            of an agent that sees in an empty world, [cells, W, F]; "blind": features of one that
            does not, [cells, W, F].
        """
        d, v, base = self.size, self.vision, self.size**2
        row, col = np.divmod(np.arange(base), d)
        shift = np.arange(2 * v + 1)
        rows = (row[:, None, None] + shift[None, :, None]) + 0 * shift[None, None, :]
        cols = (col[:, None, None] + shift[None, None, :]) + 0 * shift[None, :, None]
        rows, cols = rows.reshape(base, -1), cols.reshape(base, -1)  # in the padded grid
        inside = (rows >= v) & (rows < d + v) & (cols >= v) & (cols < d + v)
        number = (rows - v) * d + cols - v
        onehot = np.zeros((base, rows.shape[1], self.features), dtype=np.float32)
        cell, place = np.nonzero(inside)
        onehot[cell, place, number[inside]] = 1.0
        blind, empty = onehot.copy(), onehot
        blind[..., base:] = -1.0
        self._outside, self._counts = (base, base + 1) if captures else (base + 1, base + 2)
        empty[..., self._outside] = ~inside
        return {"window": rows * (d + 2 * v) + cols, "empty": empty, "blind": blind}

    def _seen(self) -> Seen:
        d, v, views = self.size, self.vision, self._views
        cell = self.positions[..., 0] * d + self.positions[..., 1]  # [E, N]
        obs = np.where(
            self.can_capture[:, None, None], views["blind"][cell], views["empty"][cell]
        )  # [E, N, W, F]
        window = views["window"][cell]  # [E, N, W]
        seeing = ~self.can_capture
        width = d + 2 * v
        padded = (self.positions + v) @ np.array([width, 1])  # [E, N]
        things = [((self.prey + v) @ np.array([width, 1]))[:, None], padded[:, seeing]]
        if self.can_capture.any():
            things.append(padded[:, self.can_capture])
        for i, where in enumerate(things):
            grid = np.zeros((self.n_envs, width * width), dtype=np.float32)
            np.add.at(grid, (self._rows[:, None], where), 1.0)
            counted = np.take_along_axis(grid, window.reshape(self.n_envs, -1), axis=1)
            counted = counted.reshape(window.shape)
            obs[..., self._counts + i][:, seeing] = counted[:, seeing]
        E, N = self.n_envs, self.n_agents
        return Seen(
            obs=obs.reshape(E, N, -1),
            state=self._state(cell),
            avail=np.ones((E, N, self.n_actions), dtype=bool),
            alive=np.ones((E, N), dtype=bool),
            agent_type=np.broadcast_to(self._type, (E, N)).copy(),
        )

    def _state(self, cell: Ints) -> Floats:
        """One-hot cells of the agents and of the prey, and who has reached it. [E, S]."""
        base = self.size**2
        cells = np.concatenate((cell, (self.prey @ np.array([self.size, 1]))[:, None]), axis=1)
        onehot = np.zeros((self.n_envs, self.n_agents + 1, base), dtype=np.float32)
        np.put_along_axis(onehot, cells[..., None], 1.0, axis=-1)
        return np.concatenate(
            (onehot.reshape(self.n_envs, -1), self.reached.astype(np.float32)), axis=1
        )

    def _on_prey(self) -> Bools:
        """Who stands on the prey's cell: nobody leaves it. [E, N]."""
        return (self.positions == self.prey[:, None]).all(-1)

    # -- the protocol ---------------------------------------------------------------------------

    def reset(self, seed: int) -> Seen:
        """Begin an episode in every environment; the same seed, the same episodes to come."""
        self._generator = np.random.default_rng(seed)
        return self.reset_where(np.ones(self.n_envs, dtype=bool))

    def reset_where(self, mask: Bools) -> Seen:
        """Begin anew where ``mask`` [E] is set: agents and prey on distinct random cells."""
        n, d = int(mask.sum()), self.size
        cells = np.tile(np.arange(d * d), (n, 1))
        cells = self._generator.permuted(cells, axis=1)[:, : self.n_agents + 1]
        places = np.stack(np.divmod(cells, d), axis=-1)
        self.positions[mask], self.prey[mask] = places[:, :-1], places[:, -1]
        self.reached[mask] = False
        self.agent_reward[mask] = 0.0
        self._t[mask] = 0
        self._terminated[mask] = self._truncated[mask] = False
        return self._seen()

    def step(self, actions: NDArray[Any]) -> Step:
        """Act, [E, N]; what is over stays as it is, with reward 0.

        Raises:
            ValueError: for actions of another shape or ones that there are not.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.n_envs, self.n_agents):
            raise ValueError(
                f"actions are [{self.n_envs}, {self.n_agents}] numbers, not {actions.shape}"
            )
        running = ~(self._terminated | self._truncated)
        known = (actions >= 0) & (actions < self.n_actions)
        if (~known & running[:, None]).any():
            raise ValueError(f"{self.name}: actions are 0 to {self.n_actions - 1}")
        moved = np.clip(self.positions + MOVES[np.where(known, actions, 0)], 0, self.size - 1)
        moving = running[:, None] & ~self._on_prey()
        self.positions = np.where(moving[..., None], moved, self.positions)
        done = self._on_prey() & (~self.can_capture | (actions == CAPTURE))
        self.reached |= running[:, None] & done
        self.agent_reward = np.where(running[:, None] & ~self.reached, -STEP_COST, 0.0).astype(
            np.float32
        )
        self._t += running
        self._terminated |= running & self.reached.all(1)
        self._truncated |= running & ~self._terminated & (self._t >= self.episode_limit)
        return Step(
            seen=self._seen(),
            reward=self.agent_reward.mean(1),
            terminated=self._terminated.copy(),
            truncated=self._truncated.copy(),
            won=self._terminated.copy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        return {
            "positions": self.positions.copy(),
            "prey": self.prey.copy(),
            "reached": self.reached.copy(),
            "agent_reward": self.agent_reward.copy(),
            "t": self._t.copy(),
            "terminated": self._terminated.copy(),
            "truncated": self._truncated.copy(),
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what ``state_dict`` gave."""
        for name in ("positions", "prey", "reached", "agent_reward"):
            setattr(self, name, np.array(state[name]))
        for name in ("t", "terminated", "truncated"):
            setattr(self, f"_{name}", np.array(state[name]))
        self._generator.bit_generator.state = state["generator"]


class PredatorPrey(_Hunt):
    """N predators that see look for the prey; actions up, right, down, left, stay.

    Args:
        n_envs: environments.
        size: d, cells along a side.
        n_predators: N.
        vision: v, how far a predator sees.
        limit: steps after which an episode is cut.

    Raises:
        UserError: where the grid has no room, or a number makes no sense.
    """

    def __init__(
        self, n_envs: int, size: int = 5, n_predators: int = 3, vision: int = 1, limit: int = 20
    ) -> None:
        can_capture = np.zeros(max(n_predators, 0), dtype=bool)
        super().__init__(
            f"pp:{size}x{size}-{n_predators}", n_envs, size, can_capture, vision, limit
        )


class PredatorCapturePrey(_Hunt):
    """Predators that see, and capture agents that only know where they are and have to capture.

    A capture agent is done once it has taken the action ``CAPTURE`` on the cell of the prey.

    Args:
        n_envs: environments.
        size: d, cells along a side.
        n_predators: agents that see.
        n_capture: agents that do not and have to capture.
        vision: v, how far a predator sees.
        limit: steps after which an episode is cut.
        capture_first: the order of the agents: capture agents before the predators.

    Raises:
        UserError: where the grid has no room, or a number makes no sense.
    """

    def __init__(
        self,
        n_envs: int,
        size: int = 5,
        n_predators: int = 2,
        n_capture: int = 1,
        vision: int = 1,
        limit: int = 20,
        capture_first: bool = False,
    ) -> None:
        if n_predators < 0 or n_capture < 1:
            raise UserError("predator-capture-prey needs a capture agent")
        can_capture = np.repeat([False, True], [n_predators, n_capture])
        if capture_first:
            can_capture = can_capture[::-1].copy()
        name = f"pcp:{size}x{size}-{n_predators}+{n_capture}"
        super().__init__(name, n_envs, size, can_capture, vision, limit)


__all__ = ["CAPTURE", "MOVES", "STEP_COST", "PredatorCapturePrey", "PredatorPrey"]
