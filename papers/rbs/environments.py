"""Environments beside the grid: strings without duplicate edges, peptides, sets."""

from __future__ import annotations

import torch
from torch import Tensor

from common.gfn.strings import StringEnv


def no_reward(states: Tensor) -> Tensor:
    """The environments' own rewards are not used: success is the reward."""
    return torch.zeros(states.shape[:-1], device=states.device)


class MergedStrings(StringEnv):
    """Prepend/append in which two actions never lead to the same string [code].

    From a string of one repeated letter, prepending that letter is masked (from the empty string,
    every prepend), and the only way back is to remove the last letter.
    """

    def __init__(self, length: int, n_letters: int, device: torch.device | str = "cpu") -> None:
        super().__init__("prepend_append", length, n_letters, no_reward, device=device)

    def repeats_one_letter(self, states: Tensor) -> Tensor:
        """Strings whose letters are all equal, the empty one included. [...] bool."""
        return ((states == states[..., :1]) | (states == self.empty)).all(-1)

    def forward_mask(self, states: Tensor) -> Tensor:
        """[..., 2V] bool."""
        free = (states == self.empty).any(-1, keepdim=True)
        letter = torch.arange(self.n_letters, device=states.device)
        first = states[..., :1]
        same = (first == letter) | (first == self.empty)
        twice = self.repeats_one_letter(states).unsqueeze(-1) & same
        return torch.cat([free.expand(twice.shape), free & ~twice], -1)

    def backward_mask(self, states: Tensor) -> Tensor:
        """[..., 2] bool: remove the last letter, remove the first."""
        mask = super().backward_mask(states).clone()
        mask[..., 1] &= ~self.repeats_one_letter(states)
        return mask


class Peptides(MergedStrings):
    """Strings of up to ``length`` letters: any non-empty string may stop (the last action)."""

    def __init__(self, length: int, n_letters: int, device: torch.device | str = "cpu") -> None:
        super().__init__(length, n_letters, device)
        self.stop: int = self.n_actions  # type: ignore[assignment]
        self.n_actions += 1
        self.max_length = length + 1

    def forward_mask(self, states: Tensor) -> Tensor:
        """[..., 2V + 1] bool; a full string can only stop."""
        can_stop = (states != self.empty).any(-1, keepdim=True)
        return torch.cat([super().forward_mask(states), can_stop], -1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Stopping leaves the string as it is."""
        stops = (actions == self.stop).unsqueeze(-1)
        return torch.where(stops, states, super().step(states, actions.clamp(max=self.stop - 1)))

    def backward_action(self, actions: Tensor) -> Tensor:
        """Backward action that undoes a forward action (0 for stop)."""
        return torch.where(actions == self.stop, 0, super().backward_action(actions))


class SetEnv:
    """Sets of ``size`` from ``n_items`` items, one item added per action. States [..., n] 0/1."""

    stop: None = None

    def __init__(self, n_items: int, size: int, device: torch.device | str = "cpu") -> None:
        self.n_items, self.size = n_items, size
        self.n_actions = self.n_backward = n_items
        self.max_length = size
        self.device = torch.device(device)
        self._one = torch.eye(n_items, dtype=torch.long, device=self.device)

    def initial(self, batch_shape: tuple[int, ...]) -> Tensor:
        """The empty set."""
        return torch.zeros(*batch_shape, self.n_items, dtype=torch.long, device=self.device)

    def forward_mask(self, states: Tensor) -> Tensor:
        """Items that are not in the set yet; none once it is complete."""
        return (states == 0) & (states.sum(-1, keepdim=True) < self.size)

    def backward_mask(self, states: Tensor) -> Tensor:
        """Items of the set."""
        return states > 0

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Adds the items."""
        return states + self._one[actions]

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Removes the items."""
        return states - self._one[backward_actions]

    def backward_action(self, actions: Tensor) -> Tensor:
        """Backward action that undoes a forward action: the same item's."""
        return actions

    def forward_action(self, states: Tensor, backward_actions: Tensor) -> Tensor:
        """Forward action that a backward action undoes: the same item's."""
        return backward_actions

    def log_reward(self, states: Tensor) -> Tensor:
        """Unused."""
        return no_reward(states)
