"""Matrix games of S seeds side by side: plays, the exact laws of their returns, what is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.marl.matrix_games import END, Game
from common.stacked import randint, randn, seed_generators
from papers.dfac.method import crossing, midpoints
from papers.dfac.networks import Batch

LEVELS = 64  # midpoint quantiles at which laws are compared
Floats = NDArray[np.float64]


def joint_actions(game: Game) -> NDArray[np.int64]:
    """All joint actions, in the order of the tables' cells. [U, n]."""
    actions = itertools.product(range(game.means.shape[-1]), repeat=game.n_agents)
    return np.array(list(actions), np.int64)


def exact_laws(game: Game) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the return of each joint action and the best play after it.

    Pay-offs are normal, so returns are. [states, U] each.
    """
    values = game.values().reshape(len(game.means), -1)
    following = game.following.reshape(values.shape)
    variances = np.square(game.stds).reshape(values.shape).copy()
    for state in reversed(range(len(values))):
        for u, after in enumerate(following[state]):
            if after != END:
                variances[state, u] += variances[after, values[after].argmax()]
    return values, np.sqrt(variances)


def exact_quantiles(game: Game, state: int, levels: int = LEVELS) -> Floats:
    """Quantiles of the returns of a state's joint actions at midpoint levels. [U, levels]."""
    means, stds = exact_laws(game)
    normal = scipy.stats.norm.ppf(midpoints(levels).double().numpy())
    return means[state][:, None] + stds[state][:, None] * normal


def paths(game: Game) -> list[list[int]]:
    """A way from the first state to each one, that one included."""
    found = {0: [0]}
    for state in range(len(game.means)):
        for after in np.unique(game.following[state]):
            if after != END and state in found:
                found.setdefault(int(after), [*found[state], int(after)])
    return [found[state] for state in range(len(game.means))]


class Table:
    """A game's tables as tensors, and what agents see of its states."""

    def __init__(self, game: Game, device: torch.device) -> None:
        self.game, self.device = game, device
        self.n_states, self.n_agents = len(game.means), game.n_agents
        self.n_actions, self.steps = game.means.shape[-1], game.steps
        shape = (self.n_states, -1)
        self.means = torch.tensor(game.means.reshape(shape), dtype=torch.float32, device=device)
        self.stds = torch.tensor(game.stds.reshape(shape), dtype=torch.float32, device=device)
        self.following = torch.tensor(game.following.reshape(shape), device=device)
        self.actions = torch.tensor(joint_actions(game), device=device)  # [U, n]
        # the last row is that of END, which is -1
        self.states = torch.eye(self.n_states + 1, self.n_states, device=device)
        ids = torch.eye(self.n_agents, device=device).expand(self.n_states + 1, -1, -1)
        obs = self.states.unsqueeze(1).expand(-1, self.n_agents, -1)
        self.inputs = torch.cat([obs, ids], -1)  # [states + 1, n, states + n]

    def cell(self, actions: Tensor) -> Tensor:
        """Number of a joint action. [..., n] -> [...]."""
        weights = self.n_actions ** torch.arange(self.n_agents - 1, -1, -1, device=self.device)
        return (actions * weights).sum(-1)


class Plays:
    """The last plays of S seeds, all of uniformly random actions."""

    def __init__(self, table: Table, seeds: Sequence[int], capacity: int) -> None:
        self.table, self.capacity = table, capacity
        S, T, n = len(seeds), table.steps, table.n_agents
        self.generators = seed_generators(seeds, 2, table.device)
        self.states = torch.zeros(S, capacity, T + 1, dtype=torch.int64, device=table.device)
        self.actions = torch.zeros(S, capacity, T, n, dtype=torch.int64, device=table.device)
        self.rewards = torch.zeros(S, capacity, T, device=table.device)
        self.added = 0
        self._seed = torch.arange(S, device=table.device).unsqueeze(1)

    def play(self) -> None:
        """One more play of every seed; the oldest goes."""
        table, at = self.table, self.added % self.capacity
        actions = randint(self.generators, table.n_actions, table.steps, table.n_agents)
        noise = randn(self.generators, table.steps)
        cells = table.cell(actions)
        state = torch.zeros_like(cells[:, 0])
        for t in range(table.steps):
            self.states[:, at, t] = state
            where = (state, cells[:, t])
            self.rewards[:, at, t] = table.means[where] + table.stds[where] * noise[:, t]
            state = table.following[where]
        self.states[:, at, table.steps] = state
        self.actions[:, at] = actions
        self.added += 1

    def sample(self, n: int) -> Batch:
        """``n`` plays of every seed, drawn with replacement."""
        chosen = randint(self.generators, min(self.added, self.capacity), n)
        where = (self._seed, chosen)
        states, actions, reward = self.states[where], self.actions[where], self.rewards[where]
        avail = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool, device=reward.device)
        agents = (self.table.n_agents, self.table.n_actions)
        return Batch(
            inputs=self.table.inputs[states],
            state=self.table.states[states],
            avail=avail.expand(*states.shape, *agents),
            actions=actions,
            reward=reward,
            terminated=(states[:, :, 1:] == END).to(reward.dtype),
            filled=torch.ones_like(reward),
        )

    def state(self) -> dict[str, Any]:
        """The plays that are there, and the generators."""
        n = min(self.added, self.capacity)
        parts = {k: getattr(self, k)[:, :n].clone() for k in ("states", "actions", "rewards")}
        generators = [g.get_state() for g in self.generators]
        return {**parts, "added": self.added, "generators": generators}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        self.added = state["added"]
        for name in ("states", "actions", "rewards"):
            getattr(self, name)[:, : state[name].shape[1]] = state[name]
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)


# --------------------------------------------------------------------------- what is learnt


@torch.no_grad()
def learnt_laws(net: Any, table: Table, levels: int = LEVELS) -> Tensor | None:
    """Quantiles of Z_jt of every joint action in every state, at midpoint levels.

    [S, states, U, levels]; None where the agents learn alone.
    """
    if net.psi.mean == "none":
        return None
    h = hidden(net, table)  # [S, states, n, H]
    S, P, U = len(h), table.n_states, len(table.actions)
    at = midpoints(levels).to(h.device).expand(S, P, U, 1, levels)
    state = table.states[:-1].view(1, P, 1, -1).expand(S, P, U, -1)
    avail = torch.ones(S, P, U, table.n_agents, table.n_actions, dtype=torch.bool, device=h.device)
    h = h.unsqueeze(2).expand(S, P, U, -1, -1)
    law: Tensor = net.law(h, at, table.actions.expand(S, P, -1, -1), state, avail)[0]
    return law


def hidden(net: Any, table: Table) -> Tensor:
    """The agents' hidden states in every state of the game. [S, states, n, H]."""
    ways = paths(table.game)
    padded = [[*way, *[END] * (table.steps - len(way))] for way in ways]
    inputs = table.inputs[torch.tensor(padded, device=table.device)]  # [states, T, n, in]
    S = net.trunk.encoder.weight.shape[0]
    h = net.trunk(inputs.expand(S, -1, -1, -1, -1))
    last = [len(way) - 1 for way in ways]
    return torch.stack([h[:, state, t] for state, t in enumerate(last)], 1)


@torch.no_grad()
def choices(net: Any, table: Table, cvar: float = 1.0) -> Tensor:
    """What the agents choose in every state: the largest CVaR, at 1 the largest mean.

    [S, states, n].
    """
    h = hidden(net, table).unsqueeze(2)  # [S, states, 1, n, H]
    at = midpoints(LEVELS, high=cvar).to(h.device).expand(*h.shape[:3], 1, LEVELS)
    means: Tensor = net.means(h, at)
    return means.argmax(-1).squeeze(2)


def value_of_play(game: Game, chosen: NDArray[np.int64]) -> float:
    """Expected return of always choosing so. ``chosen``: [states, n]."""
    total, state = 0.0, 0
    while state != END:
        cell = (state, *chosen[state])
        total, state = total + float(game.means[cell]), int(game.following[cell])
    return total


@dataclass(frozen=True)
class Fit:
    """How learnt laws compare with the exact ones in one state. [S, U] each.

    Attributes:
        mean, std: of the learnt law.
        mean_error: |learnt mean - exact mean|.
        w1: first Wasserstein distance of the two laws, on midpoint quantiles.
        crossing: share of neighbouring levels at which the quantile function decreases.
    """

    mean: Floats
    std: Floats
    mean_error: Floats
    w1: Floats
    crossing: Floats


def fit(learnt: Floats, exact: Floats) -> Fit:
    """Compare quantiles [S, U, K] with exact ones [U, K]."""
    mean = learnt.mean(-1)
    return Fit(
        mean=mean,
        std=learnt.std(-1),
        mean_error=np.abs(mean - exact.mean(-1)),
        w1=np.abs(np.sort(learnt, -1) - exact).mean(-1),  # of the law of Z(U), U uniform
        crossing=crossing(torch.tensor(learnt)).double().numpy(),
    )
