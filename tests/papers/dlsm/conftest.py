"""What this paper's tests share."""

import functools
from collections.abc import Iterator

import pytest

from common import digits


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_once() -> Iterator[None]:
    """scikit-learn parses a text file whenever it is asked for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "splits", functools.cache(digits.splits))
        yield
