"""Strings of fixed length L over V letters, batched, under three MDPs.

A state is an integer tensor [..., L] in which V marks an empty place. Only complete strings are
objects, there is no stop action.

- ``append``: letters are added on the right; a tree. V actions, one backward action.
- ``prepend_append``: action a < V appends letter a, action V + a prepends it; letters fill the
  places 0..t-1 in order. Backward action 0 removes the last letter, 1 the first. The two edges
  that lead from the empty string to the same one-letter string (and their like) are kept as
  parallel edges.
- ``slots``: L empty slots; action = slot * V + letter; backward action = slot. Uniform P_B = 1/t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from common.gfn.dag import (
    APPEND,
    PREPEND,
    EnumeratedDAG,
    SlotMoves,
    dag_from_children,
)

Mode = Literal["append", "prepend_append", "slots"]


class StringEnv:
    """See the module's docstring. ``log_reward_fn``: complete strings [..., L] -> log R [...]."""

    stop: None = None

    def __init__(
        self,
        mode: Mode,
        length: int,
        n_letters: int,
        log_reward_fn: Callable[[Tensor], Tensor],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if mode not in ("append", "prepend_append", "slots"):
            raise ValueError(f"unknown string MDP {mode!r}")
        self.mode: Mode = mode
        self.length = length
        self.n_letters = n_letters
        self.log_reward_fn = log_reward_fn
        self.device = torch.device(device)
        per_mode = {
            "append": (n_letters, 1),
            "prepend_append": (2 * n_letters, 2),
            "slots": (length * n_letters, length),
        }
        self.n_actions, self.n_backward = per_mode[mode]
        self.max_length = length
        self.empty = n_letters
        self.input_dim = length * (n_letters + 1)

    def initial(self, batch_shape: tuple[int, ...]) -> Tensor:
        """The empty string. [*batch, L] long."""
        return torch.full((*batch_shape, self.length), self.empty, device=self.device)

    def n_filled(self, states: Tensor) -> Tensor:
        """Number of letters placed so far. [..., L] -> [...]."""
        return (states != self.empty).sum(-1)

    def forward_mask(self, states: Tensor) -> Tensor:
        """Allowed actions. [..., A] bool; a complete string has none."""
        free = states == self.empty
        if self.mode == "slots":
            return free.unsqueeze(-1).expand(*free.shape, self.n_letters).flatten(-2)
        return free.any(-1, keepdim=True).expand(*free.shape[:-1], self.n_actions)

    def backward_mask(self, states: Tensor) -> Tensor:
        """In-edges. [..., A_b] bool."""
        filled = states != self.empty
        if self.mode == "slots":
            return filled
        return filled.any(-1, keepdim=True).expand(*filled.shape[:-1], self.n_backward)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """States after the actions [...]; complete strings must not be stepped."""
        letter = actions % self.n_letters
        if self.mode == "slots":
            place = actions // self.n_letters
            return states.scatter(-1, place.unsqueeze(-1), letter.unsqueeze(-1))
        place = self.n_filled(states).clamp(max=self.length - 1)
        appended = states.scatter(-1, place.unsqueeze(-1), letter.unsqueeze(-1))
        if self.mode == "append":
            return appended
        prepended = torch.cat([letter.unsqueeze(-1), states[..., :-1]], -1)
        return torch.where((actions >= self.n_letters).unsqueeze(-1), prepended, appended)

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Parents reached by the backward actions [...]."""
        hole = torch.full_like(states[..., :1], self.empty)
        if self.mode == "slots":
            return states.scatter(-1, backward_actions.unsqueeze(-1), hole)
        place = (self.n_filled(states) - 1).clamp(min=0)
        without_last = states.scatter(-1, place.unsqueeze(-1), hole)
        if self.mode == "append":
            return without_last
        without_first = torch.cat([states[..., 1:], hole], -1)
        return torch.where((backward_actions == 1).unsqueeze(-1), without_first, without_last)

    def backward_action(self, actions: Tensor) -> Tensor:
        """Backward action that undoes a forward action."""
        if self.mode == "append":
            return torch.zeros_like(actions)
        return actions // self.n_letters

    def forward_action(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Forward action that leads from the parent back to ``states``."""
        if self.mode == "slots":
            letter = states.gather(-1, backward_actions.unsqueeze(-1)).squeeze(-1)
            return backward_actions * self.n_letters + letter
        last = (self.n_filled(states) - 1).clamp(min=0)
        at = torch.where(backward_actions == 1, torch.zeros_like(last), last)
        letter = states.gather(-1, at.unsqueeze(-1)).squeeze(-1)
        return backward_actions * self.n_letters + letter

    def log_reward(self, states: Tensor) -> Tensor:
        """log R of complete strings. [..., L] -> [...]."""
        return self.log_reward_fn(states)

    def encode(self, states: Tensor) -> Tensor:
        """Concatenated one-hot of letters and 'empty'. [..., L] -> [..., L*(V+1)] float32."""
        one_hot = torch.zeros((*states.shape, self.n_letters + 1), device=states.device)
        return one_hot.scatter_(-1, states.unsqueeze(-1), 1.0).flatten(-2)

    def active_inputs(self, states: Tensor) -> Tensor:
        """Positions of the ones in ``encode``. [..., L] long."""
        return states + torch.arange(self.length, device=states.device) * (self.n_letters + 1)

    def index(self, states: Tensor) -> Tensor:
        """Row number in ``dag``. [..., L] -> [...].

        Packed strings: by length, then the number in base V, first letter most significant. Slots:
        the number in base V+1.
        """
        number = torch.zeros_like(states[..., 0])
        if self.mode == "slots":
            for place in range(self.length):
                number = number * (self.n_letters + 1) + states[..., place]
            return number
        for place in range(self.length):
            letter = states[..., place]
            longer = number * self.n_letters + letter
            number = torch.where(letter == self.empty, number, longer)
        first = torch.tensor(self._first_row_of_length(), device=states.device)
        return number + first[self.n_filled(states)]

    def _first_row_of_length(self) -> list[int]:
        return [sum(self.n_letters**i for i in range(t)) for t in range(self.length + 1)]

    def all_states(self) -> Tensor:
        """All states in row order. [N, L]."""
        if self.mode == "slots":
            return digits((self.n_letters + 1) ** self.length, self.n_letters + 1, self.length).to(
                self.device
            )
        parts = []
        for t in range(self.length + 1):
            strings = digits(self.n_letters**t, self.n_letters, t)
            hole = torch.full((len(strings), self.length - t), self.empty)
            parts.append(torch.cat([strings, hole], -1))
        return torch.cat(parts).to(self.device)

    def moves(self) -> SlotMoves:
        """The actions as tables (on the CPU)."""
        action = torch.arange(self.n_actions)
        if self.mode == "slots":
            place = action // self.n_letters
        else:
            place = torch.where(action < self.n_letters, APPEND, PREPEND)
        becomes = torch.full((self.n_actions, self.n_letters + 1), -1)
        becomes[:, self.empty] = action % self.n_letters
        return SlotMoves(place, becomes, torch.full((self.length,), self.empty))

    def dag(self) -> EnumeratedDAG:
        """All states as tables. For small L and V."""
        states = self.all_states()
        n = len(states)
        mask = self.forward_mask(states)
        children = torch.full((n, self.n_actions), -1, device=self.device)
        for a in range(self.n_actions):
            rows = mask[:, a].nonzero().squeeze(-1)
            action = torch.full_like(rows, a)
            children[rows, a] = self.index(self.step(states[rows], action))
        complete = self.n_filled(states) == self.length
        log_reward = torch.full((n,), -torch.inf, dtype=torch.float64, device=self.device)
        log_reward[complete] = self.log_reward(states[complete]).double()
        actions = torch.arange(self.n_actions, device=self.device).expand(n, -1)
        return dag_from_children(
            children,
            log_reward=log_reward,
            level=self.n_filled(states),
            source=int(self.index(self.initial(()))),
            backward_index=self.backward_action(actions).contiguous(),
            active=self.active_inputs(states),
            input_dim=self.input_dim,
        )


def digits(n: int, base: int, length: int) -> Tensor:
    """The numbers 0..n-1 in a base, most significant digit first. [n, length] long."""
    radix = base ** torch.arange(length - 1, -1, -1)
    return torch.arange(n).unsqueeze(-1) // radix % base


#: The blocks that the modes of the bit-sequence benchmarks are made of.
BIT_BLOCKS = ("00000000", "11111111", "11110000", "00001111", "00111100")
