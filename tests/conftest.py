"""Settings of all tests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from torch import Tensor

# no deadline: how long an example takes depends on what else the machine does
settings.register_profile("papers", deadline=None)
settings.load_profile("papers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rounding",
        type=int,
        metavar="N",
        help="round as some other processor might, N says which (tests/rounding.py)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test and its fixtures under the rounding that was asked for."""
    number = item.config.getoption("--rounding")
    if number is None:
        return (yield)
    from tests.rounding import Rounding

    with Rounding(number):
        return (yield)


@pytest.fixture
def trained_alike() -> Callable[..., None]:
    """Asserts that two computations trained a network alike, up to rounding.

    ``trained_alike(one, other, start)``: weights by name; ``start`` are those of ``one`` before
    training, or after its first step. Adam makes a step of full size of a gradient that is
    rounding alone, so a single weight tells nothing on another processor. What is measured is the
    distance between the two, parameter by parameter, against the distance that training moved
    them: 1e-4 of it at most where only rounding differs (tests/rounding.py), of the order of 1
    where a seed sees another one's data.
    """

    def check(
        one: Mapping[str, Tensor],
        other: Mapping[str, Tensor],
        start: Mapping[str, Tensor],
        tolerance: float = 1e-2,
    ) -> None:
        import torch  # not every test needs it

        assert one.keys() == other.keys() == start.keys()
        telling = False
        for name, value in one.items():
            assert value.shape == other[name].shape == start[name].shape, name
            update = (value - start[name]).double().norm().item()
            difference = (value - other[name]).double().norm().item()
            digits = 4 * torch.finfo(torch.float32).eps * value.double().norm().item()
            allowed = tolerance * update + digits
            assert difference <= allowed, (
                f"{name}: {difference:.1e} apart after an update of {update:.1e}"
            )
            telling |= allowed < 0.1 * update
        assert telling, "nothing was trained"

    return check
