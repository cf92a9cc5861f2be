"""Populations without selection: fresh agents in every step, untouched or mutated once.

The other baselines are lines of ``methods.METHODS``: the same loop with parts left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.gfn.nets import StackedMLP
from common.stacked import StackedLinear
from papers.egfn.method import Evolution, mutate


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
