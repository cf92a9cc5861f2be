"""The paper's contribution: a population evolved for reward that feeds a replay buffer.

One step (Algorithm 1 of the paper; ``train.py`` is the loop):

1. *Evaluate*: each of K agents samples E trajectories; fitness = their mean reward. All of them
   go to the buffer.
2. *Evolve* the agents' weights (``evolve``): selection, crossover, mutation; no gradients.
3. *Sample*: the star agent samples its own batch, which also goes to the buffer.
4. *Train* the star by gradient on its own and on replayed trajectories (``combined_loss``), with
   any GFlowNet objective.

The agents of all seeds are stacked: tensors [S*K, ...]. A *row* of a layer is an output unit, the
last axis of both its weight [S*K, in, out] and its bias [S*K, 1, out].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.gfn.objectives import Pair, residual
from common.gfn.sampling import Trajectories


@dataclass(frozen=True)
class Evolution:
    """Hyperparameters of the population (defaults: hypergrid [authors' code])."""

    n_agents: int = 5  # K
    n_elites: int = 2  # agents whose copies survive unchanged
    episodes: int = 4  # E: trajectories per agent and step
    tournament: int = 4  # ranks drawn for one offspring
    crossover: float = 0.1  # probability that a pair of offspring is crossed
    fill_crossover: bool = True  # cross the pairs that fill unselected slots
    mutation: float = 0.9  # probability that a parameter tensor is changed
    strength: float = 1.0  # gamma: standard deviation of the noise
    per_weight: bool = False  # mutate single weights instead (molecules: ``mutate_weights``)


# -- Fitness ---------------------------------------------------------------------------------------


def fitness(rewards: Tensor) -> Tensor:
    """Mean reward of the agent's own episodes. [S, K, E] -> [S, K]."""
    return rewards.mean(-1)


def polluted_fitness(rewards: Tensor, replayed: Tensor) -> Tensor:
    """What the authors' code computes for DB and TB: replayed rewards are added to the own ones.

    Args:
        rewards: [S, K, E] own episodes.
        replayed: [S, K, R] rewards of trajectories drawn from the shared buffer.
    """
    return (rewards.sum(-1) + replayed.sum(-1)) / rewards.shape[-1]


# -- Evolution of the population -------------------------------------------------------------------


@dataclass
class Plan:
    """What happens to the K slots of one population; sources are slots of the old population."""

    copies: list[tuple[int, int]]  # (slot, source), at once
    fills: list[tuple[int, int, int, int]]  # (i, j, source of i, source of j): set, then cross
    crossings: list[tuple[int, int]]  # pairs of slots, crossed as they then are
    protected: list[int]  # slots with copies of elites: not mutated
    ranking: list[int] = field(default_factory=list)  # old slots, best first


def tournament(n_agents: int, n_draws: int, size: int, rng: np.random.Generator) -> list[int]:
    """Winning ranks: ``n_draws`` times the best of ``size`` ranks drawn with replacement."""
    return rng.integers(0, n_agents, (n_draws, size)).min(1).tolist()


def plan_evolution(scores: np.ndarray, evo: Evolution, rng: np.random.Generator) -> Plan:
    """Selection: who is copied where, and who is crossed. scores [K]: larger is better."""
    n_agents, n_elites = evo.n_agents, evo.n_elites
    ranking = np.argsort(-np.asarray(scores), kind="stable").tolist()
    elites = ranking[:n_elites]
    winners = tournament(n_agents, n_agents - n_elites, evo.tournament, rng)
    offspring = [ranking[r] for r in dict.fromkeys(winners)]  # unique
    if len(offspring) % 2:
        offspring.append(offspring[rng.integers(len(offspring))])
    unselected = [i for i in range(n_agents) if i not in elites and i not in offspring]
    rng.shuffle(unselected)

    # Elitism: the copies are protected, the elites' old slots are not
    copies, protected = [], []
    for elite in elites:
        if unselected:
            slot = unselected.pop(0)
        else:  # an offspring's slot, which leaves the list with all its repeats
            slot = offspring[0]
            offspring = [i for i in offspring if i != slot]
        copies.append((slot, elite))
        protected.append(slot)

    # Unselected slots: an elite crossed with an offspring
    if len(unselected) % 2:
        unselected.append(unselected[rng.integers(len(unselected))])
    fills = []
    for i, j in zip(unselected[0::2], unselected[1::2], strict=True):
        parents = offspring or elites
        fills.append((i, j, elites[rng.integers(n_elites)], parents[rng.integers(len(parents))]))

    crossings = [
        (i, j)
        for i, j in zip(offspring[0::2], offspring[1::2], strict=False)
        if rng.random() < evo.crossover
    ]
    return Plan(copies, fills, crossings, protected, ranking)


def crossover(a: Sequence[Tensor], b: Sequence[Tensor], generator: torch.Generator) -> None:
    """Crosses two agents in place, tensor by tensor.

    The rule: 0..n-1 times pick one of the tensor's n rows and copy it from one agent to the other,
    each way with probability 1/2. Once a row was copied both agents hold the same, so only the
    first copy of a row counts; hence all rows at once. a, b: tensors [..., n].
    """
    device = generator.device
    for x, y in zip(a, b, strict=True):
        n = x.shape[-1]
        times = int(torch.randint(n, (1,), generator=generator, device=device))
        rows = torch.randint(n, (times,), generator=generator, device=device)
        direction = torch.rand(n, generator=generator, device=device) < 0.5
        picked = torch.zeros(n, dtype=torch.bool, device=device)
        picked[rows] = True
        to_x, to_y = picked & direction, picked & ~direction
        new_x, new_y = torch.where(to_x, y, x), torch.where(to_y, x, y)
        x.copy_(new_x)
        y.copy_(new_y)


def mutate(
    agent: Sequence[Tensor],
    generator: torch.Generator,
    *,
    probability: float = 0.9,
    strength: float = 1.0,
) -> None:
    """Adds Gaussian noise to each parameter tensor with the given probability, in place."""
    device = generator.device
    chosen = torch.rand(len(agent), generator=generator, device=device) < probability
    for tensor, change in zip(agent, chosen.tolist(), strict=True):
        if change:
            noise = torch.empty_like(tensor, memory_format=torch.contiguous_format)
            tensor.add_(noise.normal_(generator=generator), alpha=strength)


def mutate_weights(
    agent: Sequence[Tensor],
    generator: torch.Generator,
    *,
    fraction: float = 0.1,
    strength: float = 0.1,
    super_strength: float = 10.0,
    super_probability: float = 0.25,
    reset_probability: float = 0.1,
) -> None:
    """The molecule task's variant: single weights are changed, in place [authors' code].

    Of each tensor a uniformly random number of weights, at most ``fraction`` of them: noise
    relative to the weight, now and then ten times its size, or a new standard normal value.
    """
    device = generator.device

    def number(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    for tensor in agent:
        flat = tensor.view(-1)
        most = max(1, round(fraction * flat.numel()))
        n = int(torch.randint(most + 1, (1,), generator=generator, device=device))
        at = torch.randint(flat.numel(), (n,), generator=generator, device=device)
        kind, noise = number(n), torch.randn(n, generator=generator, device=device)
        old = flat[at]
        large = kind < super_probability
        scale = torch.where(large, super_strength, strength)
        new = old + noise * scale * old.abs()
        reset = ~large & (kind < super_probability + reset_probability)
        flat[at] = torch.where(reset, noise, new)


def overwrite(agent: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    """Gives an agent the weights of another one."""
    for mine, theirs in zip(agent, other, strict=True):
        mine.copy_(theirs)


def evolve(
    population: Sequence[Tensor],
    scores: Tensor,
    evo: Evolution,
    rngs: Sequence[np.random.Generator],
    generators: Sequence[torch.Generator],
    *,
    star: Sequence[Tensor] | None = None,
) -> list[Plan]:
    """One generation for every seed, in place.

    Args:
        population: tensors [S*K, ...].
        scores: fitness [S, K].
        rngs, generators: per seed, for selection and for the weights.
        star: tensors [S, ...]; given: the star's weights overwrite the worst agent (feedback).
    """
    n_agents = evo.n_agents
    plans = [plan_evolution(s, evo, rng) for s, rng in zip(scores.cpu().numpy(), rngs, strict=True)]
    old = [x.clone() for x in population]
    for s, (plan, generator) in enumerate(zip(plans, generators, strict=True)):

        def agent(k: int, tensors: Sequence[Tensor] = population, s: int = s) -> list[Tensor]:
            return [x[s * n_agents + k] for x in tensors]

        for slot, origin in plan.copies:
            overwrite(agent(slot), agent(origin, old))
        for i, j, source_i, source_j in plan.fills:
            overwrite(agent(i), agent(source_i, old))
            overwrite(agent(j), agent(source_j, old))
            if evo.fill_crossover and i != j:
                crossover(agent(i), agent(j), generator)
        for i, j in plan.crossings:
            if i != j:
                crossover(agent(i), agent(j), generator)
        for k in range(n_agents):
            if k in plan.protected or evo.mutation == 0:
                continue
            if evo.per_weight:
                mutate_weights(agent(k), generator)
            else:
                mutate(agent(k), generator, probability=evo.mutation, strength=evo.strength)
        if star is not None:
            worst = next(k for k in reversed(plan.ranking) if k not in plan.protected)
            overwrite(agent(worst), [x[s] for x in star])
    return plans


# -- Prioritised replay ----------------------------------------------------------------------------

Rule = Literal["percentile", "reward", "newest"]


class PrioritisedReplay:
    """The best trajectories so far, of every seed (PRB).

    Held in order of reward, equals in order of arrival. When it is full, a trajectory enters if
    its reward beats the lowest one and takes the place of the oldest of the lowest. With
    ``ties="replace"`` it also enters if it equals the lowest one: otherwise a buffer full of
    equally good objects takes in no new one any more.

    ``rule``: *percentile*, the paper's: half of a draw from the top tenth of the positions, the
    other half from the rest. *reward*: proportional to reward. *newest*: a plain buffer, the newest
    trajectories, drawn uniformly.
    """

    def __init__(
        self,
        n_seeds: int,
        capacity: int,
        max_length: int,
        state_shape: tuple[int, ...],
        *,
        rule: Rule = "percentile",
        ties: Literal["keep", "replace"] = "keep",
        percentile: float = 0.9,
        top_share: float = 0.5,
    ) -> None:
        self.capacity, self.rule, self.ties = capacity, rule, ties
        self.percentile, self.top_share = percentile, top_share
        self.states = np.zeros((n_seeds, capacity, max_length + 1, *state_shape), np.int16)
        self.actions = np.zeros((n_seeds, capacity, max_length), np.int32)
        self.length = np.zeros((n_seeds, capacity), np.int32)
        self.reward = np.zeros((n_seeds, capacity))
        self.order = np.zeros((n_seeds, capacity), np.int64)  # places, lowest reward first
        self.size = np.zeros(n_seeds, np.int64)

    def insert(self, traj: Trajectories, reward: Tensor) -> None:
        """Offers trajectories one after the other. traj [S, B, ...], reward [S, B]."""
        states, actions = traj.states.cpu().numpy(), traj.actions.cpu().numpy()
        length, rewards = traj.length.cpu().numpy(), reward.cpu().numpy()
        steps = actions.shape[-1]
        for s in range(len(rewards)):
            taken = self._places(s, rewards[s])
            if not taken:
                continue
            places, which = list(taken), list(taken.values())
            self.states[s, places, : steps + 1] = states[s, which]
            self.states[s, places, steps + 1 :] = states[s, which, -1:]
            self.actions[s, places, :steps] = actions[s, which]
            self.actions[s, places, steps:] = 0
            self.length[s, places] = length[s, which]

    def _places(self, s: int, rewards: np.ndarray) -> dict[int, int]:
        """Place -> number of the trajectory that takes it; keeps ``order`` sorted."""
        taken: dict[int, int] = {}
        order, held = self.order[s], self.reward[s]
        for b, reward in enumerate(rewards.tolist()):
            n = int(self.size[s])
            if n < self.capacity:
                place = n
                self.size[s] = n + 1
            else:
                place = int(order[0])
                lowest = held[place]
                enters = reward > lowest or (self.ties == "replace" and reward == lowest)
                if not enters and self.rule != "newest":
                    continue
                n -= 1
                order[:n] = order[1:].copy()
            if self.rule == "newest":
                at = n
            else:
                at = int(np.searchsorted(held[order[:n]], reward, side="right"))
            order[at + 1 : n + 1] = order[at:n].copy()
            order[at], held[place] = place, reward
            taken[place] = b
        return taken

    def draw(self, rngs: Sequence[np.random.Generator], n: int) -> np.ndarray:
        """Places of n trajectories per seed. [S, n]."""
        drawn = []
        for s, rng in enumerate(rngs):
            size = int(self.size[s])
            if self.rule == "percentile":
                cut = min(int(self.percentile * size), size - 1)
                n_top = round(self.top_share * n) if cut else n
                top = rng.integers(cut, size, n_top)
                at = np.concatenate([top, rng.integers(0, max(cut, 1), n - n_top)])
            elif self.rule == "reward":
                held = self.reward[s, self.order[s, :size]]
                at = rng.choice(size, n, p=held / held.sum())
            else:
                at = rng.integers(0, size, n)
            drawn.append(self.order[s, at])
        return np.stack(drawn)

    def rewards(self, places: np.ndarray) -> Tensor:
        """Rewards of drawn places. [S, n] float64."""
        return torch.from_numpy(np.take_along_axis(self.reward, places, 1))

    def trajectories(self, places: np.ndarray, device: torch.device | str = "cpu") -> Trajectories:
        """The trajectories at drawn places; no log-probability is kept, none can be stale."""
        seed = np.arange(len(places))[:, None]
        length = self.length[seed, places]
        longest = int(length.max())
        states = self.states[seed, places, : longest + 1].astype(np.int64)
        actions = self.actions[seed, places, :longest].astype(np.int64)
        mask = np.arange(longest) < length[..., None]
        cut = torch.from_numpy(states).to(device)
        return Trajectories(
            states=cut,
            actions=torch.from_numpy(actions).to(device),
            mask=torch.from_numpy(mask).to(device),
            last=cut[:, :, -1],
        )

    def objects(self, s: int) -> np.ndarray:
        """The objects that seed s holds, best last. [n, *state]."""
        return self.states[s, self.order[s, : self.size[s]], -1].astype(np.int64)

    _KEPT = ("states", "actions", "length", "reward", "order", "size")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._KEPT}

    def load(self, state: dict[str, Any]) -> None:
        """Puts a checkpoint's arrays back."""
        for name in self._KEPT:
            getattr(self, name)[...] = state[name]


# -- The star agent --------------------------------------------------------------------------------


def combined_loss(batches: Sequence[list[tuple[Pair, Tensor]]]) -> Tensor:
    """Mean squared residual over the training objects of all batches (own and replayed). [S].

    Args:
        batches: per batch, the parts that ``objectives.training_pairs`` gives: (pair, weights of
            a mean over the batch). Every object counts alike, whichever batch it is in.
    """
    total: Tensor | None = None
    for parts in zip(*batches, strict=True):
        counts = [(weights > 0).flatten(1).sum(1) for _, weights in parts]
        of_all = torch.stack(counts).sum(0)
        for (pair, weights), count in zip(parts, counts, strict=True):
            t = torch.where(weights > 0, residual(pair), torch.zeros_like(pair[0]))
            loss = (weights * t.square()).flatten(1).sum(1) * (count / of_all)
            total = loss if total is None else total + loss
    assert total is not None
    return total
