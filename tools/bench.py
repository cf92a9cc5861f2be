"""Speed comparisons: ``python -m tools.bench [PAPER]`` runs the ``bench.py`` of papers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from common.errors import UserError, choose, guarded
from tools import needs
from tools.manifest import PAPERS, ROOT, choose_paper, load, slugs


@dataclass
class Options:
    """Measure each paper's code against its peers, in one run."""

    paper: Annotated[str | None, tyro.conf.Positional] = None  # default: all that have a bench


def main(options: Options) -> None:
    """Run the benches one after the other, one thread each."""
    having = [slug for slug in slugs() if (PAPERS / slug / "bench.py").is_file()]
    if options.paper is not None:
        choose_paper(options.paper)
        choose("paper with a bench", options.paper, having)
        having = [options.paper]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    for slug in having:
        paper = load(slug)
        if missing := needs.packages(paper, paper.imports):
            raise UserError(f"the bench of {slug} lacks {'; '.join(missing)}")
        print(f"== {slug}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"papers.{slug}.bench"], cwd=ROOT, env=environment
        )
        if done.returncode:
            raise UserError(f"the bench of {slug} failed")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
