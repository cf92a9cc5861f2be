"""What EGFN is compared with: the same loop with parts left out (``--method``).

Every method is a row of METHODS: which objective the star learns, what population (if any) feeds
the buffer, and what is replayed. Nothing else differs between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from common.gfn.nets import StackedMLP
from common.stacked import StackedLinear
from papers.egfn.method import Evolution, Rule, mutate


@dataclass(frozen=True)
class Method:
    """One line of the comparison."""

    objective: Literal["db", "tb", "fm"] = "db"
    population: Literal["none", "evolved", "random", "noisy"] = "none"
    replay: Rule | None = None  # None: on-policy only
    mutation: bool = True
    crossover: bool = True
    feedback: bool = False  # the star's weights overwrite the worst agent
    polluted: bool = False  # fitness as the authors' code computes it
    ties: Literal["keep", "replace"] = "keep"
    same_calls: bool = False  # own batch as large as batch + K E: equal reward calls


METHODS: dict[str, Method] = {
    # the paper's method on its three objectives
    "egfn-db": Method("db", "evolved", "percentile"),
    "egfn-tb": Method("tb", "evolved", "percentile"),
    "egfn-fm": Method("fm", "evolved", "percentile"),
    # the plain objectives
    "db": Method("db"),
    "tb": Method("tb"),
    "fm": Method("fm"),
    # what each part is worth
    "db-prb": Method("db", replay="percentile"),
    "tb-prb": Method("tb", replay="percentile"),
    "db-replay": Method("db", replay="newest"),
    "db-2.25x": Method("db", same_calls=True),
    "egfn-random": Method("db", "random", "percentile"),
    "egfn-noise": Method("db", "noisy", "percentile"),  # random, and mutated once
    "egfn-no-mutation": Method("db", "evolved", "percentile", mutation=False),
    "egfn-no-crossover": Method("db", "evolved", "percentile", crossover=False),
    "egfn-plain": Method("db", "evolved", "newest", mutation=False),
    # options
    "egfn-feedback": Method("db", "evolved", "percentile", feedback=True),
    "egfn-polluted": Method("db", "evolved", "percentile", polluted=True),
    "egfn-ties": Method("db", "evolved", "percentile", ties="replace"),
    "egfn-proportional": Method("db", "evolved", "reward"),
}


@torch.no_grad()
def renew(
    population: StackedMLP, generators: Sequence[torch.Generator], noise: Evolution | None = None
) -> None:
    """The random populations: freshly initialised agents, as ``StackedMLP`` makes them.

    Args:
        generators: one per seed; the population holds the same number of agents of every seed.
        noise: given: every agent is then mutated once (strong noise without any selection).
    """
    for layer in population.layers:
        assert isinstance(layer, StackedLinear)
        bound = layer.weight.shape[1] ** -0.5
        for tensor in (layer.weight, layer.bias):
            agents = tensor.view(len(generators), -1, *tensor.shape[1:])
            for of_seed, generator in zip(agents, generators, strict=True):
                of_seed.uniform_(-bound, bound, generator=generator)
    if noise is not None:
        tensors = list(population.parameters())
        n_agents = len(tensors[0]) // len(generators)
        for k in range(len(tensors[0])):
            mutate(
                [x[k] for x in tensors],
                generators[k // n_agents],
                probability=noise.mutation,
                strength=noise.strength,
            )
