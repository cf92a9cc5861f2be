"""A small repository with one freshly scaffolded paper, to run the real tools on."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Repository:
    """A copy of this repository's shared parts with the paper ``toy``, under git."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for folder in ("common", "tools"):
            shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
        (root / "papers").mkdir()
        for name in ("papers/__init__.py", ".gitignore", "pyproject.toml", "constraints.txt"):
            shutil.copyfile(ROOT / name, root / name)
        marks = "<!-- results:begin -->\n<!-- results:end -->\n"
        (root / "README.md").write_text(f"# Papers\n\n{marks}")
        self.tool("new_paper", "toy", check=True)
        self.git("init", "-q", "-b", "main")
        self.commit("toy")

    def git(self, *arguments: str) -> str:
        """Run git here."""
        identity = ("-c", "user.name=t", "-c", "user.email=t@t.invalid")
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def environment(self, **extra: str) -> dict[str, str]:
        """Environment of a tool that works here."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PAPERS_")}
        return {**kept, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", **extra}

    def command(self, tool: str, *arguments: str) -> list[str]:
        """Command line of a tool."""
        return [sys.executable, "-m", f"tools.{tool}", *arguments]

    def tool(
        self, tool: str, *arguments: str, check: bool = False, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a tool to its end."""
        done = subprocess.run(
            self.command(tool, *arguments),
            cwd=self.root,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Repository:
    """One per worker: tests that change files must put them back or use their own."""
    return Repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def own_repository(tmp_path) -> Repository:
    """A repository of the test's own, which it may damage."""
    root = tmp_path / "repository"
    root.mkdir()
    return Repository(root)


@dataclass(frozen=True)
class Finished:
    """A smoke run of ``toy`` that nothing disturbed."""

    folder: Path  # of the scale
    printed: str
    seconds: float

    @property
    def results(self) -> dict[str, Any]:
        """What was collected."""
        return json.loads((self.folder / "results.json").read_text())

    def copy(self, runs: Path) -> Path:
        """Its run directories below another folder of runs, to be damaged."""
        return Path(shutil.copytree(self.folder, runs / "toy" / "smoke"))


@pytest.fixture(scope="session")
def finished(repository, tmp_path_factory) -> Finished:
    """One per worker; :meth:`Finished.copy` it before changing anything."""
    runs, begun = tmp_path_factory.mktemp("finished"), time.monotonic()
    arguments = ("toy", "--scale", "smoke", "--cores", "2", "--runs", str(runs))
    done = repository.tool("reproduce", *arguments, check=True)
    return Finished(runs / "toy" / "smoke", done.stdout, time.monotonic() - begun)
