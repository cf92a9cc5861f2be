"""A process that has imported the heavy packages and from which jobs are forked.

``import torch`` with its compiler takes two seconds of a core, many a job of a smoke run less. A
job that is forked has them already and is otherwise the process that ``python -m module`` would be.
The server part runs as ``python -m tools.nursery MODULE … -- PACKAGE …``, with the modules that
will be run and the packages that their manifest lists. It reads what they import, within functions
only of those packages, and imports of that what is heavy alone: neither ``common`` nor
``papers``, so that what a job records of the code it has used is the same either way, and no
package that may set anything when it is imported.
"""

import ast
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# What is imported beforehand, where the modules that will be run import it: heavy packages. Torch's
# optimisers import its compiler in the middle of work.
BEFOREHAND = {
    "matplotlib.pyplot": ("matplotlib.pyplot", "matplotlib.backends.backend_agg"),
    "numba": ("numba",),
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "safetensors.numpy": ("safetensors.numpy",),
    "scipy.stats": ("scipy.stats",),
    "sklearn.datasets": ("sklearn.datasets",),
    "torch": ("torch", "torch._dynamo"),
    "tyro": ("tyro",),
}
OWN = ("common", "papers")  # packages whose imports are read
# Of pyarrow, which pandas imports: a process with threads is not forked.
QUIET = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
POLL = 0.02  # seconds between two looks at what has ended
LOST = 254  # status of a job whose nursery is gone


# -- the runner's side ------------------------------------------------------------------------


class Nursery:
    """Starts jobs by forking. Usable only where :func:`possible` says so."""

    def __init__(
        self,
        modules: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        packages: Sequence[str] = (),
    ) -> None:
        """A nursery for ``python -m`` of these modules, which need these packages."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tools.nursery", *modules, "--", *packages],
            cwd=cwd,
            env={**environment, **QUIET, "PAPERS_NURSERY_PARENT": str(os.getpid())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._server.stdout is not None
        os.set_blocking(self._server.stdout.fileno(), False)
        self._received = b""
        self._started: dict[int, int] = {}  # number of the request -> process id
        self._ended: dict[int, int] = {}  # number of the request -> exit status
        self._requests = 0

    @property
    def pid(self) -> int:
        """Process id: the parent of all jobs that are started here."""
        return self._server.pid

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._server.poll() is None

    def start(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> "Forked":
        """Begin ``python <arguments>`` (``-m module …``) with its output appended to ``log``.

        Raises:
            OSError: if the nursery is gone.
        """
        self._requests += 1
        request = {"number": self._requests, "arguments": list(arguments)}
        line = json.dumps({**request, "log": str(log), "environment": dict(environment)})
        assert self._server.stdin is not None
        self._server.stdin.write(line.encode() + b"\n")
        self._server.stdin.flush()
        return Forked(self, self._requests)

    def status(self, number: int) -> int | None:
        """Exit status of a job, or None while it runs."""
        alive = self.alive  # before reading: what it said last is still read
        assert self._server.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while data := self._server.stdout.read():
                self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            event = json.loads(line)
            if "status" in event:
                self._ended[event["number"]] = event["status"]
            else:
                self._started[event["number"]] = event["pid"]
        if number not in self._ended and not alive:
            self._ended[number] = LOST
        return self._ended.get(number)

    def process_of(self, number: int) -> int | None:
        """Process id of a job that has begun, or None."""
        self.status(number)
        return self._started.get(number)

    def close(self) -> None:
        """End the nursery, and with it what is left of its jobs."""
        self._server.kill()
        self._server.wait()
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Forked:
    """A job in a nursery, with what is needed of ``subprocess.Popen``."""

    def __init__(self, nursery: Nursery, number: int) -> None:
        self._nursery, self._number = nursery, number

    def poll(self) -> int | None:
        """Exit status (negative: the signal that ended it), or None while it runs."""
        return self._nursery.status(self._number)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, when it has ended.

        Raises:
            subprocess.TimeoutExpired: if it goes on for longer than ``timeout`` seconds.
        """
        begun = time.monotonic()
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() > begun + timeout:
                raise subprocess.TimeoutExpired("job", timeout)
            time.sleep(POLL)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has begun and not ended."""
        if self.poll() is None and (pid := self._nursery.process_of(self._number)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def possible(device: str) -> bool:
    """Whether jobs can be forked: on Linux, without a GPU (CUDA does not survive a fork)."""
    return (
        sys.platform == "linux" and device == "cpu" and os.environ.get("PAPERS_NURSERY", "1") != "0"
    )


# -- the server -------------------------------------------------------------------------------


def imported_by(modules: Iterable[str], root: Path, packages: Sequence[str] = ()) -> set[str]:
    """What these modules import at their top level, by way of this repository's own modules too.

    Args:
        modules: names; those that have no file below ``root`` are left out.
        root: the folder that holds them.
        packages: of these, imports within functions count, too.

    Returns:
        Names of modules, and of what may be one: ``a`` and ``a.b`` for ``from a import b``.
    """
    found: set[str] = set()
    waiting = list(modules)
    read: set[str] = set()
    while waiting:
        name = waiting.pop()
        base = root.joinpath(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if name in read or not path.is_file():
            continue
        read.add(name)
        with contextlib.suppress(OSError, SyntaxError, ValueError):  # it will say so itself
            tree = ast.parse(path.read_bytes())
            named = set(_imports(tree.body))
            found |= named
            found |= {n for n in _imports(ast.walk(tree)) if n.split(".")[0] in packages}
            waiting += [each for each in named if each.split(".")[0] in OWN]
    return found


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def prepare(modules: Sequence[str], packages: Sequence[str] = ()) -> bool:
    """Import what can be imported; a job that needs what is broken will say so itself.

    Returns:
        Whether this process can be forked: it has no thread besides this one.
    """
    found = imported_by(modules, Path.cwd(), packages)
    for name in [each for key, names in BEFOREHAND.items() if key in found for each in names]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collections in a child leave what is shared alone
    return len(os.listdir("/proc/self/task")) == 1


def die_with(parent: int) -> None:
    """Be killed when the parent goes, however it goes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def serve(out: int) -> dict[str, Any]:
    """Fork a child per request and tell the runner on ``out``; returns, in a child, the request."""
    running: dict[int, int] = {}
    received = b""
    reading = True
    while reading or running:
        ready, _, _ = select.select([0] if reading else [], [], [], POLL if running else None)
        if ready:
            data = os.read(0, 65536)
            reading = bool(data)
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                me = os.getpid()
                if (pid := os.fork()) == 0:
                    die_with(me)
                    os.close(out)
                    return dict(request)
                running[pid] = request["number"]
                say(out, {"number": request["number"], "pid": pid})
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            say(out, {"number": running.pop(pid), "status": code})
    os._exit(0)


def say(out: int, event: Mapping[str, Any]) -> None:
    """Tell the runner."""
    os.write(out, json.dumps(event).encode() + b"\n")


def become(request: Mapping[str, Any]) -> None:
    """Be the process that ``python -m module …`` would be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.excepthook = sys.__excepthook__
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    _, module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(arguments: Sequence[str]) -> None:
    """Prepare, then serve for ever; in a child, do its work and return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner and the jobs
    die_with(int(os.environ.pop("PAPERS_NURSERY_PARENT")))
    out = os.dup(1)
    os.dup2(2, 1)  # whatever packages print when they are imported
    end = arguments.index("--")
    if not prepare(arguments[:end], arguments[end + 1 :]):
        os._exit(1)
    become(serve(out))


if __name__ == "__main__":
    main(sys.argv[1:])
