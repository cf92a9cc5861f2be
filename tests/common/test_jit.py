"""Compiled code is cached by the content of all its sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import loop
print(loop.total(3))
"""


def write(folder: Path, step: int) -> None:
    (folder / "helper.py").write_text(
        "from pathlib import Path\n"
        "from common.jit import jit_of\n"
        "jit = jit_of(*(Path(__file__).with_name(n) for n in ('loop.py', 'helper.py')))\n"
        "@jit\n"
        f"def step(): return {step}\n"
    )
    (folder / "loop.py").write_text(
        "from helper import jit, step\n"
        "@jit\n"
        "def total(n):\n"
        "    x = 0\n"
        "    for _ in range(n):\n"
        "        x += step()\n"
        "    return x\n"
    )


def run(folder: Path) -> str:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(folder=str(folder))],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def caches(folder: Path) -> set[str]:
    return {path.name for path in (folder / "__pycache__").glob("numba-*")}


def test_an_edit_of_a_helper_reaches_the_loop(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert run(tmp_path) == "3"
    first = caches(tmp_path)
    assert len(first) == 1
    assert run(tmp_path) == "3" and caches(tmp_path) == first  # found again
    write(tmp_path, 10)
    assert run(tmp_path) == "30"
    assert len(caches(tmp_path)) == 2
