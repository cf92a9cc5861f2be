"""Enumerated pointed DAGs: one table of children and one of parents, shared by the exact solver,
the table sampler and the flow-matching objective.

Convention (family of six papers): an *edge is an action*. A state is a row, an action a column;
``children[s, a]`` is the state that action ``a`` leads to (-1: not allowed, and for the stop action
always -1, because the terminal copy of ``s`` has no row). Backward action ``b`` of state ``s``
leads to ``parents[s, b]`` and is undone by forward action ``parent_actions[s, b]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class EnumeratedDAG:
    """A DAG small enough to be written down, with the reward of every object."""

    children: Tensor  # [N, A] long, -1 where the action is not allowed (and for stop)
    forward_mask: Tensor  # [N, A] bool, the stop action included where allowed
    parents: Tensor  # [N, A_b] long, -1 where there is no such in-edge
    parent_actions: Tensor  # [N, A_b] long, the forward action of that in-edge (0 where none)
    backward_index: (
        Tensor  # [N, A] long, the backward action that undoes forward action a (0 if none)
    )
    log_reward: Tensor  # [N] float64, -inf where the state is no object
    level: Tensor  # [N] long, length of every path from the source
    source: int = 0
    stop: int | None = None  # index of the stop action; None: complete objects are terminal
    active: Tensor | None = None  # [N, k] long, positions of the ones in the network's input
    input_dim: int = 0  # length of the network's input
    _levels: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, repr=False)

    @property
    def n_states(self) -> int:
        """Number of rows N."""
        return self.children.shape[0]

    @property
    def n_actions(self) -> int:
        """Number of forward actions A, the stop action included."""
        return self.children.shape[1]

    @property
    def n_backward(self) -> int:
        """Number of backward actions A_b."""
        return self.parents.shape[1]

    @property
    def backward_mask(self) -> Tensor:
        """[N, A_b] bool: which in-edges exist."""
        return self.parents >= 0

    @property
    def max_length(self) -> int:
        """Number of actions of the longest trajectory, the stop action included."""
        return int(self.level.max()) + (self.stop is not None)

    def encode(self, rows: Tensor) -> Tensor:
        """The network's input as zeros and ones. [...] row numbers -> [..., input_dim] float32."""
        assert self.active is not None
        active = self.active[rows]
        zeros = torch.zeros((*rows.shape, self.input_dim), device=active.device)
        return zeros.scatter_(-1, active, 1.0)

    @property
    def log_Z(self) -> float:
        """log sum_x R(x)."""
        return float(torch.logsumexp(self.log_reward, 0))

    def target(self) -> Tensor:
        """p*(x) = R(x)/Z, zero on states that are no objects. [N] float64."""
        return torch.softmax(self.log_reward, 0)

    def levels(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per level, sources first: (edge sources [E], edge actions [E], edge targets [E])."""
        if not self._levels:
            src, act = (self.children >= 0).nonzero(as_tuple=True)
            dst = self.children[src, act]
            lev = self.level[src]
            for depth in range(int(self.level.max()) + 1):
                at = lev == depth
                self._levels.append((src[at], act[at], dst[at]))
        return self._levels

    def to(self, device: torch.device | str) -> EnumeratedDAG:
        """The same DAG with its tables on another device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in (
                "children",
                "forward_mask",
                "parents",
                "parent_actions",
                "backward_index",
                "log_reward",
                "level",
            )
        }
        active = None if self.active is None else self.active.to(device)
        return EnumeratedDAG(
            **moved, source=self.source, stop=self.stop, active=active, input_dim=self.input_dim
        )


STOP, APPEND, PREPEND = -1, -2, -3  # entries of SlotMoves.place that are no place


@dataclass
class SlotMoves:
    """An environment of K places with V values each, as tables of what an action does.

    Small also where the DAG is not: this is what compiled sampling reads. The network's input is
    the concatenated one-hot of the places.
    """

    place: Tensor  # [A] long: the place that action a changes, or STOP, APPEND, PREPEND
    becomes: Tensor  # [A, V] long: the place's value after action a, -1: action not allowed
    source: Tensor  # [K] long: the initial state (for APPEND and PREPEND: the mark of a free place)
    blocking: int = -1  # a value that, in any place, leaves only STOP (-1: there is none)


def parents_from_children(
    children: Tensor, backward_index: Tensor, n_backward: int
) -> tuple[Tensor, Tensor]:
    """Inverts a table of children. Returns (parents, parent_actions), both [N, A_b]."""
    n_states = children.shape[0]
    parents = torch.full((n_states, n_backward), -1, dtype=torch.long, device=children.device)
    actions = torch.zeros((n_states, n_backward), dtype=torch.long, device=children.device)
    src, act = (children >= 0).nonzero(as_tuple=True)
    dst, back = children[src, act], backward_index[src, act]
    parents[dst, back] = src
    actions[dst, back] = act
    return parents, actions


def number_in_edges(children: Tensor) -> tuple[Tensor, int]:
    """Numbers the in-edges of every state 0, 1, ... in the order of (source, action).

    Returns:
        backward_index [N, A] (0 where there is no edge) and the largest number of in-edges.
    """
    src, act = (children >= 0).nonzero(as_tuple=True)
    dst = children[src, act]
    order = dst.argsort(stable=True)
    ordered = dst[order]
    first = torch.searchsorted(ordered, ordered)  # where the group of this target begins
    rank = torch.arange(len(ordered), device=children.device) - first
    index = torch.zeros_like(children)
    index[src[order], act[order]] = rank
    return index, int(rank.max()) + 1 if len(rank) else 1


def dag_from_children(
    children: Tensor,
    *,
    log_reward: Tensor,
    level: Tensor,
    source: int = 0,
    stop: int | None = None,
    backward_index: Tensor | None = None,
    active: Tensor | None = None,
    input_dim: int = 0,
) -> EnumeratedDAG:
    """A DAG from its table of children.

    Args:
        children: [N, A] long, -1 where there is no edge (the column of the stop action: all -1).
        log_reward: [N], -inf where the state is no object.
        level: [N] long, length of every path from the source.
        stop: index of the stop action, which is allowed where log_reward is finite.
        backward_index: [N, A] long, which backward action undoes an edge; None: the in-edges of a
            state are numbered in the order of (source, action).
        active, input_dim: the network's input, see EnumeratedDAG.
    """
    if backward_index is None:
        backward_index, n_backward = number_in_edges(children)
    else:
        n_backward = int(backward_index.max()) + 1
    parents, parent_actions = parents_from_children(children, backward_index, n_backward)
    mask = children >= 0
    if stop is not None:
        mask = mask.clone()
        mask[:, stop] = torch.isfinite(log_reward)
    return EnumeratedDAG(
        children=children,
        forward_mask=mask,
        parents=parents,
        parent_actions=parent_actions,
        backward_index=backward_index,
        log_reward=log_reward.double(),
        level=level,
        source=source,
        stop=stop,
        active=active,
        input_dim=input_dim,
    )
