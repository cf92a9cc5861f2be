"""What is seen while jobs run: a bar per stage and job on a terminal, lines in a log."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tools import executors
from tools.manifest import Job

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 1.0


class Reporter(Protocol):
    """Told of the jobs of a stage."""

    def watch(self, running: Sequence[Job]) -> None:
        """The jobs that are running now; called several times a second."""
        ...

    def ended(self, outcome: executors.Outcome) -> None:
        """A job has ended."""
        ...


@contextmanager
def reporter(console: Console, stage: str, total: int, root: Path) -> Iterator[Reporter]:
    """A bar on a terminal; in a log a line per job at its end, and one every half a minute."""
    if not console.is_terminal:
        yield _Lines(console, stage, total, root)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar, stage, total, root)


def clock(seconds: float) -> str:
    """``45 s`` or ``1:23:45``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return str(datetime.timedelta(seconds=round(seconds)))


def position(said: dict[str, Any]) -> tuple[float, float | None]:
    """Step and total of what a job says of itself; (0, None) if it says nothing of use."""
    step, total = said.get("step"), said.get("total")
    numbers = (int, float)
    if not isinstance(step, numbers):
        return 0.0, None
    return float(step), float(total) if isinstance(total, numbers) and total > 0 else None


def sentence(said: dict[str, Any]) -> str:
    """``step 1200/4000, loss 0.12, 310 steps/s, 9 s left``; empty if the job says nothing."""
    step, total = position(said)
    if not step:
        return ""
    parts = [f"step {step:.0f}" + (f"/{total:.0f}" if total else "")]
    loss, rate = said.get("loss"), said.get("rate")
    if isinstance(loss, (int, float)):
        parts.append(f"loss {loss:.3g}")
    if isinstance(rate, (int, float)) and rate > 0:
        parts.append(f"{rate:.3g} steps/s")
        if total:
            parts.append(f"{clock(max(total - step, 0) / rate)} left")
    return ", ".join(parts)


class _Lines:
    """For logs."""

    def __init__(self, console: Console, stage: str, total: int, root: Path) -> None:
        self.console, self.stage, self.total, self.root = console, stage, total, root
        self.finished = 0
        self.said_at = time.monotonic()

    def watch(self, running: Sequence[Job]) -> None:
        if not running or time.monotonic() - self.said_at < SECONDS_BETWEEN_LINES:
            return
        self.said_at = time.monotonic()
        texts = []
        for job in running[:4]:
            said = sentence(executors.progress_of(self.root / job.name))
            texts.append(f"{job.name} {said}".strip())
        more = f" and {len(running) - 4} more" if len(running) > 4 else ""
        self._print(f"{self.stage} {self.finished}/{self.total}, running: {'; '.join(texts)}{more}")

    def ended(self, outcome: executors.Outcome) -> None:
        self.finished += 1
        word = "done" if outcome.ok else f"FAILED: {outcome.message}"
        place = f"{self.stage} {self.finished}/{self.total}"
        self._print(f"{place} {outcome.job.name} {outcome.seconds:.1f} s {word}")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)


class _Bar:
    """For terminals: the stage, and below it each running job."""

    def __init__(self, bar: Progress, stage: str, total: int, root: Path) -> None:
        self.bar, self.root, self.total = bar, root, total
        self.begun = self.looked_at = time.monotonic()
        self.stage = bar.add_task(f"[bold]{escape(stage)}[/bold]", total=total, said="")
        self.rows: dict[str, TaskID] = {}
        self._count()

    def watch(self, running: Sequence[Job]) -> None:
        if time.monotonic() - self.looked_at < SECONDS_BETWEEN_LOOKS:
            return
        self.looked_at = time.monotonic()
        names = [job.name for job in running]
        for gone in set(self.rows) - set(names):
            self.bar.remove_task(self.rows.pop(gone))
        for name in names:
            if name not in self.rows:
                self.rows[name] = self.bar.add_task(escape(name), total=None, said="")
            said = executors.progress_of(self.root / name)
            step, total = position(said)
            self.bar.update(self.rows[name], completed=step, total=total, said=sentence(said))
        self._count()

    def ended(self, outcome: executors.Outcome) -> None:
        self.bar.advance(self.stage)
        if not outcome.ok:
            text = f"[red]failed[/red] {escape(outcome.job.name)}: {escape(outcome.message)}"
            self.bar.console.print(text)
        self._count()

    def _count(self) -> None:
        finished = int(self.bar.tasks[0].completed)
        took = time.monotonic() - self.begun
        said = f"{finished}/{self.total} jobs, {clock(took)}"
        if finished:
            said += f", about {clock(took / finished * (self.total - finished))} left"
        self.bar.update(self.stage, said=said)
