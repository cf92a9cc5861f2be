"""How far a run is: ``progress.json`` for the runner, a line now and then for a person."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_FILES = 2.0
SECONDS_BETWEEN_LINES = 5.0
MARKS = 16  # the rate is that of the last so many files, about half a minute


class Progress:
    """Keeps ``progress.json`` of a run directory: step, total, seconds, rate and loss.

    The file is for those who watch: it is written at most every 2 s, and that it could not be
    written stops nobody. A line is printed at most every 5 s.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.json"
        self.loss: float | None = None  # as last logged
        now = time.monotonic()
        self._wrote = self._printed = now
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)  # (time, step)

    def begin(self, step: int) -> None:
        """The loop starts at ``step``: from here on the rate is measured."""
        self._wrote = self._printed = now = time.monotonic()
        self._marks.clear()
        self._marks.append((now, step))

    def at(self, step: int, total: int | None, seconds: float, *, last: bool = False) -> None:
        """``step`` steps of ``total`` (None: not known) are done after ``seconds``."""
        now = time.monotonic()
        if not last and now - self._wrote < SECONDS_BETWEEN_FILES:
            return
        self._wrote = now
        rate = self._rate(now, step)
        self._marks.append((now, step))
        self._write(
            {
                "step": step,
                "total": total,
                "seconds": round(seconds, 1),
                "rate": rate,
                "loss": self.loss,
            }
        )
        if not last and now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            print(line(step, total, rate, self.loss), flush=True)

    def _rate(self, now: float, step: int) -> float | None:
        """Steps per second since the oldest mark."""
        if not self._marks:
            return None
        then, before = self._marks[0]
        return float(f"{(step - before) / (now - then):.4g}") if now > then else None

    def _write(self, progress: dict[str, Any]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with contextlib.suppress(OSError):  # without fsync: after a power cut nobody misses it
            temporary.write_text(json.dumps(progress) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)


def line(step: int, total: int | None, rate: float | None, loss: float | None) -> str:
    """``step 1200/4000, loss 0.12, 310 steps/s, 9 s left``, as far as it is known."""
    parts = [f"step {step}" if total is None else f"step {step}/{total}"]
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    if rate:
        parts.append(f"{rate:.3g} steps/s" if rate < 1000 else f"{rate:.0f} steps/s")
        if total is not None and total > step:
            parts.append(f"{_duration((total - step) / rate)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
