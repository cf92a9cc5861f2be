"""How many seeds would decide what is inconclusive: ``python -m tools.power PAPER [--scale …]``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from common import files
from common.errors import choose, guarded
from tools import judging, manifest, store
from tools.manifest import PAPERS

console = Console(highlight=False)


def power(slug: str, scale: str, papers: Path = PAPERS) -> list[dict[str, Any]]:
    """For each inconclusive claim of committed results: seeds now, seeds needed, minutes.

    Raises:
        UserError: if nothing of that scale is committed.
    """
    results = store.committed(slug, papers)
    choose(f"committed scale of {slug}", scale, results)
    found = results[scale]
    with tempfile.TemporaryDirectory() as folder:
        judged = Path(folder)
        files.write_json(judged / "rows.json", {k: found[k] for k in ("rows", "extras")})
        judging.ask(slug, scale, judged, ["claims", "--power"])
        answers: list[dict[str, Any]] = files.read_json(judged / "power.json")
    for answer in answers:
        answer["minutes"] = minutes(answer, found)
    return answers


def minutes(answer: dict[str, Any], results: dict[str, Any]) -> float | None:
    """Minutes of this machine's cores for the seeds that are needed, by the present runs' clocks.

    By the jobs of the claim's tasks where the results name them, else by the whole scale.
    """
    if not answer["needed"] or not answer["seeds"]:
        return None
    origin = results["provenance"]
    jobs = [
        job
        for job in results.get("jobs", [])
        if any(fnmatch(job["task"] or "", pattern) for pattern in answer["tasks"])
    ]
    spent = sum(job["seconds"] * job["threads"] for job in jobs) / origin["cores"]
    total = spent or origin["wall_seconds"]
    return float(total / 60 * answer["needed"] / answer["seeds"])


@dataclass
class Options:
    """For each inconclusive claim: how many seeds would decide it, and what they cost."""

    paper: Annotated[str, tyro.conf.Positional]  # folder below papers/
    scale: str = "default"  # a scale with committed results


def main(options: Options) -> None:
    """Print a line per inconclusive claim."""
    paper = manifest.load(options.paper)
    answers = power(paper.slug, options.scale)
    if not answers:
        console.print(f"no claim of {paper.slug} at scale {options.scale} is inconclusive")
        return
    table = Table("claim", "seeds now", "seeds that would decide it", "about")
    for answer in answers:
        share = f"{answer['share']:.0%} of draws decided"
        needed = f"{answer['needed']} ({share})" if answer["needed"] else f"no number ({share})"
        cost = f"{answer['minutes']:.0f} min" if answer["minutes"] else "–"
        table.add_row(answer["id"], str(answer["seeds"]), needed, cost)
    console.print(table)
    console.print(
        "Drawn from the seeds at hand: what they don't show, no number of draws brings out."
    )


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
