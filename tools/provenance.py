"""Where results come from: commit, packages, machine, time, and the code that made each row."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common import files
from common.errors import UserError
from tools.manifest import ROOT, Scale

PACKAGES = (
    *("numpy", "scipy", "numba", "torch", "gymnasium", "mujoco", "metaworld", "minari"),
    *("diffusers", "transformers", "pettingzoo", "jax", "rdkit", "open_spiel", "ViennaRNA"),
)


def git(*arguments: str) -> str | None:
    """Output of a git command in this repository, or None outside one."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def dirty(slug: str) -> bool:
    """Whether anything that a paper's results depend on differs from the commit.

    That is its folder, ``common``, ``tools``, the packages; not generated results and prose.
    """
    watched = (f"papers/{slug}", "common", "tools", "constraints.txt", "pyproject.toml")
    generated = (":(exclude,glob)papers/*/results/**", ":(exclude,glob)**/*.md")
    changed = git("status", "--porcelain", "--", *watched, *generated)
    return changed is None or bool(changed)


def before(slug: str, cores: int, executor: str) -> dict[str, Any]:
    """What is known before the runs."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": dirty(slug),
        "python": platform.python_version(),
        "packages": dict(sorted(_packages())),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "cores": cores,
        "executor": executor,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else "unknown processor"


def after(
    slug: str,
    begun: dict[str, Any],
    root: Path,
    wall: float,
    work: float,
    least: float,
    resumed: bool,
) -> dict[str, Any]:
    """What is known after the runs.

    ``wall_seconds`` adds up over the tries that led to these results (``resumed``: this one found
    finished jobs), and is never less than ``least``, what the jobs' own clocks say. ``busy`` is the
    share of the cores' time that jobs took while jobs were left, in this try.
    """
    spent = root / "spent.json"
    total = max((seconds(spent) if resumed else 0.0) + wall, least)
    files.write_json(spent, {"seconds": total})
    known: dict[str, Any] = {
        "wall_seconds": round(total, 1),
        "busy": round(work, 3) if work else None,
    }
    if (git("rev-parse", "HEAD"), dirty(slug)) != (begun["commit"], begun["dirty"]):
        known["dirty"] = True  # the code changed while jobs were running
    return known


def seconds(path: Path) -> float:
    """ "seconds" of a JSON file that holds a statistic; 0 if it is damaged or not there."""
    try:
        value = files.read_json(path)["seconds"]
    except (OSError, UserError, KeyError, TypeError, RecursionError):
        return 0.0
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9
    return float(value) if good else 0.0


def jobs(scale: Scale, root: Path) -> list[dict[str, Any]]:
    """What each job was and took, by its own clock (tries that were interrupted included)."""
    return [
        {
            "name": job.name,
            "stage": job.stage,
            "task": job.task,
            "method": job.method,
            "seeds": list(job.seeds),
            "seconds": seconds(root / job.name / "finished.json"),
            "threads": job.threads,
        }
        for job in scale.jobs
    ]


def sources(evaluations: Iterable[dict[str, Any]]) -> dict[str, str]:
    """SHA-256 by path of all code that made the rows of these evaluations."""
    merged: dict[str, str] = {}
    for evaluation in evaluations:
        merged |= evaluation.get("sources", {})
    return dict(sorted(merged.items()))
