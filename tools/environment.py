"""The virtual environment ``.venv``: what is in it, what is missing, how it gets there.

Standard library only: this runs before anything is installed. Extras of ``pyproject.toml``
accumulate in one environment at the versions of ``constraints.txt``, by uv or by pip. A stamp per
extra says for which requirements it was installed; while the stamps fit, nothing is done. A stamp
is written after the packages are in, and an installation that was killed is begun anew. A folder
without stamps is somebody else's and is never touched.
"""

from __future__ import annotations

import argparse
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
# extras for modules that only some scales import
FOR_IMPORTS = {"torch_fidelity": "fid", "stable_baselines3": "peers", "lm_eval": "harness"}
TRACKERS = ("tensorboard", "wandb")  # values of $TRACK that need the extra "track"
INSTALLERS = ("pip", "uv")
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
    "error sending request",
    "dns error",
    "operation timed out",
    "ProxyError",
)


class Environment:
    """A virtual environment below ``root``, made for the ``pyproject.toml`` there.

    Args:
        root: the repository.
        python: the Python to make it with; default: the one that runs this.
        folder: where it is to be instead of ``root/.venv``; relative to ``root``.
        installer: "pip" or "uv"; default: uv where it is installed, unless pip has been told of an
            index or folder of its own, of which uv would not know.
    """

    def __init__(
        self,
        root: Path = ROOT,
        python: str | None = None,
        folder: str | Path = ".venv",
        installer: str | None = None,
    ) -> None:
        self.root = root
        # What makes the environment must not lie in it.
        self.base_python: str = python or getattr(sys, "_base_executable", "") or sys.executable
        self.folder = root / Path(folder).expanduser()
        self._asked = installer
        self.python = self.folder / "bin" / "python"
        self.stamps = self.folder / "stamps"
        self.log = self.folder / "install.log"
        self._unfinished = self.folder / "unfinished"  # there while it is being made or filled
        self._constraints = root / "constraints.txt"
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        self.requirements: dict[str, list[str]] = {
            BASE: project["dependencies"],
            **project["optional-dependencies"],
        }

    # -- what is there ------------------------------------------------------------------------

    def _stamp(self, extra: str) -> str:
        """What identifies an installation of ``extra``."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        parts = [version, str(self.root), self._constraints.read_text("utf-8")]
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
            self._refuse_foreign()
            installer = self.installer()
            if not self._sound(installer):
                self._create(installer)
            self._install(missing, installer)

    def installer(self) -> str:
        """What installs: "uv" or "pip".

        Raises:
            UserError: if the one that was asked for is unknown or is not there.
        """
        if self._asked:
            choose("installer", self._asked, INSTALLERS)
            if self._asked == "uv" and shutil.which("uv") is None:
                raise UserError("there is no uv on PATH; install it, or leave INSTALLER= away")
            return self._asked
        return "uv" if shutil.which("uv") and not self._pip_has_own_sources() else "pip"

    def _pip_has_own_sources(self) -> bool:
        """Whether pip's configuration names an index or a folder of wheels."""
        command = [self.base_python, "-m", "pip", "config", "list"]
        done = subprocess.run(command, capture_output=True, text=True)
        keys = [line.split("=")[0].rpartition(".")[2] for line in done.stdout.splitlines()]
        return any(k in ("index-url", "extra-index-url", "find-links", "no-index") for k in keys)

    def _refuse_foreign(self) -> None:
        """Stop if what is at ``folder`` was not made here, so that nothing of others is lost."""
        if not os.path.lexists(self.folder):
            return
        way_out = "move it away, or name another place with VENV="
        if not (self.stamps.is_dir() or self._unfinished.exists()):
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                return
            raise UserError(
                f"{self.folder} was not made by make and is left as it is; {way_out}, or install "
                "the packages into it and use 'python -m tools.reproduce PAPER' directly"
            )
        for path in self.folder.glob(f"lib/python*/site-packages/{LINK}"):
            owner = Path(path.read_text("utf-8").rstrip("\n"))
            theirs = owner / ".venv"
            if owner != self.root and theirs.exists() and theirs.samefile(self.folder):
                raise UserError(f"{self.folder} belongs to the checkout at {owner}; {way_out}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One installation at a time."""
        # Not filelock, which is a package; tools.setup_env has turned Windows away.
        import fcntl

        with open(self.root / "pyproject.toml", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another installation to end", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sound(self, installer: str) -> bool:
        """Whether there is an environment of this Python's version, left whole, fit to install."""
        if not self.python.exists() or self._unfinished.exists():
            return False
        if any(path.read_text("utf-8") != f"{self.root}\n" for path in self._site().glob(LINK)):
            return False  # it was moved: its scripts name the old place
        program = "import sys; print(*sys.version_info[:2])"
        done = subprocess.run([self.python, "-c", program], capture_output=True, text=True)
        if done.stdout.split() != [str(part) for part in sys.version_info[:2]]:
            return False
        return installer == "uv" or self._has_pip()

    def _has_pip(self) -> bool:
        """Whether the environment has a pip, or can be given one: uv makes it without."""
        return any(
            subprocess.run([self.python, *command], capture_output=True).returncode == 0
            for command in (["-c", "import pip"], ["-m", "ensurepip"])
        )

    def _create(self, installer: str) -> None:
        """Make the environment afresh."""
        print(f"making {self.folder.name} with Python {sys.version.split()[0]}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._unfinished.touch()  # from here on it is ours
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self._unfinished:
                path.unlink()
        command = [self.base_python, "-m", "venv", str(self.folder)]
        if installer == "uv":
            command = ["uv", "venv", "--quiet", "--allow-existing"]
            command += ["--python", self.base_python, str(self.folder)]
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
        self.stamps.mkdir(exist_ok=True)

    def _install(self, extras: Sequence[str], installer: str) -> None:
        names = [name for name in extras if name != BASE] or [BASE]
        for name in extras:
            (self.stamps / name).unlink(missing_ok=True)
        requirements = sorted({r for extra in extras for r in self.requirements[extra]})
        if installer == "uv":
            command = ["uv", "pip", "install", "--python", str(self.python)]
        else:
            command = [str(self.python), "-m", "pip", "install", "--no-input", "--no-compile"]
            command += ["--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--constraint", str(self._constraints), *requirements]
        started = time.monotonic()
        print(f"installing {', '.join(names)} into {self.folder.name} by {installer}", flush=True)
        self._unfinished.touch()
        status, said = self._watch(command)
        if status:
            error = explained(said, self.folder, self.log)
            if "no space left" not in str(error):  # else files may have been cut short
                self._unfinished.unlink()
            raise error
        self._compile()
        (self._site() / LINK).write_text(f"{self.root}\n", "utf-8")
        for name in extras:
            (self.stamps / name).write_text(self._stamp(name))
        self._unfinished.unlink()
        print(f"installed {', '.join(names)} in {time.monotonic() - started:.0f} s", flush=True)

    def _compile(self) -> None:
        """Compile what was installed on all cores: pip takes one, uv leaves it to the first use.

        Some packages hold files for other Pythons, so its exit status says nothing.
        """
        command = [str(self.python), "-m", "compileall", "-q", "-j", "0", str(self._site())]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _watch(self, command: Sequence[str]) -> tuple[int, str]:
        """Run the installer with its output in the log; show what it is at."""
        said: list[str] = []
        shown = time.monotonic()
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns - 1
        with (
            open(self.log, "w", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                log.write(line)
                log.flush()
                activity = re.match(
                    r"\s*(Collecting|Download|Install|Build|Resolved|Prepared)\w*\b.*", line
                )
                if activity is None:
                    continue
                text = "  " + activity[0].strip()
                if terminal:
                    print(f"\r\033[K{text[:width]}", end="", flush=True)
                elif time.monotonic() - shown > HEARTBEAT or "Install" in text:
                    print(text[:100], flush=True)
                    shown = time.monotonic()
        if terminal:
            print("\r\033[K", end="", flush=True)
        return process.returncode, "".join(said)


def explained(said: str, folder: Path, log: Path) -> UserError:
    """What went wrong, from the output of venv, pip or uv, and what to do about it."""
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
    _, uv_failed, reason = said.partition("No solution found when resolving dependencies")
    if uv_failed:
        last = re.sub(r"^\W*(cause:)?\W*|\s*╰─▶", "", " ".join(reason.split()))
    else:
        errors = re.findall(r"^\s*error:\s*(.*)", said, re.IGNORECASE | re.MULTILINE)
        last = errors[0] if errors else " ".join(said.split())[-200:]
    return UserError(f"the packages could not be installed: {last} (log: {log})")


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
        extras += of_papers(arguments, papers)
    if arguments.all:
        every = manifest.slugs(papers, drafts=True)
        extras += [manifest.load(slug, papers).extra for slug in every]
        extras += TOOLS
    if arguments.executor is not None:
        choose("executor", arguments.executor, ["local", "ray"])
        extras += ["cluster"] if arguments.executor == "ray" else []
        extras += ["track"] if os.environ.get("TRACK") in TRACKERS else []
    return extras


def of_papers(arguments: argparse.Namespace, papers: Path) -> list[str]:
    """The extras of the paper that is named, or of all papers, for the scale if one is named.

    Raises:
        UserError: for an unknown paper or scale, or if the paper lacks the file asked for.
    """
    slug, scale, file = arguments.paper, arguments.scale, arguments.file
    if slug == "all":
        papers_meant = [manifest.load(name, papers) for name in manifest.slugs(papers)]
        if scale is not None:
            there = dict.fromkeys(name for paper in papers_meant for name in paper.scales)
            choose("scale of any paper", scale, there)
            papers_meant = [paper for paper in papers_meant if scale in paper.scales]
    else:
        papers_meant = [manifest.load(slug, papers)]
        if scale is not None:
            choose(f"scale of {slug}", scale, papers_meant[0].scales)
    if file is not None and not (papers / slug / file).is_file():
        having = [name for name in manifest.slugs(papers) if (papers / name / file).is_file()]
        raise UserError(f"{slug} has no {file}; PAPER= one of: {', '.join(having)}")
    extras = [paper.extra for paper in papers_meant]
    if scale is not None:
        imports = [module for paper in papers_meant for module in paper.needs(scale).imports]
        extras += [FOR_IMPORTS[module] for module in imports if module in FOR_IMPORTS]
    return list(dict.fromkeys(extras))


def cli(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.setup_env", description=__doc__)
    parser.add_argument("--paper", help="the extra that this paper, or 'all', has in its manifest")
    parser.add_argument("--scale", help="check that the paper has this scale")
    parser.add_argument("--file", help="check that the paper has this file")
    parser.add_argument("--executor", help="what this executor needs besides")
    parser.add_argument("--extra", nargs="*", default=[], help="extras of pyproject.toml")
    parser.add_argument("--all", action="store_true", help="what the tests of all papers need")
    parser.add_argument("--venv", default=".venv", help="where the environment is")
    parser.add_argument("--installer", help="pip or uv; default: uv, if it is there")
    options = parser.parse_args(arguments)
    guarded(
        lambda: Environment(folder=options.venv, installer=options.installer).ensure(
            wanted(options)
        )
    )
