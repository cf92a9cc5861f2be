"""Compiled code is cached by the content of all its sources."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.jit import _Files

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


def files_of(folder: Path, suffix: str) -> list[Path]:
    found = sorted((folder / "__pycache__").rglob(f"*{suffix}"))
    return [path for path in found if path.stat().st_size]  # else damaged before, and left over


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:10]),
    "flipped": flip_bit,
    "text": lambda path: path.write_text("nonsense"),
    "removed": Path.unlink,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jit")
    write(folder, 1)
    assert run(folder) == "3"
    return folder


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_compiled_anew(compiled: Path, damage: str, suffix: str) -> None:
    """In one process after the other: the cache reads its files at each first call."""
    for path in files_of(compiled, suffix):
        DAMAGES[damage](path)
    assert in_process(compiled) == (3, 0)  # nothing was found
    assert in_process(compiled) == (3, 1)  # everything is there again


def in_process(folder: Path) -> tuple[int, int]:
    """What the loop gives in fresh modules, and how often its cache was hit."""
    names = ("loop", "helper")
    sys.path.insert(0, str(folder))
    try:
        for name in names:
            sys.modules.pop(name, None)
        loop = importlib.import_module("loop")
        value = loop.total(3)
        return value, sum(loop.total.stats.cache_hits.values())
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)


def test_two_signatures_at_once_never_get_each_others_code(tmp_path: Path) -> None:
    """Two processes that read the index before either writes it: one entry is lost, no more."""
    first, second = (_Files(str(tmp_path), "f-1.py311", (1.0, 2)) for _ in range(2))
    read = second._load_index()
    first.save("a", "code of a")
    second._load_index = lambda: read  # type: ignore[method-assign]
    second.save("b", "code of b")
    third = _Files(str(tmp_path), "f-1.py311", (1.0, 2))
    assert third.load("a") in (None, "code of a") and third.load("b") == "code of b"


def test_a_clone_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is below $PAPERS_CACHE then; without that there is none, and it works as well."""
    clone, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    clone.mkdir()
    write(clone, 1)
    (clone / "__pycache__").write_text("no folder")  # so that root cannot write there either
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("PAPERS_CACHE", str(elsewhere))
    assert in_process(clone)[0] == 3 and list(elsewhere.rglob("*.nbc"))
    assert in_process(clone) == (3, 1)
    monkeypatch.setenv("PAPERS_CACHE", "/dev/null")
    assert in_process(clone) == (3, 0) and in_process(clone) == (3, 0)


def test_no_room_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        assert in_process(tmp_path) == (3, 0)
    assert not list(tmp_path.rglob("*.tmp"))
    assert in_process(tmp_path) == (3, 0) and in_process(tmp_path) == (3, 1)
