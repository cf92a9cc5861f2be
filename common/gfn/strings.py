"""Strings of fixed length L over V letters, batched, under three MDPs; and bit sequences.

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


BIT_BLOCKS = ("00000000", "11111111", "11110000", "00001111", "00111100")


class BitSequences:
    """n bits in L = n/k words of k bits; log R = -beta * min_m d_Hamming(x, m) (Family page, 3.2).

    Modes are concatenations of n/8 blocks drawn with replacement (a mode may occur twice).
    """

    def __init__(
        self,
        n_bits: int,
        word_bits: int,
        n_modes: int,
        *,
        beta: float = 2.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if n_bits % word_bits or n_bits % 8:
            raise ValueError("n_bits must be a multiple of 8 and of word_bits")
        self.n_bits, self.word_bits, self.beta = n_bits, word_bits, beta
        self.length = n_bits // word_bits
        self.n_words = 2**word_bits
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.tensor([[int(c) for c in block] for block in BIT_BLOCKS])
        drawn = torch.randint(len(BIT_BLOCKS), (n_modes, n_bits // 8), generator=generator)
        self.mode_bits = blocks[drawn].flatten(1).to(self.device)  # [M, n]
        flips = torch.rand(n_modes, n_bits, n_bits, generator=generator).argsort(-1).argsort(-1)
        flips = flips < torch.arange(n_bits).unsqueeze(-1)  # row c flips exactly c bits
        test = self.mode_bits.cpu().unsqueeze(1) ^ flips.long()
        self.test_bits = test.flatten(0, 1).to(self.device)  # [M * n, n]
        words = torch.arange(self.n_words)
        shifts = torch.arange(word_bits - 1, -1, -1)
        self._word_bits = (words.unsqueeze(-1) >> shifts & 1).to(self.device)  # [V, k]
        self.mode_words = self.to_words(self.mode_bits)
        # distance of letter v at place i to mode m; the empty letter costs nothing
        table = (self._word_bits[:, None, None] != self._bits_of(self.mode_words)).sum(-1)
        table = torch.cat([table, torch.zeros_like(table[:1])]).permute(2, 0, 1)  # [L, V+1, M]
        self._table = table.reshape(self.length * (self.n_words + 1), n_modes).float()
        self._offset = torch.arange(self.length, device=self.device) * (self.n_words + 1)

    def _bits_of(self, words: Tensor) -> Tensor:
        return self._word_bits[words]

    def to_words(self, bits: Tensor) -> Tensor:
        """[..., n] bits -> [..., L] words, first bit most significant."""
        grouped = bits.unflatten(-1, (self.length, self.word_bits))
        weights = 2 ** torch.arange(self.word_bits - 1, -1, -1, device=bits.device)
        return (grouped * weights).sum(-1)

    def to_bits(self, words: Tensor) -> Tensor:
        """[..., L] complete words -> [..., n] bits."""
        return self._bits_of(words).flatten(-2)

    def distances(self, words: Tensor) -> Tensor:
        """Hamming distance to every mode, counted on filled places only. [..., L] -> [..., M]."""
        flat = (words + self._offset).reshape(-1, self.length)
        found = torch.nn.functional.embedding_bag(flat, self._table, mode="sum")
        return found.reshape(*words.shape[:-1], -1)

    def log_reward(self, words: Tensor) -> Tensor:
        """log R = -beta min_m d, counted on the filled words. [..., L] -> [...]."""
        return -self.beta * self.distances(words).min(-1).values

    def env(self, mode: Mode = "slots") -> StringEnv:
        """The MDP over words."""
        return StringEnv(mode, self.length, self.n_words, self.log_reward, device=self.device)
