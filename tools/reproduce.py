"""Re-run a paper's claims: ``python -m tools.reproduce PAPER [--scale default] …``.

Lays out the jobs of a scale from the manifest, runs what is not finished yet, collects the rows,
has the paper judge its claims, and writes ``runs/<paper>/<scale>/results.json``. It knows a paper
only through its manifest, its command lines and its files.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from common import files
from common.errors import UserError, guarded
from tools import executors, judging, manifest, needs, pages, tables
from tools.manifest import ROOT, Scale

COLOURS = {
    "reproduced": "green",
    "reproduced, not specific": "cyan",
    "contradicted": "red",
    "inconclusive": "yellow",
}

console = Console(highlight=False)


@dataclass
class Options:
    """Re-run a paper's claims and print a verdict for each."""

    paper: Annotated[str, tyro.conf.Positional]  # folder below papers/
    scale: str = "default"  # smoke, default, gpu, paper, … as its manifest has them
    seeds: int | None = None  # number of seeds instead of the manifest's
    executor: Literal["local", "ray"] = "local"  # where jobs run
    device: str = "cpu"  # cpu or cuda
    cores: int | None = None  # cores to use; default: all
    anyway: bool = False  # begin although data, disk, memory or packages seem to be missing
    runs: Path = Path(os.environ.get("PAPERS_RUNS", ROOT / "runs"))  # where run directories go
    commit_results: bool = False  # copy results and figures into the paper's folder and README


def main(options: Options) -> None:
    """Run the pipeline from manifest to verdicts."""
    paper = manifest.load(options.paper)
    if options.cores is not None and options.cores < 1:
        raise UserError("--cores must be 1 or more")
    scale = paper.scale(options.scale, options.seeds)
    root = options.runs / paper.slug / scale.name
    remote = options.executor == "ray" and bool(os.environ.get("RAY_ADDRESS"))
    used = needs.check(paper, scale, root, options.device, remote=remote, anyway=options.anyway)
    busy = f"another 'make reproduce' is at work in {root}; wait for it or stop it"
    with files.locked(root / "lock", busy):
        begun = {**provenance(options), **used}
        started = time.monotonic()
        executor = make_executor(options, root)
        console.print(
            f"[bold]{paper.title}[/bold]\n{paper.slug} at scale {scale.name}: "
            f"{len(scale.jobs)} jobs on {executor.cores} cores (planned: {scale.plan})"
        )
        for note in needs.notes(scale):
            console.print(note, soft_wrap=True)
        resumed = any(executors.trained(root / job.name) for job in scale.jobs)
        work = run_stages(scale, executor, root, options.device)
        collected = collect(scale, root)
        wall = time.monotonic() - started
        least = training_seconds(scale, root) / executor.cores
        results: dict[str, Any] = {
            "paper": paper.slug,
            "scale": scale.name,
            "seeds": max((len(set(s)) for s in _seed_sets(scale)), default=0),
            "provenance": {**begun, **finish_provenance(begun, root, wall, work, least, resumed)},
            **collected,
        }
        results.update(judging.judge(paper.slug, scale.name, root / "judged", results))
        files.write_json(root / "results.json", results)
    show(results, root)
    if options.commit_results:
        tables.commit(results, root)


# -- before -----------------------------------------------------------------------------------


def make_executor(options: Options, root: Path) -> executors.Executor:
    """The executor that the options ask for."""
    if options.executor == "ray":
        return executors.RayCluster(root, options.cores)
    return executors.Local(root, options.cores)


def git(*arguments: str) -> str | None:
    """Output of a git command in this repository, or None outside one."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def dirty() -> bool:
    """Whether anything but generated results and prose differs from the commit."""
    generated = (":(exclude,glob)papers/*/results/**", ":(exclude,glob)**/*.md")
    changed = git("status", "--porcelain", "--", ".", *generated)
    return changed is None or bool(changed)


def provenance(options: Options) -> dict[str, Any]:
    """Where the results come from, as far as it is known before the runs."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": dirty(),
        "python": platform.python_version(),
        "packages": dict(sorted(_packages())),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "cores": options.cores or executors.available_cores(),
        "executor": options.executor,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


PACKAGES = (
    *("numpy", "scipy", "numba", "torch", "gymnasium", "mujoco", "metaworld", "minari"),
    *("diffusers", "transformers", "pettingzoo", "jax", "rdkit", "open_spiel", "ViennaRNA"),
)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else "unknown processor"


def finish_provenance(
    begun: dict[str, Any], root: Path, wall: float, work: float, least: float, resumed: bool
) -> dict[str, Any]:
    """What is known after the runs.

    ``wall_seconds`` adds up over the tries that led to these results (``resumed``: this one found
    finished jobs), and is never less than ``least``, what the jobs' own clocks say. ``busy`` is the
    share of the cores' time that jobs took while jobs were left, in this try.
    """
    spent = root / "spent.json"
    earlier = files.read_json(spent)["seconds"] if spent.exists() and resumed else 0.0
    total = max(earlier + wall, least)
    files.write_json(spent, {"seconds": total})
    after: dict[str, Any] = {
        "wall_seconds": round(total, 1),
        "busy": round(work, 3) if work else None,
    }
    if (git("rev-parse", "HEAD"), dirty()) != (begun["commit"], begun["dirty"]):
        after["dirty"] = True  # the code changed while jobs were running
    return after


# -- the jobs ---------------------------------------------------------------------------------


def run_stages(scale: Scale, executor: executors.Executor, root: Path, device: str) -> float:
    """Run what is not finished, stage by stage.

    Returns:
        The share of the cores' time that jobs took (0 if there was nothing to do).

    Raises:
        UserError: if a job failed, after the others of its stage have ended.
    """
    used = span = 0.0
    for name, jobs in scale.stages:
        left = [job for job in jobs if not executors.done(job, root / job.name, device)]
        if len(left) < len(jobs):
            console.print(f"stage {name}: {len(jobs) - len(left)} of {len(jobs)} jobs are finished")
        if not left:
            continue
        failed: list[executors.Outcome] = []
        begun = time.monotonic()
        with progress(name, len(left)) as advance:
            for outcome in executor.run(left, device):
                advance(outcome)
                used += outcome.seconds * min(outcome.job.threads, executor.cores)
                if not outcome.ok:
                    failed.append(outcome)
        span += (time.monotonic() - begun) * executor.cores
        if failed:
            first = failed[0]
            raise UserError(
                f"{len(failed)} of {len(left)} jobs failed, first {first.job.name}: "
                f"{first.message} (its log: {root / first.job.name / 'log.txt'}); what is finished "
                "is kept, the same command goes on"
            )
    return used / span if span else 0.0


@contextmanager
def progress(stage: str, total: int) -> Iterator[Any]:
    """A bar on a terminal, a line per job in a log."""
    if not console.is_terminal:
        finished = 0

        def line(outcome: executors.Outcome) -> None:
            nonlocal finished
            finished += 1
            word = "done" if outcome.ok else f"FAILED: {outcome.message}"
            console.print(
                f"{stage} {finished}/{total} {outcome.job.name} {outcome.seconds:.1f} s {word}",
                soft_wrap=True,
            )

        yield line
        return
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} jobs"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(stage, total=total, left="")
        begun = time.monotonic()

        def move(outcome: executors.Outcome) -> None:
            bar.advance(task)
            finished = bar.tasks[task].completed
            seconds = (time.monotonic() - begun) / finished * (total - finished)
            bar.update(task, left=f"about {datetime.timedelta(seconds=round(seconds))} left")
            if not outcome.ok:
                bar.console.print(f"[red]failed[/red] {outcome.job.name}: {outcome.message}")

        yield move


# -- after ------------------------------------------------------------------------------------


def _seed_sets(scale: Scale) -> list[list[int]]:
    """Seeds of each cell (stage, task, method) of a scale."""
    cells: dict[tuple[str, str | None, str | None], list[int]] = {}
    for job in scale.jobs:
        cells.setdefault((job.stage, job.task, job.method), []).extend(job.seeds)
    return list(cells.values())


def collect(scale: Scale, root: Path) -> dict[str, list[Any]]:
    """Rows and extras of all evaluated jobs, in the order of the manifest."""
    rows: list[Any] = []
    extras: list[Any] = []
    for job in scale.jobs:
        if job.evaluated:
            evaluation = files.read_json(root / job.name / "eval.json")
            rows += evaluation["rows"]
            extras += evaluation["extras"]
    return {"rows": rows, "extras": extras}


def training_seconds(scale: Scale, root: Path) -> float:
    """Core-seconds that the jobs' own clocks counted, interrupted tries included."""
    total = 0.0
    for job in scale.jobs:
        path = root / job.name / "finished.json"
        if path.exists():
            total += files.read_json(path)["seconds"] * job.threads
    return total


def show(results: dict[str, Any], root: Path) -> None:
    """Print the claims with their verdicts, and where everything is."""
    table = Table(title=f"{results['paper']} at scale {results['scale']}", show_lines=True)
    for column in ("claim", "paper", "ours", "also met by", "verdict"):
        table.add_column(column, overflow="fold")
    for claim in results["claims"]:
        colour = COLOURS.get(claim["verdict"], "dim")
        table.add_row(
            f"[bold]{claim['id']}[/bold] {claim['statement']}",
            claim["paper"],
            claim["ours"],
            pages.also_met(claim),
            f"[{colour}]{claim['verdict']}[/{colour}]",
        )
    console.print(table)
    origin = results["provenance"]
    busy = f", cores busy {origin['busy']:.0%} of it" if origin["busy"] else ""
    console.print(
        f"wall time {pages.duration(origin['wall_seconds'])}{busy}; "
        f"{'uncommitted changes' if origin['dirty'] else 'commit ' + str(origin['commit'])[:12]}"
    )
    console.print(f"results: {root / 'results.json'}", soft_wrap=True)
    for figure in pages.figures(results):
        path = root / "judged" / f"{figure['name']}.png"
        console.print(f"figure:  {path}", soft_wrap=True)


def cli(arguments: list[str] | None = None) -> None:
    """Command line; an unknown flag's nearest names are shown by tyro."""
    guarded(lambda: main(tyro.cli(Options, args=arguments, prog="reproduce")))


if __name__ == "__main__":
    cli()
