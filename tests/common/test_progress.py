"""progress.json for the runner, a line now and then for a person."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from common import progress
from common.progress import Progress, line
from common.run import Run


@dataclass
class Config:
    """A tiny run."""

    out: Path = Path("unused")


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def written(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "progress.json").read_text())
    assert set(found) == {"step", "total", "seconds", "rate", "loss"}
    return found


def test_a_file_every_two_seconds_and_a_line_every_five(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Progress(tmp_path)
    clock.now += 30  # preparing counts for nothing: no line at the first step
    shown.begin(200)
    shown.at(201, 1000, 0.0)
    assert not capsys.readouterr().out
    shown.begin(200)
    steps = []
    for step in range(201, 401):  # 20 steps/s, 10 s
        clock.now += 0.05
        shown.loss = 0.125
        shown.at(step, 1000, clock.now - 130)
        if (tmp_path / "progress.json").exists():
            steps.append(written(tmp_path)["step"])
    assert len(set(steps)) in (4, 5)  # 10 s
    last = written(tmp_path)
    assert last["total"] == 1000 and last["loss"] == 0.125
    assert last["rate"] == pytest.approx(20, rel=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) in (1, 2)
    assert lines[0].startswith("step ") and "/1000, loss 0.125, 20 steps/s, " in lines[0]
    assert lines[0].endswith(" s left")


def test_the_rate_is_the_recent_one(tmp_path: Path, clock: Clock) -> None:
    """A slow start (compiling) is forgotten."""
    shown = Progress(tmp_path)
    shown.begin(0)
    clock.now += 60
    shown.at(1, 1000, 60.0)
    for step in range(2, 400):
        clock.now += 0.1
        shown.at(step, 1000, 0.0)
    assert written(tmp_path)["rate"] == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1200, 4000, 310.0, 0.12), "step 1200/4000, loss 0.12, 310 steps/s, 9 s left"),
        ((3, None, None, None), "step 3"),
        ((1, 10, 0.01, None), "step 1/10, 0.01 steps/s, 15 min left"),
        ((1, 10**6, 12.0, None), "step 1/1000000, 12 steps/s, 23.1 h left"),
        ((4, 4, 12345.0, None), "step 4/4, 12345 steps/s"),
        ((4, 4, 0.0, float("nan")), "step 4/4, loss nan"),
    ],
)
def test_the_line(arguments: tuple, expected: str) -> None:
    assert line(*arguments) == expected


def test_that_it_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()
    Progress(tmp_path).at(1, 2, 0.0, last=True)
    Progress(tmp_path / "nowhere").at(1, 2, 0.0, last=True)
    assert (tmp_path / "progress.json").is_dir() and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (2.0, 2.0),
        ([1.0, 3.0], 2.0),
        (torch.tensor([1.0, 5.0]), 3.0),
        ([1.0, float("nan")], 1.0),
        (float("inf"), None),
        ([], None),
        ([[1.0, 3.0], [5.0, 7.0]], 4.0),
    ],
)
def test_the_loss_is_the_mean_of_what_was_logged(
    tmp_path: Path, loss: object, expected: float | None
) -> None:
    run = Run.open(tmp_path / "run", Config())
    run.keep(x=0)
    for step in run.steps(3):
        run.log(step + 1, loss=loss, other=9.0)
    found = written(tmp_path / "run")
    assert found["loss"] == expected and found["step"] == 3 and found["total"] == 3
