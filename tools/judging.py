"""Judging apart from running: a paper's claims, tables and figures from its rows.

``python -m tools.judging PAPER [--scale default]`` judges the committed rows anew, without any
training, and renders what follows from them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from common import files
from common.cli import PARENT_VARIABLE
from common.errors import UserError, choose, guarded
from tools import executors, manifest, nursery, staleness, tables
from tools.manifest import PAPERS, ROOT

MODULES = ("claims", "report")  # of a paper; each is a command of its own


def judge(slug: str, scale: str, judged: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Have the paper judge its claims and draw its figures, in processes of their own.

    Args:
        slug: the paper.
        scale: whose rows they are.
        judged: folder for claims.json, report.json and the figures; emptied first.
        results: with "rows" and "extras".

    Returns:
        ``{"claims", "tables", "figures"}`` of ``results.json``.

    Raises:
        UserError: if the paper's code fails; the rows are kept.
    """
    shutil.rmtree(judged, ignore_errors=True)
    judged.mkdir(parents=True)
    files.write_json(judged / "rows.json", {k: results[k] for k in ("rows", "extras")})
    ask(slug, scale, judged, ["claims"], ["report"])
    (judged / "rows.json").unlink()
    claims: dict[str, Any] = files.read_json(judged / "claims.json")
    return claims | files.read_json(judged / "report.json")


def ask(slug: str, scale: str, judged: Path, *asked: Sequence[str]) -> None:
    """Run ``papers.<slug>.<module>`` on the rows in ``judged``: (module, flag, …) of each.

    Raises:
        UserError: if one fails.
    """
    arguments = ["--results", str(judged / "rows.json"), "--scale", scale, "--out", str(judged)]
    commands = [["-m", f"papers.{slug}.{module}", *arguments, *flags] for module, *flags in asked]
    logs = [judged / f"{module}.log" for module, *_ in asked]
    for (module, *_), log, status in zip(asked, logs, side_by_side(commands, logs), strict=True):
        if status != 0:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            claims = module == "claims"
            what = "claims could not be judged" if claims else "tables and figures failed"
            reason = said[-1] if said else "it printed nothing"
            raise UserError(f"the {what} for {slug}: {reason} (log: {log}); all rows are kept")
        log.unlink()


def side_by_side(commands: Sequence[Sequence[str]], logs: Sequence[Path]) -> list[int]:
    """Exit statuses of ``python -m module …`` for several commands, run at the same time.

    They are mostly imports, so they are forked from one process that has imported, where that is
    possible, and processes of their own elsewhere.

    Args:
        commands: arguments of the interpreter.
        logs: for each a file that gets what it prints.
    """
    environment = {**executors.job_environment(threads=1), "MPLBACKEND": "Agg"}
    if nursery.possible("cpu"):
        made = nursery.Nursery([command[1] for command in commands], environment, ROOT)
        environment_there = {**environment, PARENT_VARIABLE: str(made.pid)}
        with contextlib.closing(made), contextlib.suppress(OSError):
            begun = [
                made.start(command, log, environment_there)
                for command, log in zip(commands, logs, strict=True)
            ]
            statuses = [each.wait() for each in begun]
            if nursery.LOST not in statuses:
                return statuses
    processes = []
    for command, log in zip(commands, logs, strict=True):
        with open(log, "wb") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
            )
    return [process.wait() for process in processes]


def rejudge(slug: str, scale: str, papers: Path = PAPERS) -> dict[str, Any]:
    """Judge the committed rows of a scale anew and write what follows into the paper's folder."""
    found = tables.committed(slug, papers)
    choose(f"committed scale of {slug}", scale, found)
    results = found[scale]
    origin = results["provenance"]
    if "sources" not in origin:
        origin["sources"] = staleness.of_commit(slug, str(origin["commit"]), papers.parent)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        results |= judge(slug, scale, root / "judged", results)
        tables.commit(results, root, papers)
    return results


@dataclass
class Options:
    """Judge committed rows anew, without training."""

    paper: Annotated[str, tyro.conf.Positional]  # folder below papers/
    scale: str = "default"  # a scale with committed results


def main(options: Options) -> None:
    """Judge anew and print the verdicts."""
    paper = manifest.load(options.paper)
    results = rejudge(paper.slug, options.scale)
    for claim in results["claims"]:
        met = ", ".join(claim.get("also_met_by", [])) or "–"
        print(f"{claim['id']:8} {claim['verdict']:24} {claim['ours']}  [also met by: {met}]")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
