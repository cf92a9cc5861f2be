"""The example under "Use it" of a paper's README, run as a reader would run it.

It is about trained things: it finds the run directories of a smoke run, and no results beside them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common.errors import UserError
from tools.manifest import PAPERS, ROOT

HEADING = re.compile(r"^#{1,6}\s+Use it\s*$", re.MULTILINE | re.IGNORECASE)
BLOCK = re.compile(r"^```python\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
SECONDS = 300


def example(readme: str) -> str | None:
    """The first Python block under the heading "Use it", or None."""
    heading = HEADING.search(readme)
    if heading is None:
        return None
    section = re.split(r"^#{1,6}\s", readme[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    block = BLOCK.search(section)
    return block.group(1) if block else None


def located(code: str, runs: Path) -> str:
    """The code with paths that begin with ``runs/`` leading to the folder ``runs``."""
    escaped = str(runs).replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    return re.sub(r"""(["'])runs/""", lambda match: f"{match.group(1)}{escaped}/", code)


def check(slug: str, runs: Path, papers: Path = PAPERS) -> bool:
    """Run the example of a paper's README in a process of its own.

    Args:
        slug: the paper.
        runs: the folder that stands for ``runs`` in the example.
        papers: the folder of the papers.

    Returns:
        Whether there is one.

    Raises:
        UserError: if it fails.
    """
    readme = papers / slug / "README.md"
    code = example(readme.read_text(encoding="utf-8")) if readme.is_file() else None
    if code is None:
        return False
    paths = os.pathsep.join(dict.fromkeys([str(papers.parent), str(ROOT)]))
    environment = {
        **os.environ,
        **{"PYTHONPATH": paths, "PYTHONUTF8": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
    }
    with tempfile.TemporaryDirectory() as elsewhere:  # what it writes is not kept
        command = [sys.executable, "-c", located(code, runs)]
        try:
            done = subprocess.run(
                command,
                cwd=elsewhere,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the example under 'Use it' of papers/{slug}/README.md takes over {SECONDS} s"
            ) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise UserError(f"the example under 'Use it' of papers/{slug}/README.md fails: {lines[-1]}")
    return True
