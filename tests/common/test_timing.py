"""Alternatives take turns, and the first call does not count."""

from __future__ import annotations

import pytest

from common import timing


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, called = [0.0], []

    def side(name: str, *costs: float) -> None:
        called.append(name)
        clock[0] += costs[called.count(name) - 1]

    monkeypatch.setattr(timing.time, "process_time", lambda: clock[0])
    found = timing.alternately(
        {"a": lambda: side("a", 9, 1, 2, 8), "b": lambda: side("b", 9, 3, 3, 3)}, 3
    )
    assert called == ["a", "b"] * 4
    assert found == {"a": pytest.approx(2000), "b": pytest.approx(3000)}
