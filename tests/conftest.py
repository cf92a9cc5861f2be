"""Settings of all tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

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
