"""What the tests of several papers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from common.run import Run


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.fixture
def whole_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Any], None], Any, int], tuple[dict[str, Any], dict[str, Any]]]:
    """Trains twice, undisturbed and cut short at the first checkpoint and resumed.

    ``whole_and_cut(train, config, every)``: the checkpoint falls after ``every`` steps. Asserts
    that both runs logged the same lines; returns their final trees, for the test to compare.
    """

    def play(
        train: Callable[[Any], None], config: Any, every: int = 5
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", "1000000")
        train(replace(config, out=whole))
        monkeypatch.setenv("PAPERS_CHECKPOINT_EVERY", str(every))
        save = Run.save

        def save_and_stop(self: Run, step: int, tree: Any) -> None:
            save(self, step, tree)
            raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(Run, "save", save_and_stop)
            with pytest.raises(Interrupted):
                train(replace(config, out=cut))
        with pytest.raises(UserError, match="not finished"):
            Run.load(cut)
        train(replace(config, out=cut))
        lines = [(folder / "metrics.jsonl").read_text() for folder in (whole, cut)]
        assert lines[0] == lines[1]
        return Run.load(whole).final(), Run.load(cut).final()

    return play


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
        one: Mapping[str, torch.Tensor],
        other: Mapping[str, torch.Tensor],
        start: Mapping[str, torch.Tensor],
        tolerance: float = 1e-2,
    ) -> None:
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
