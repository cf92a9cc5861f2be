"""A smoke run of every paper, several at a time: ``python -m tools.smoke_all [--jobs 2]``.

Each paper's output goes into a file of its own; what is printed is a line per paper, the end of the
output of those that fail, and the count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.errors import UserError, guarded
from tools.manifest import PAPERS, ROOT, slugs

SHOWN = 15  # last lines of a failed run's output


@dataclass
class Options:
    """Run the smoke scale of every paper and count those that pass."""

    papers: Annotated[tuple[str, ...], tyro.conf.Positional] = ()  # default: all there are
    jobs: int = 2  # papers at a time, each with its share of the cores
    runs: Path = Path(os.environ.get("PAPERS_RUNS") or ROOT / "runs")  # where run directories go


def smoke(slug: str, cores: int, runs: Path, log: Path) -> tuple[bool, float]:
    """Whether a paper's smoke run passes, and its seconds; its output goes to ``log``."""
    command = [sys.executable, "-m", "tools.reproduce", slug, "--scale", "smoke"]
    command += ["--cores", str(cores), "--runs", str(runs)]
    started = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    return done.returncode == 0, time.monotonic() - started


def main(options: Options) -> bool:
    """Run them all, each tried whatever becomes of the others; whether all passed."""
    if options.jobs < 1:
        raise UserError("JOBS must be 1 or more")
    names = list(options.papers) or slugs(PAPERS)
    cores = max(1, (os.cpu_count() or 1) // options.jobs)
    runs = options.runs.resolve()
    logs = runs / "smoke-all"
    logs.mkdir(parents=True, exist_ok=True)
    failed = []
    pool = ThreadPoolExecutor(options.jobs)
    try:
        begun = {pool.submit(smoke, n, cores, runs, logs / f"{n}.log"): n for n in names}
        for future in as_completed(begun):
            name = begun[future]
            passed, seconds = future.result()
            print(f"{'ok    ' if passed else 'FAILED'} {name} ({seconds:.0f} s)", flush=True)
            if not passed:
                failed.append(name)
                said = (logs / f"{name}.log").read_text("utf-8", errors="replace")
                print("\n".join(f"  | {line}" for line in said.splitlines()[-SHOWN:]), flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    count = f"smoke: {len(names) - len(failed)} passed, {len(failed)} failed"
    print(f"{count}: {', '.join(sorted(failed))} (logs: {logs})" if failed else count)
    return not failed


if __name__ == "__main__":
    guarded(lambda: sys.exit(not main(tyro.cli(Options))))
