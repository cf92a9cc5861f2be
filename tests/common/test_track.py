"""Mirrors of the metrics get the configuration too."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import UserError
from common.run import Run
from common.track import group_and_name


@dataclass
class Config:
    """A tiny run."""

    method: str = "linex1"
    seed: tuple[int, ...] = (0, 1)
    out: Path = Path("unused")


def train(folder: Path) -> None:
    run = Run.open(folder, Config())
    run.keep(x=1)
    for step in run.steps(2):
        run.log(step + 1, loss=[0.5, 1.5], alone=2.0)


def test_wandb_gets_configuration_and_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    logged: list[object] = []

    class Session:
        def log(self, values: object) -> None:
            logged.append(values)

        def finish(self) -> None:
            logged.append("finished")

    def init(**options: object) -> Session:
        given.update(options)
        return Session()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.setenv("TRACK", "wandb")
    train(tmp_path / "gfn_losses" / "default" / "train" / "grid-tb" / "linex1-0")
    assert given["config"] == {"method": "linex1", "seed": [0, 1]}
    assert given["group"] == "gfn_losses/default" and given["name"] == "train/grid-tb/linex1-0"
    assert logged[:3] == [
        {"loss/0": 0.5, "step": 1},
        {"loss/1": 1.5, "step": 1},
        {"alone": 2.0, "step": 1},
    ]
    assert logged[-1] == "finished"


def test_tensorboard_gets_the_configuration_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TRACK", "tensorboard")
    train(tmp_path / "run")
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    (text,) = found.Tensors("configuration/text_summary")
    assert b'"method": "linex1"' in text.tensor_proto.string_val[0]
    assert [event.value for event in found.Scalars("loss/1")] == [1.5, 1.5]


def test_another_tracker_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACK", "tensorbord")
    with pytest.raises(UserError, match="did you mean tensorboard"):
        train(tmp_path / "run")


def test_group_and_name_by_the_folder(tmp_path: Path) -> None:
    assert group_and_name(tmp_path / "bvvi" / "paper" / "x") == ("bvvi/paper", "x")
    assert group_and_name(tmp_path / "somewhere" / "x") == ("somewhere", "x")
