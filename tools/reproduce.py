"""Re-run a paper's claims: ``python -m tools.reproduce PAPER [--scale default] …``.

Lays out the jobs of a scale from the manifest, runs what is not finished yet, collects the rows,
has the paper judge its claims, and writes ``runs/<paper>/<scale>/results.json``. It knows a paper
only through its manifest, its command lines and its files.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common import files
from common.errors import UserError, guarded
from tools import (
    compare,
    everything,
    executors,
    judging,
    manifest,
    needs,
    pages,
    progress,
    provenance,
    snippets,
    tables,
)
from tools.everything import OutOfTime
from tools.manifest import ROOT, Job, Manifest, Scale

COLOURS = {
    "reproduced": "green",
    "reproduced, not specific": "cyan",
    "contradicted": "red",
    "inconclusive": "yellow",
}

PLANNED_CORES = 2  # of the machine that minutes are planned for

console = Console(highlight=False)


@dataclass
class Options:
    """Re-run a paper's claims and print a verdict for each."""

    paper: Annotated[str, tyro.conf.Positional]  # folder below papers/, or "all"
    scale: str = "default"  # smoke, default, gpu, paper, … as its manifest has them
    seeds: int | None = None  # number of seeds instead of the manifest's
    seed_offset: int = 0  # other seeds: added to each, with run directories of their own
    executor: Literal["local", "ray"] = "local"  # where jobs run
    device: str = "cpu"  # cpu or cuda
    cores: int | None = None  # cores to use; default: all
    hours: float | None = None  # stop after so long; the same command goes on
    anyway: bool = False  # begin although data, disk, memory or packages seem to be missing
    runs: Path | None = None  # where run directories go; default: $PAPERS_RUNS, else runs/
    commit_results: bool = False  # copy results and figures into the paper's folder and README


def main(options: Options) -> None:
    """Run the pipeline from manifest to verdicts, for one paper or for all."""
    if options.cores is not None and options.cores < 1:
        raise UserError("--cores must be 1 or more")
    if options.hours is not None and not 0 < options.hours < 10_000:
        raise UserError("--hours must be a number above 0")
    until = None if options.hours is None else time.monotonic() + 3600 * options.hours
    if options.paper == "all":
        everything.run(lambda paper: one(options, paper, until), options.scale, console)
        return
    try:
        one(options, manifest.load(options.paper), until)
    except OutOfTime as reason:
        console.print(f"stopped: {reason}; the same command goes on", soft_wrap=True)


def one(options: Options, paper: Manifest, until: float | None) -> dict[str, Any]:
    """Run a scale of a paper, show what came out and commit it if asked to; returns the results."""
    results, root, example = run(options, paper, until)
    if results["scale"] == "smoke":
        show_smoke(results, root, example)
    else:
        show(results, root)
    if options.commit_results:
        tables.commit(results, root)
    return results


def run(
    options: Options, paper: Manifest, until: float | None = None
) -> tuple[dict[str, Any], Path, bool]:
    """Run a scale of a paper and judge its claims.

    Returns:
        The results, the folder that holds them, and whether the README's example was run on them.

    Raises:
        OutOfTime: at ``until`` (``time.monotonic()``).
    """
    scale = paper.scale(options.scale, options.seeds, options.seed_offset)
    others = f"-seeds-from-{options.seed_offset}" if options.seed_offset else ""
    root = runs_folder(options) / paper.slug / f"{scale.name}{others}"
    remote = options.executor == "ray" and bool(os.environ.get("RAY_ADDRESS"))
    used = needs.check(paper, scale, root, options.device, remote=remote, anyway=options.anyway)
    busy = f"another 'make reproduce' is at work in {root}; wait for it or stop it"
    with files.locked(root / "lock", busy):
        cores = options.cores or executors.available_cores()
        begun = {**provenance.before(paper.slug, cores, options.executor), **used}
        started = time.monotonic()
        executor = make_executor(options, root, scale)
        console.print(
            f"[bold]{paper.title}[/bold]\n{paper.slug} at scale {scale.name}: "
            f"{len(scale.jobs)} jobs on {executor.cores} cores (planned: {scale.plan})"
        )
        for note in needs.notes(scale):
            console.print(note, soft_wrap=True)
        resumed = any(executors.trained(root / job.name) for job in scale.jobs)
        with contextlib.closing(executor):
            work = run_stages(scale, executor, root, options.device, until)
        collected = collect(scale, root)
        wall = time.monotonic() - started
        least = sum(job["seconds"] * job["threads"] for job in collected["jobs"]) / executor.cores
        begun |= {"seed_offset": options.seed_offset, "sources": collected.pop("sources")}
        results: dict[str, Any] = {
            "paper": paper.slug,
            "scale": scale.name,
            "seeds": max((len(set(s)) for s in _seed_sets(scale)), default=0),
            "provenance": begun
            | provenance.after(paper.slug, begun, root, wall, work, least, resumed),
            **collected,
        }
        with ThreadPoolExecutor(1) as beside:  # both are imports for the most part
            example = beside.submit(run_example, options, paper, root)
            results.update(judging.judge(paper.slug, scale.name, root / "judged", results))
        files.write_json(root / "results.json", results)
    return results, root, example.result()


def run_example(options: Options, paper: Manifest, root: Path) -> bool:
    """Run the README's example on the smoke run that it names; whether there is one."""
    named = options.scale == "smoke" and options.seeds is None and not options.seed_offset
    return named and snippets.check(paper.slug, root.parents[1])


# -- before -----------------------------------------------------------------------------------


def runs_folder(options: Options) -> Path:
    """Where run directories go: ``--runs``, else ``$PAPERS_RUNS``, else ``runs`` of the clone."""
    configured = os.environ.get("PAPERS_RUNS")
    if options.runs is None and configured is not None and not configured.strip():
        raise UserError("PAPERS_RUNS is empty; name a folder, or unset it")
    return (options.runs or Path(configured or ROOT / "runs")).expanduser().resolve()


def make_executor(options: Options, root: Path, scale: Scale) -> executors.Executor:
    """The executor that the options ask for."""
    if options.executor == "ray":
        return executors.RayCluster(root, options.cores)
    modules = {f"papers.{job.paper}.{name}" for job in scale.jobs for name in (job.module, "eval")}
    return executors.Local(root, options.cores, sorted(modules), scale.needs.imports)


# -- the jobs ---------------------------------------------------------------------------------


class _Looking:
    """Shows how the jobs of a stage get on, and ends them when the time is over."""

    def __init__(
        self, reporter: progress.Reporter, until: float | None, seconds_per_thread: float
    ) -> None:
        self.reporter, self.until, self.seconds = reporter, until, seconds_per_thread

    def running(self, jobs: Sequence[Job]) -> None:
        if self.until is not None and time.monotonic() > self.until:
            raise OutOfTime("the time is over; what was begun goes on next time")
        self.reporter.watch(jobs)

    def fits(self, job: Job) -> bool:
        return self.until is None or time.monotonic() + self.seconds < self.until


def planned_seconds(scale: Scale, cores: int) -> float:
    """What a job of a scale is planned to take: all jobs are reckoned to be equally long."""
    threads = sum(min(job.threads, cores) for job in scale.jobs)
    return scale.minutes * 60 * PLANNED_CORES / max(threads, PLANNED_CORES)


def run_stages(
    scale: Scale,
    executor: executors.Executor,
    root: Path,
    device: str,
    until: float | None = None,
) -> float:
    """Run what is not finished, stage by stage.

    Args:
        scale: what to run.
        executor: where.
        root: where its run directories are.
        device: "cpu" or "cuda".
        until: ``time.monotonic()`` at which jobs are stopped; none is begun that is planned to
            take longer.

    Returns:
        The share of the cores' time that jobs took (0 if there was nothing to do).

    Raises:
        UserError: if a job failed, after the others of its stage have ended.
        OutOfTime: if jobs are left over because of ``until``.
    """
    used = span = 0.0
    planned = planned_seconds(scale, executor.cores)
    for name, jobs in scale.stages:
        left = [job for job in jobs if not executors.done(job, root / job.name, device)]
        if len(left) < len(jobs):
            console.print(f"stage {name}: {len(jobs) - len(left)} of {len(jobs)} jobs are finished")
        if not left:
            continue
        outcomes: list[executors.Outcome] = []
        begun = time.monotonic()
        with progress.reporter(console, name, len(left), root) as reporter:
            for outcome in executor.run(left, device, _Looking(reporter, until, planned)):
                reporter.ended(outcome)
                used += outcome.seconds * min(outcome.job.threads, executor.cores)
                outcomes.append(outcome)
        span += (time.monotonic() - begun) * executor.cores
        if failed := [outcome for outcome in outcomes if not outcome.ok]:
            first = failed[0]
            raise UserError(
                f"{len(failed)} of {len(left)} jobs failed, first {first.job.name}: "
                f"{first.message} (its log: {root / first.job.name / 'log.txt'}); what is finished "
                "is kept, the same command goes on"
            )
        if waiting := len(left) - len(outcomes):
            raise OutOfTime(f"{waiting} jobs of stage {name} do not fit in the time that is left")
    return used / span if span else 0.0


# -- after ------------------------------------------------------------------------------------


def _seed_sets(scale: Scale) -> list[list[int]]:
    """Seeds of each cell (stage, task, method) of a scale."""
    cells: dict[tuple[str, str | None, str | None], list[int]] = {}
    for job in scale.jobs:
        cells.setdefault((job.stage, job.task, job.method), []).extend(job.seeds)
    return list(cells.values())


def collect(scale: Scale, root: Path) -> dict[str, Any]:
    """What the jobs came to: rows and extras in the order of the manifest, the jobs themselves,
    and the code that made the rows."""
    evaluations = [
        files.read_json(root / job.name / "eval.json") for job in scale.jobs if job.evaluated
    ]
    return {
        "sources": provenance.sources(evaluations),
        "jobs": provenance.jobs(scale, root),
        "rows": [row for evaluation in evaluations for row in evaluation["rows"]],
        "extras": [extra for evaluation in evaluations for extra in evaluation["extras"]],
    }


def show(results: dict[str, Any], root: Path) -> None:
    """Print the claims with their verdicts beside the committed ones, and where everything is."""
    compared = compare.against(results)
    table = Table(title=f"{results['paper']} at scale {results['scale']}", show_lines=True)
    columns = ["claim", "paper", "ours", "also met by", "verdict"]
    for column in columns + (["committed"] if compared else []):
        table.add_column(column, overflow="fold")
    for claim in results["claims"]:
        colour = COLOURS.get(claim["verdict"], "dim")
        texts = [claim["paper"], claim["ours"], pages.also_met(claim)]
        row = [f"[bold]{escape(claim['id'])}[/bold] {escape(claim['statement'])}"]
        row += map(escape, texts)
        row.append(f"[{colour}]{escape(claim['verdict'])}[/{colour}]")
        if compared:
            mark = "[red]differs[/red] " if claim["id"] in compared.differing else ""
            row.append(mark + escape(compared.shown(claim)))
        table.add_row(*row)
    console.print(table)
    if compared:
        console.print(compared.line, soft_wrap=True, markup=False)
    origin = results["provenance"]
    busy = f", cores busy {origin['busy']:.0%} of it" if origin["busy"] else ""
    console.print(
        f"wall time {pages.duration(origin['wall_seconds'])}{busy}; "
        f"{'uncommitted changes' if origin['dirty'] else 'commit ' + str(origin['commit'])[:12]}"
    )
    console.print(f"results: {root / 'results.json'}", soft_wrap=True, markup=False)
    for figure in results["figures"]:
        path = root / "judged" / f"{figure['name']}.png"
        console.print(f"figure:  {path}", soft_wrap=True, markup=False)


def show_smoke(results: dict[str, Any], root: Path, example: bool) -> None:
    """One line: a smoke run proves the wiring and nothing else."""
    parts = [
        "wiring works",
        f"{len(results['claims'])} claims not judged",
        f"{len(results['figures'])} figures",
        *(["the example runs"] if example else []),
        f"{results['provenance']['wall_seconds']:.0f} s",
        "uncommitted changes" if results["provenance"]["dirty"] else "",
        str(root / "results.json"),
    ]
    console.print("; ".join(filter(None, parts)), soft_wrap=True, markup=False)


def cli(arguments: list[str] | None = None) -> None:
    """Command line; an unknown flag's nearest names are shown by tyro."""
    guarded(lambda: main(tyro.cli(Options, args=arguments, prog="reproduce")))


if __name__ == "__main__":
    cli()
