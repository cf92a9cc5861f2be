"""All papers one after the other in the time that there is: ``tools.reproduce all --hours 10``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import UserError, explain
from tools import compare, manifest, pages
from tools.manifest import PAPERS, Manifest


class OutOfTime(Exception):
    """The time that was given is over; what was begun is resumable."""


@dataclass(frozen=True)
class Ending:
    """How it ended for a paper."""

    slug: str
    state: str  # "done", "stopped", "failed"
    said: str
    wall: float | None = None


def run(
    begin: Callable[[Manifest], dict[str, Any]], scale: str, console: Console, papers: Path = PAPERS
) -> list[Ending]:
    """Run a scale of all papers that have it, those that are planned shortest first.

    A paper that fails does not keep the others from being run; neither does one that has run out
    of time, as shorter jobs of others may still fit.

    Args:
        begin: runs one paper and returns its results; raises :class:`OutOfTime`.
        scale: which scale.
        console: where the table at the end goes.
        papers: the folder of the papers.

    Raises:
        UserError: at the end, if a paper failed.
    """
    having = [manifest.load(slug, papers) for slug in manifest.slugs(papers)]
    chosen = [paper for paper in having if scale in paper.scales]
    if not chosen:
        raise UserError(f"no paper has a scale {scale}")
    endings = []
    for paper in sorted(chosen, key=lambda p: (p.scales[scale]["minutes"], p.slug)):
        begun = time.monotonic()
        endings.append(ending := _one(paper, begin, papers))
        took = pages.duration(time.monotonic() - begun)
        console.print(f"{paper.slug}: {ending.state} after {took}", soft_wrap=True, markup=False)
    show(endings, scale, console)
    if failed := [ending.slug for ending in endings if ending.state == "failed"]:
        raise UserError(f"{', '.join(failed)} failed; the same command goes on with what is left")
    return endings


def _one(paper: Manifest, begin: Callable[[Manifest], dict[str, Any]], papers: Path) -> Ending:
    try:
        results = begin(paper)
    except OutOfTime as reason:
        return Ending(paper.slug, "stopped", str(reason) or "goes on next time")
    except Exception as error:
        line, _ = explain(error)  # a fault of the program is raised again
        return Ending(paper.slug, "failed", line.removeprefix("error: "))
    compared = compare.against(results, papers)
    said = "nothing of this scale is committed" if compared is None else compared.line
    return Ending(paper.slug, "done", said, results["provenance"]["wall_seconds"])


def show(endings: list[Ending], scale: str, console: Console) -> None:
    """One table of what agrees with what is committed."""
    table = Table(title=f"scale {scale}", show_lines=True)
    for column in ("paper", "", "against what is committed", "wall time"):
        table.add_column(column, overflow="fold")
    for ending in endings:
        wall = "–" if ending.wall is None else pages.duration(ending.wall)
        table.add_row(ending.slug, ending.state, escape(ending.said), wall)
    console.print(table)
    left = sum(ending.state == "stopped" for ending in endings)
    if left:
        console.print(f"{left} papers are not at their end: the same command goes on with them")
