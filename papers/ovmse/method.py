"""OVMSE: offline value function memory in the targets, and sequential exploration.

After offline training the value function theta_off is frozen, agents and mixer. Online, with y_TD
the target of plain Q-learning at a stored (tau, u):

    y_OVM = max(Q_tot(tau, u; theta_off), y_TD)                        (1) memory
    y = (1 - lambda_m) y_TD + lambda_m y_OVM                           (2) target of Q_tot(tau, u)
    lambda_m(t) = lambda_0 - (lambda_0 - lambda_1) min(1, t / T_m)     (3) annealing
    epsilon_dec = epsilon / n, each agent by itself                    (4) sequential exploration

so that epsilon agents explore at a step in expectation, and the others follow what was learnt.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.marl.episodes import Batch
from common.marl.protocol import Bools, Floats, Ints
from common.marl.targets import NEVER, linear, taken

Numbers = TypeVar("Numbers", Tensor, NDArray[Any])
V = TypeVar("V", bound=nn.Module)


# -- offline value function memory ----------------------------------------------------------------


class ValueFunction(Protocol):
    """Agents and a mixer."""

    def utilities(self, batch: Batch) -> Tensor:
        """q_i of every moment, the agents' memory unrolled from the first. [B, T + 1, N, A]."""

    def mix(self, q: Tensor, state: Tensor) -> Tensor:
        """Q_tot. [..., N], [..., S] -> [...]."""


def frozen(values: V) -> V:
    """theta_off: a copy of agents and mixer that nothing trains."""
    return copy.deepcopy(values).requires_grad_(False).eval()


@torch.no_grad()
def memory(offline: ValueFunction, batch: Batch) -> Tensor:
    """Q_tot(tau, u; theta_off) of the steps of episodes. [B, T].

    At the step itself, not at the one that follows; theta_off has a hidden state and a mixer of its
    own. It never changes, so that it is computed once for each episode.
    """
    q = offline.utilities(batch)[:, :-1]
    return offline.mix(taken(q, batch.actions), batch.state[:, :-1])


def memory_target(y_td: Numbers, q_off: Numbers, weight: float) -> Numbers:
    """Eq. 1 and 2: (1 - lambda_m) y_TD + lambda_m max(Q_off, y_TD). [...] each -> [...].

    Written as y_TD + lambda_m max(Q_off - y_TD, 0): with weight 0 it is y_TD bit for bit.
    """
    return y_td + weight * (q_off - y_td).clip(min=0)


def memory_weight(step: float, over: float, start: float = 0.9, end: float = 0.0) -> float:
    """Eq. 3: lambda_m after ``step`` environment steps; level from step ``over`` = T_m on.

    The paper's values weren't found. A re-implementation for Hanabi goes from 0.5 to 0.05; start
    and end here are this project's.
    """
    return linear(start, end, over, step)


# -- sequential exploration -----------------------------------------------------------------------


class Choice(NamedTuple):
    """What E teams of N agents do.

    Attributes:
        actions: [E, N] int64.
        explores: which of them were drawn at random. [E, N] bool.
    """

    actions: Ints
    explores: Bools


def sequential(
    values: Floats, avail: Bools, epsilon: float, generator: np.random.Generator
) -> Choice:
    """Eq. 4, the form without coordination: each agent explores by itself with epsilon / n.

    Args:
        values: utilities. [E, N, A].
        avail: actions that are available, one at least. [E, N, A].
        epsilon: explorers that are expected per step, at most n.
        generator: of the random choices.
    """
    return independent(values, avail, epsilon / values.shape[1], generator)


def one_explorer(
    values: Floats, avail: Bools, epsilon: float, generator: np.random.Generator
) -> Choice:
    """The centralised form: with epsilon one agent, chosen uniformly, explores; else none does."""
    E, N, _ = values.shape
    explore = generator.random(E) < epsilon
    who = generator.integers(N, size=E)
    return _explored(values, avail, explore[:, None] & (np.arange(N) == who[:, None]), generator)


def independent(
    values: Floats, avail: Bools, epsilon: float, generator: np.random.Generator
) -> Choice:
    """Epsilon-greedy of each agent by itself, what the paper compares with.

    The actions are those of ``common.marl.targets.epsilon_greedy`` bit for bit.
    """
    if epsilon <= 0:
        return Choice(_best(values, avail), np.zeros(avail.shape[:-1], bool))
    scores = generator.random(avail.shape, dtype=np.float32)
    explores = generator.random(avail.shape[:-1]) < epsilon
    return Choice(_either(values, avail, explores, scores), explores)


def _explored(
    values: Floats, avail: Bools, explores: Bools, generator: np.random.Generator
) -> Choice:
    scores = generator.random(avail.shape, dtype=np.float32)
    return Choice(_either(values, avail, explores, scores), explores)


def _either(values: Floats, avail: Bools, explores: Bools, scores: Floats) -> Ints:
    """Uniform over what is available where an agent explores, else its best action."""
    drawn = np.where(avail, scores, -1.0).argmax(-1)
    return np.where(explores, drawn, _best(values, avail)).astype(np.int64)


def _best(values: Floats, avail: Bools) -> Ints:
    return np.where(avail, values, NEVER).argmax(-1).astype(np.int64)


__all__ = [
    "Choice",
    "ValueFunction",
    "frozen",
    "independent",
    "memory",
    "memory_target",
    "memory_weight",
    "one_explorer",
    "sequential",
]
