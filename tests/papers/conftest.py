"""What the tests of several papers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
    that both runs logged the same lines; returns their final trees, for the test to compare:
    bit for bit, which is promised on one machine.
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
