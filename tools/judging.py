"""Judging apart from running: a paper's claims, tables and figures from its rows.

``python -m tools.judging PAPER [--scale default]`` judges the committed rows anew, without any
training, and renders what follows from them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from common import files
from common.cli import PARENT_VARIABLE
from common.errors import UserError, choose, guarded
from tools import manifest, staleness, tables
from tools.manifest import PAPERS, ROOT


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
    with ThreadPoolExecutor(2) as pool:  # each is a process, mostly of imports
        list(pool.map(lambda module: ask(slug, scale, judged, module), ("claims", "report")))
    (judged / "rows.json").unlink()
    claims: dict[str, Any] = files.read_json(judged / "claims.json")
    return claims | files.read_json(judged / "report.json")


def ask(slug: str, scale: str, judged: Path, module: str, *flags: str) -> None:
    """Run ``papers.<slug>.<module>`` on the rows in ``judged``."""
    command = [
        *(sys.executable, "-m", f"papers.{slug}.{module}"),
        *("--results", str(judged / "rows.json"), "--scale", scale, "--out", str(judged), *flags),
    ]
    environment = {
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        "MPLBACKEND": "Agg",
    }
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", env=environment
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        files.write_text(judged / "log.txt", done.stderr)
        what = "claims could not be judged" if module == "claims" else "tables and figures failed"
        raise UserError(
            f"the {what} for {slug}: {lines[-1]} (log: {judged / 'log.txt'}); all rows are kept"
        )


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
