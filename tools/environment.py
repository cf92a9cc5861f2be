"""The virtual environment ``.venv``: what is in it, what is missing, how it gets there.

Standard library only: this runs before anything is installed. Extras of ``pyproject.toml``
accumulate in one environment at the versions of ``constraints.txt``. A stamp per extra says for
which requirements it was installed; while the stamps fit, nothing is done. A stamp is written after
the packages are in, and an installation that was killed is begun anew.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError, choose, guarded
from tools import manifest

ROOT = Path(__file__).resolve().parents[1]
BASE = "base"  # name of the stamp of the dependencies that everything needs
TOOLS = ("dev", "peers", "cluster", "track")  # extras that no paper has: tests, benches, runner
LINK = "papers_reproduced.pth"  # makes papers, common and tools importable from everywhere
HEARTBEAT = 10.0  # seconds between two lines of progress where there is no terminal

_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname",
    "Failed to establish a new connection",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Connection refused",
    "Connection reset",
    "Connection broken",
    "Network is unreachable",
    "ProxyError",
)


class Environment:
    """A virtual environment below ``root``, made for the ``pyproject.toml`` there."""

    def __init__(self, root: Path = ROOT, python: str | None = None) -> None:
        self.root = root
        # What makes the environment must not lie in it.
        self.base_python: str = python or getattr(sys, "_base_executable", "") or sys.executable
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.stamps = self.folder / "stamps"
        self.log = self.folder / "install.log"
        self._unfinished = self.folder / "unfinished"  # there while pip works
        self._constraints = root / "constraints.txt"
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        self.requirements: dict[str, list[str]] = {
            BASE: project["dependencies"],
            **project["optional-dependencies"],
        }

    # -- what is there ------------------------------------------------------------------------

    def _stamp(self, extra: str) -> str:
        """What identifies an installation of ``extra``."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        parts = [version, str(self.root), self._constraints.read_text()]
        parts += sorted(self.requirements[extra])
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def missing(self, extras: Iterable[str]) -> list[str]:
        """Those of ``extras`` that are not installed as ``pyproject.toml`` now has them.

        Raises:
            UserError: for an unknown extra.
        """
        wanted = [BASE, *(e for e in dict.fromkeys(extras) if e != BASE)]
        for extra in wanted:
            choose("extra of pyproject.toml", extra, self.requirements)
        if not self.python.exists() or self._unfinished.exists():
            return wanted
        return [extra for extra in wanted if self._stamped(extra) != self._stamp(extra)]

    def _stamped(self, extra: str) -> str | None:
        path = self.stamps / extra
        return path.read_text() if path.is_file() else None

    def _site(self) -> Path:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.folder / "lib" / version / "site-packages"

    # -- making it ----------------------------------------------------------------------------

    def ensure(self, extras: Iterable[str]) -> None:
        """Install those of ``extras`` that are missing.

        Raises:
            UserError: when it cannot be done, with what to do about it. No stamp is left then.
        """
        extras = list(extras)
        if not self.missing(extras):
            return
        with self._alone():
            missing = self.missing(extras)  # again: another process may have installed them
            if not missing:
                return
            if not self._sound():
                self._create()
            self._install(missing)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One installation at a time."""
        with open(self.root / "pyproject.toml", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another installation to end", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sound(self) -> bool:
        """Whether there is an environment with a pip, of this Python's version, left whole."""
        if not self.python.exists() or self._unfinished.exists():
            return False
        if any(path.read_text() != f"{self.root}\n" for path in self._site().glob(LINK)):
            return False  # it was moved: its scripts name the old place
        program = "import pip, sys; print(*sys.version_info[:2])"
        done = subprocess.run([self.python, "-c", program], capture_output=True, text=True)
        return done.stdout.split() == [str(part) for part in sys.version_info[:2]]

    def _create(self) -> None:
        """Make the environment afresh."""
        print(f"making {self.folder.name} with Python {sys.version.split()[0]}", flush=True)
        command = [self.base_python, "-m", "venv", "--clear", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stdout + done.stderr
            if "ensurepip is not available" in said or "No module named" in said:
                raise UserError(
                    f"{self.base_python} cannot make virtual environments; install its venv "
                    "module (Debian, Ubuntu: apt install python3-venv) or name another Python "
                    "with PYTHON="
                )
            raise explained(said, self.folder, self.folder)

    def _install(self, extras: Sequence[str]) -> None:
        names = [name for name in extras if name != BASE] or [BASE]
        for name in extras:
            (self.stamps / name).unlink(missing_ok=True)
        requirements = sorted({r for extra in extras for r in self.requirements[extra]})
        command = [
            *(str(self.python), "-m", "pip", "install", "--no-input"),
            *("--disable-pip-version-check", "--progress-bar", "off"),
            *("--constraint", str(self._constraints), *requirements),
        ]
        started = time.monotonic()
        print(f"installing {', '.join(names)} into {self.folder.name}", flush=True)
        self._unfinished.touch()
        status, said = self._watch(command)
        if status:
            error = explained(said, self.folder, self.log)
            if "no space left" not in str(error):  # else files may have been cut short
                self._unfinished.unlink()
            raise error
        (self._site() / LINK).write_text(f"{self.root}\n")
        self.stamps.mkdir(exist_ok=True)
        for name in extras:
            (self.stamps / name).write_text(self._stamp(name))
        self._unfinished.unlink()
        print(f"installed {', '.join(names)} in {time.monotonic() - started:.0f} s", flush=True)

    def _watch(self, command: Sequence[str]) -> tuple[int, str]:
        """Run pip with its output in the log; show what it is at."""
        said: list[str] = []
        shown = time.monotonic()
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns - 1
        with (
            open(self.log, "w") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as pip,
        ):
            assert pip.stdout is not None
            for line in pip.stdout:
                said.append(line)
                log.write(line)
                log.flush()
                activity = re.match(r"\s*(Collecting|Downloading|Installing|Building)\b.*", line)
                if activity is None:
                    continue
                text = "  " + activity[0].strip()
                if terminal:
                    print(f"\r\033[K{text[:width]}", end="", flush=True)
                elif time.monotonic() - shown > HEARTBEAT or "Installing" in text:
                    print(text[:100], flush=True)
                    shown = time.monotonic()
        if terminal:
            print("\r\033[K", end="", flush=True)
        return pip.returncode, "".join(said)


def explained(said: str, folder: Path, log: Path) -> UserError:
    """What went wrong, from the output of venv or pip, and what to do about it."""
    if "No space left on device" in said or "Errno 28" in said:
        free = shutil.disk_usage(folder.parent).free // 2**20
        return UserError(
            f"no space left on the disk ({free} MiB free at {folder.parent}); free some (Torch "
            "needs about 2 GB; TMPDIR= names another place for downloads) and run the same "
            "command again"
        )
    if any(sign in said for sign in _NETWORK):
        return UserError(
            "the package index cannot be reached; check the network (or the proxy) and run the "
            f"same command again (log: {log})"
        )
    unknown = re.search(r"satisfies the requirement (\S+) \(from versions: none\)", said)
    if unknown:
        return UserError(
            f"pip finds no version of {unknown[1]} at all; check the network, the proxy and the "
            f"package index, and run the same command again (log: {log})"
        )
    errors = [line.strip() for line in said.splitlines() if line.strip().startswith("ERROR:")]
    last = errors[0].removeprefix("ERROR:").strip() if errors else said.strip()[-200:]
    return UserError(f"pip could not install the packages: {last} (log: {log})")


# -- what is wanted ---------------------------------------------------------------------------


def wanted(arguments: argparse.Namespace, papers: Path = manifest.PAPERS) -> list[str]:
    """The extras that the command line asks for.

    Raises:
        UserError: for an unknown paper or scale, with the nearest names, before anything is done.
    """
    extras = list(arguments.extra)
    if arguments.paper is not None:
        if not arguments.paper:
            raise UserError(
                "which paper? make … PAPER=<paper>, one of: " + ", ".join(manifest.slugs(papers))
            )
        paper = manifest.load(arguments.paper, papers)
        if arguments.scale is not None:
            choose(f"scale of {paper.slug}", arguments.scale, paper.scales)
        extras.append(paper.extra)
    if arguments.all:
        extras += [manifest.load(slug, papers).extra for slug in manifest.slugs(papers)]
        extras += TOOLS
    if arguments.executor is not None:
        choose("executor", arguments.executor, ["local", "ray"])
        extras += ["cluster"] if arguments.executor == "ray" else []
        extras += ["track"] if os.environ.get("TRACK") == "tensorboard" else []
    return extras


def cli(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.setup_env", description=__doc__)
    parser.add_argument("--paper", help="the extra that this paper names in its manifest")
    parser.add_argument("--scale", help="check that the paper has this scale")
    parser.add_argument("--executor", help="what this executor needs besides")
    parser.add_argument("--extra", nargs="*", default=[], help="extras of pyproject.toml")
    parser.add_argument("--all", action="store_true", help="what the tests of all papers need")
    options = parser.parse_args(arguments)
    guarded(lambda: Environment().ensure(wanted(options)))
