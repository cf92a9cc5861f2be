"""Stand-ins for the simulators, for all tests of this paper."""

from __future__ import annotations

import pytest

from common.marl import environments
from papers.kaleidoscope import train_matd3, trained
from tests.papers.kaleidoscope.stand_ins import stand_in


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """``make_env`` gives small environments in NumPy."""
    for module in (environments, train_matd3, trained):
        monkeypatch.setattr(module, "make_env", stand_in)
