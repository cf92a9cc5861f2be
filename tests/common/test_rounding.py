"""What the tests of stacked seeds take for the same training, and what not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.stacked import MLP, adam, rand, seed_generators
from tests.rounding import Rounding


def trained(seeds: tuple[int, ...], steps: int = 20, leak: float = 0.0) -> dict[str, Tensor]:
    """Regression by Adam; a ``leak`` adds a share of the last seed's data to every seed's."""
    net = MLP(seed_generators(seeds, 0), (3, 32, 1))
    optimiser = adam([{"params": list(net.parameters())}])
    draws = seed_generators(seeds, 1)
    for _ in range(steps):
        x = rand(draws, 64, 3)
        x = x + leak * x[-1]
        optimiser.zero_grad()
        (net(x) - x.prod(-1, keepdim=True)).square().mean((1, 2)).sum().backward()
        optimiser.step()
    return {name: value.detach() for name, value in net.state_dict().items()}


def first(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:1] for name, value in weights.items()}


def test_rounding_of_another_processor_is_no_difference(trained_alike: Callable[..., None]) -> None:
    alone, start = trained((4,)), trained((4,), steps=0)
    seen = 0
    for number in range(6):
        with Rounding(number):
            stacked = first(trained((4, 7)))
        seen += any(not torch.equal(value, stacked[name]) for name, value in alone.items())
        trained_alike(alone, stacked, start)
    assert seen > 2  # they do round otherwise
    with Rounding(1):
        once = trained((4, 7))
    with Rounding(1):  # one processor is always itself
        assert all(torch.equal(value, once[name]) for name, value in trained((4, 7)).items())


@pytest.mark.parametrize("leak", [0.03, 1.0])
def test_another_seeds_data_are_a_difference(
    trained_alike: Callable[..., None], leak: float
) -> None:
    alone, start = trained((4,)), trained((4,), steps=0)
    with pytest.raises(AssertionError, match="apart after an update"):
        trained_alike(alone, first(trained((4, 7), leak=leak)), start)
    with pytest.raises(AssertionError, match="nothing was trained"):
        trained_alike(start, start, start)
