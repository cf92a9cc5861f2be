"""What the tests of ne share."""

from __future__ import annotations

import pytest

from papers.ne import pixels
from tests.papers.ne.stand_in import Moving


@pytest.fixture
def small_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square that moves, in the place of the rendered suite."""
    monkeypatch.setattr(pixels, "Suite", lambda task, seed, size: Moving(seed, size))
