"""Whether the code that made committed rows has changed since.

``python -m tools.staleness PAPER --scale default --how "…"`` records that the present code was
checked to give the same numbers, and how.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from common import files
from common.errors import UserError, choose, guarded
from tools import manifest, store
from tools.manifest import PAPERS, ROOT

NOT_ROWS = {  # files of a paper that make no rows
    *("claims.py", "reading.py", "report.py", "figures.py", "trained.py", "bench.py"),
    "__init__.py",
}


def recorded(results: dict[str, Any]) -> dict[str, str]:
    """SHA-256 by path of the code that made the rows, or that was checked to make them."""
    origin = results["provenance"]
    found = origin.get("checked", {}).get("sources") or origin.get("sources", {})
    return {path: digest for path, digest in found.items() if Path(path).name not in NOT_ROWS}


def of_commit(slug: str, commit: str, root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of the paper's own files at a commit, for results that hold no hashes."""
    folder = f"papers/{slug}/"

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True).stdout

    try:
        names = git("ls-tree", "--name-only", commit, folder).decode().split()
        return {
            name: files.sha256(git("show", f"{commit}:{name}"))
            for name in names
            if name.endswith(".py") and Path(name).name not in NOT_ROWS
        }
    except (OSError, subprocess.CalledProcessError):
        return {}  # no git, or a shallow clone: nothing can be said


def changed(results: dict[str, Any], root: Path = ROOT) -> list[str]:
    """Paths of the code that made the rows and is different now, or gone."""
    return [
        path
        for path, digest in sorted(recorded(results).items())
        if not (root / path).is_file() or files.sha256((root / path).read_bytes()) != digest
    ]


def note(results: dict[str, Any], root: Path = ROOT) -> str:
    """What stands under a table: the files that changed since its rows were made, and how the
    present code was checked."""
    how = results["provenance"].get("checked", {}).get("how")
    parts = []
    if paths := changed(results, root):
        names = [Path(path).name for path in paths]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        parts.append(f"**Code changed since**: {shown}.")
    if how:
        parts.append(f"Code of {results['provenance']['checked']['date']} checked: {how}.")
    return " ".join(parts)


def check_off(slug: str, scale: str, how: str, date: str, papers: Path = PAPERS) -> None:
    """Record that the code as it is now gives the same numbers.

    Raises:
        UserError: if nothing of that scale is committed, or ``how`` says nothing.
    """
    found = store.committed(slug, papers)
    choose(f"committed scale of {slug}", scale, found)
    if len(how.split()) < 3:
        raise UserError("--how has to say what was run and compared")
    results = found[scale]
    paths = recorded(results)
    new = {p.relative_to(papers.parent).as_posix() for p in (papers / slug).glob("*.py")}
    kept = [p for p in {*paths, *new} if Path(p).name not in NOT_ROWS]
    sources = {
        path: files.sha256((papers.parent / path).read_bytes())
        for path in sorted(kept)
        if (papers.parent / path).is_file()
    }
    results["provenance"]["checked"] = {"date": date, "how": how, "sources": sources}
    files.write_text(papers / slug / "results" / f"{scale}.json", store.compact(results))


@dataclass
class Options:
    """Record that changed code was checked to give the committed numbers."""

    paper: Annotated[str, tyro.conf.Positional]  # folder below papers/
    how: str  # what was run and compared, e.g. "rows of short runs of all tasks identical"
    date: str  # of the check, e.g. 2026-11-21
    scale: str = "default"  # a scale with committed results


if __name__ == "__main__":

    def main() -> None:
        """Command line."""
        options = tyro.cli(Options)
        paper = manifest.load(options.paper)
        check_off(paper.slug, options.scale, options.how, options.date)
        from tools import tables  # which shows what is recorded here

        tables.write()

    guarded(main)
