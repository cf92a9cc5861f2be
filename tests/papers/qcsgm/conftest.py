"""Stand-ins that several files use: ODEs in one step, a narrow NCSN++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scipy.integrate


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ODE is solved by one step of its solver over all of the time, whatever the error."""
    solve = scipy.integrate.solve_ivp

    def over_all(fun: Callable[..., Any], span: tuple[float, float], y: Any, method: str, **_: Any):
        whole = {"first_step": abs(span[1] - span[0]), "rtol": 1e9, "atol": 1e9}
        return solve(fun, span, y, method=method, **whole)

    monkeypatch.setattr(scipy.integrate, "solve_ivp", over_all)


@pytest.fixture
def narrow() -> dict[str, Any]:
    """What makes NCSN++ small: two levels of 32 channels (attention takes no fewer)."""
    return {
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    }


@pytest.fixture
def little(narrow: dict[str, Any]) -> dict[str, Any]:
    """A narrow NCSN++ of images of 8 x 8 pixels."""
    return {**narrow, "sample_size": 8}
