"""HyperGrid, batched: states are integer tensors [..., D], no loop over trajectories.

R(x) = R0 + R1 prod_d 1[|u_d| > 1/4] + R2 prod_d 1[3/10 < |u_d| < 4/10], u_d = x_d/(H-1) - 1/2,
all inequalities strict. Membership is decided in integers (|2x-(H-1)| against multiples of H-1),
because floating point puts one of the two symmetric border cells of H=16 into the band and not the
other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.dag import STOP, EnumeratedDAG, SlotMoves, parents_from_children

#: (R0, R1, R2) of the settings met in the family's papers.
REWARDS: dict[str, tuple[float, float, float]] = {
    "standard-1": (1e-1, 0.5, 2.0),
    "standard-2": (1e-2, 0.5, 2.0),
    "standard-3": (1e-3, 0.5, 2.0),
    "sparse-4": (1e-4, 0.5, 2.0),
    "sparse-5": (1e-5, 0.5, 2.0),
    "hard": (1e-4, -9.9e-5, 0.999999),
}


def band_indices(height: int) -> list[int]:
    """Coordinates with 3/10 < |u| < 4/10, exactly. H=11 has none."""
    m = height - 1
    return [x for x in range(height) if 3 * m < 5 * abs(2 * x - m) < 4 * m]


def outer_indices(height: int) -> list[int]:
    """Coordinates with |u| > 1/4, exactly."""
    m = height - 1
    return [x for x in range(height) if 2 * abs(2 * x - m) > m]


class HyperGrid:
    """{0..H-1}^D; actions 0..D-1 add one to a coordinate, action D stops.

    Args:
        forced_stop: variant of early public code: a state with a coordinate at H-1 can only stop.
            Then states with two such coordinates do not exist, and one with a single one has one
            parent.
    """

    def __init__(
        self,
        ndim: int,
        height: int,
        reward: tuple[float, float, float] | str = "standard-3",
        *,
        forced_stop: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ndim = ndim
        self.height = height
        self.rewards = REWARDS[reward] if isinstance(reward, str) else reward
        self.forced_stop = forced_stop
        self.device = torch.device(device)
        self.n_actions = ndim + 1
        self.n_backward = ndim
        self.stop = ndim
        self.n_states = height**ndim
        # forced stop: at most D(H-2) free steps, one onto the border, the stop
        self.max_length = ndim * (height - 2) + 2 if forced_stop else ndim * (height - 1) + 1
        self.input_dim = ndim * height
        band = torch.zeros(height, dtype=torch.bool)
        band[band_indices(height)] = True
        outer = torch.zeros(height, dtype=torch.bool)
        outer[outer_indices(height)] = True
        self.band = band.to(self.device)
        self.outer = outer.to(self.device)
        self._slot_moves: SlotMoves | None = None
        self._moves = torch.eye(ndim + 1, dtype=torch.long, device=self.device)[:, :ndim]
        self._offsets = torch.arange(ndim, device=self.device) * height
        self._radix = height ** torch.arange(ndim - 1, -1, -1, device=self.device)

    def initial(self, batch_shape: tuple[int, ...]) -> Tensor:
        """The source, repeated. [*batch, D] long."""
        return torch.zeros((*batch_shape, self.ndim), dtype=torch.long, device=self.device)

    def forward_mask(self, states: Tensor) -> Tensor:
        """Allowed actions. [..., D] -> [..., D+1] bool; stop is always allowed."""
        free = states < self.height - 1
        if self.forced_stop:
            free = free & free.all(-1, keepdim=True)
        return torch.nn.functional.pad(free, (0, 1), value=True)

    def backward_mask(self, states: Tensor) -> Tensor:
        """In-edges. [..., D] -> [..., D] bool."""
        mask = states > 0
        if self.forced_stop:
            at_border = states == self.height - 1
            mask = torch.where(at_border.any(-1, keepdim=True), at_border, mask)
        return mask

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States after the actions [...]; stopping leaves the coordinates as they are."""
        return states + self._moves[actions]

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Parents reached by undoing one step on the given coordinate."""
        return states - self._moves[backward_actions]

    def backward_action(self, actions: Tensor) -> Tensor:
        """Backward action that undoes a forward action (0 for stop, which has probability one)."""
        return torch.where(actions == self.stop, torch.zeros_like(actions), actions)

    def forward_action(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Forward action that a backward action undoes: the same coordinate's."""
        return backward_actions

    def reward(self, states: Tensor) -> Tensor:
        """R(x). [..., D] -> [...] float64."""
        r0, r1, r2 = self.rewards
        outer = self.outer[states].all(-1).double()
        band = self.band[states].all(-1).double()
        return r0 + r1 * outer + r2 * band

    def log_reward(self, states: Tensor) -> Tensor:
        """log R(x). [...] float64."""
        return self.reward(states).log()

    def is_mode(self, states: Tensor) -> Tensor:
        """True in the 2^D high-reward corner regions. [...] bool."""
        return self.band[states].all(-1)

    def region(self, states: Tensor) -> Tensor:
        """Number 0..2^D-1 of the corner region a state lies in, -1 outside all. [...] long."""
        upper = (2 * states > self.height - 1).long()
        number = (upper * (2 ** torch.arange(self.ndim, device=states.device))).sum(-1)
        return torch.where(self.is_mode(states), number, torch.full_like(number, -1))

    def index(self, states: Tensor) -> Tensor:
        """Row number of states, first coordinate most significant. [..., D] -> [...]."""
        return (states * self._radix).sum(-1)

    def all_states(self) -> Tensor:
        """All coordinates in row order. [N, D]."""
        grid = torch.arange(self.n_states, device=self.device)
        return grid.unsqueeze(-1) // self._radix % self.height

    def encode(self, states: Tensor) -> Tensor:
        """Concatenated one-hot network input. [..., D] -> [..., D*H] float32."""
        one_hot = torch.zeros((*states.shape, self.height), device=states.device)
        return one_hot.scatter_(-1, states.unsqueeze(-1), 1.0).flatten(-2)

    def active_inputs(self, states: Tensor) -> Tensor:
        """Positions of the ones in ``encode``. [..., D] long."""
        return states + self._offsets

    def exists(self, states: Tensor) -> Tensor:
        """False for the states that the forced-stop variant cannot reach. [...] bool."""
        if not self.forced_stop:
            return torch.ones(states.shape[:-1], dtype=torch.bool, device=states.device)
        return (states == self.height - 1).sum(-1) <= 1

    def moves(self) -> SlotMoves:
        """The actions as tables (on the CPU)."""
        if self._slot_moves is None:
            self._slot_moves = self._tables_of_moves()
        return self._slot_moves

    def _tables_of_moves(self) -> SlotMoves:
        value = torch.arange(self.height)
        plus_one = torch.where(value < self.height - 1, value + 1, -1)
        return SlotMoves(
            place=torch.tensor([*range(self.ndim), STOP]),
            becomes=plus_one.repeat(self.n_actions, 1),
            source=torch.zeros(self.ndim, dtype=torch.long),
            blocking=self.height - 1 if self.forced_stop else -1,
        )

    def dag(self) -> EnumeratedDAG:
        """The whole grid as tables (rows that do not exist have no edges and log R = -inf)."""
        states = self.all_states()
        exists = self.exists(states)
        mask = self.forward_mask(states) & exists.unsqueeze(-1)
        actions = torch.arange(self.n_actions, device=self.device).expand(self.n_states, -1)
        after = self.step(states.unsqueeze(1).expand(-1, self.n_actions, -1), actions)
        children = self.index(after.clamp(max=self.height - 1))
        children = torch.where(mask, children, torch.full_like(children, -1))
        children[:, self.stop] = -1
        backward_index = self.backward_action(actions).contiguous()
        parents, parent_actions = parents_from_children(children, backward_index, self.n_backward)
        log_reward = self.log_reward(states).masked_fill(~exists, -torch.inf)
        return EnumeratedDAG(
            children=children,
            forward_mask=mask,
            parents=parents,
            parent_actions=parent_actions,
            backward_index=backward_index,
            log_reward=log_reward,
            level=states.sum(-1),
            stop=self.stop,
            active=self.active_inputs(states),
            input_dim=self.input_dim,
        )
