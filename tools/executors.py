"""Where jobs run: on this machine's cores (``local``) or as Ray tasks (``ray``).

An executor gets jobs and yields each as it ends. It knows nothing of what a job computes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common import files
from common.cli import PARENT_VARIABLE
from common.errors import EXIT_NO_SPACE, UserError
from common.run import unchanged
from tools import nursery
from tools.manifest import ROOT, Job

NOT_SHIPPED = ("lock", "tensorboard", "wandb")
LARGEST_SHIPMENT = 16 * 2**30  # bytes of an unpacked run directory
NUMBA_CACHE = "numba-cache"  # used once the cache beside the code has turned out to be damaged


@dataclass
class Outcome:
    """How a job ended."""

    job: Job
    ok: bool
    seconds: float
    message: str = ""  # why, if it failed


class Watch(Protocol):
    """Looks on while jobs run."""

    def running(self, jobs: Sequence[Job]) -> None:
        """Gets the running jobs, several times a second.

        Whatever it raises ends them; they stay resumable.
        """
        ...

    def fits(self, job: Job) -> bool:
        """Whether the job may begin now; one that may not is left away."""
        ...


class Executor(Protocol):
    """Runs jobs; ``cores`` is how many it has at hand."""

    cores: int

    def run(self, jobs: Sequence[Job], device: str, watch: Watch) -> Iterator[Outcome]:
        """Run the jobs, in this order as far as there is room, and yield each as it ends."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


# -- one job, wherever it runs ----------------------------------------------------------------


def commands(job: Job, folder: Path, device: str) -> list[list[str]]:
    """What is left to do for a job: its training and its evaluation, each if needed."""
    left = []
    if not trained(folder):
        left.append([*job.command, "--out", str(folder), "--device", device])
    if job.evaluated:
        left.append(["-m", f"papers.{job.paper}.eval", "--run", str(folder), "--device", device])
    return left


def trained(folder: Path) -> bool:
    """Whether training is finished, by the code as it is now, and its configuration is whole."""
    return (
        (folder / "finished.json").is_file()
        and isinstance(_read(folder / "config.json"), dict)
        and unchanged(_sources(folder / "sources.json"))
    )


def identity(job: Job, device: str) -> dict[str, Any]:
    """What a run directory is the run of: a command, on a kind of device."""
    return {"command": job.command, "device": device.split(":")[0]}


def made_for(folder: Path) -> Any:
    """The identity that a run directory was made for, or None."""
    found = _read(folder / "job.json")
    return {"device": "cpu", **found} if isinstance(found, dict) else None


def done(job: Job, folder: Path, device: str) -> bool:
    """Whether nothing is left to do: same command and device, same code, whole files."""
    if made_for(folder) != identity(job, device):
        return False
    if not job.evaluated:
        return trained(folder)
    evaluation = _read(folder / "eval.json")
    return (
        trained(folder)
        and isinstance(evaluation, dict)
        and evaluation.get("digest") == files.rows_digest(evaluation)
        and unchanged(_dictionary(evaluation.get("sources")))
    )


def prepare(job: Job, folder: Path, device: str) -> None:
    """Make the run directory; one of another command, device or code is moved aside.

    So is one whose configuration cannot be read: what it is the run of is not known.
    """
    wanted, made_by = identity(job, device), made_for(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{folder} is no folder; remove it and run the same command again")
    if folder.exists():
        other = made_by is not None and made_by != wanted
        begun = (folder / "config.json").exists()
        trusted = made_by is not None and unchanged(_sources(folder / "sources.json"))
        whole = isinstance(_read(folder / "config.json"), dict)
        if other or (begun and not (trusted and whole)):
            stale = folder.with_name(folder.name + ".stale")
            shutil.rmtree(stale, ignore_errors=True)
            folder.rename(stale)
    folder.mkdir(parents=True, exist_ok=True)
    if _read(folder / "job.json") != wanted:
        files.write_json(folder / "job.json", wanted)


def progress_of(folder: Path) -> dict[str, Any]:
    """What a running job says of itself: step, total, seconds, rate, loss; empty if nothing."""
    return _dictionary(_read(folder / "progress.json"))


def _read(path: Path) -> Any:
    try:
        return files.read_json(path)
    except (OSError, UserError, RecursionError):
        return None


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sources(path: Path) -> dict[str, str]:
    return _dictionary(_read(path))


class Running:
    """A job's processes, one after the other.

    Two kinds of failure are tried once more: numba's cache on disk is damaged (again with a cache
    of the runner's own, for good), and an evaluation found the finished run damaged (it takes away
    the mark of a finished run, and training goes on from what is whole).
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        device: str,
        threads: int,
        cache: Path,
        gpu: str | None = None,
        share: float = 0.0,
        nurseries: Nurseries | None = None,
    ) -> None:
        self.job, self.folder, self.device, self.threads = job, folder, device, threads
        self.cache, self.gpu, self.share = cache, gpu, share
        self.nurseries = nurseries
        self.started = time.monotonic()
        self.process: subprocess.Popen[bytes] | nursery.Forked | None = None
        self._tried: set[str] = set()
        self._log_start = 0
        self._begin()

    def _begin(self) -> None:
        prepare(self.job, self.folder, self.device)
        self._left = commands(self.job, self.folder, self.device)

    def poll(self) -> Outcome | None:
        """Start the next process if the one before ended well; the outcome when all ended."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return None
            self.process = None
            if status != 0:
                said = _text(self.folder / "log.txt")[self._log_start :]
                if not self._worth_another_try(status, said):
                    return self._outcome(False, why(status, said, self.folder))
                self._begin()
                return None
        if not self._left:
            return self._outcome(True)
        self.process = self._start(self._left.pop(0))
        return None

    def _worth_another_try(self, status: int, said: str) -> bool:
        if status == nursery.LOST and self.nurseries is not None:
            self.nurseries = None
            return True
        if damaged_cache(status, said) and "cache" not in self._tried:
            self._tried.add("cache")
            if self._caching:  # with the runner's own cache: that one is damaged, too
                shutil.rmtree(self.cache, ignore_errors=True)
            self.cache.mkdir(parents=True, exist_ok=True)
            return True
        marked = (self.folder / "finished.json").is_file()
        if self._evaluating and not marked and "run" not in self._tried:
            self._tried.add("run")
            return True
        return False

    @staticmethod
    def _is_evaluation(command: Sequence[str]) -> bool:
        return command[1].endswith(".eval")

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes] | nursery.Forked:
        self._evaluating = self._is_evaluation(command)
        self._caching = self.cache.is_dir()
        environment = job_environment(self.threads)
        environment |= {"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu is not None else {}
        environment |= {"NUMBA_CACHE_DIR": str(self.cache)} if self._caching else {}
        log = self.folder / "log.txt"
        self._log_start = len(_text(log))
        if self.nurseries is not None and not self._caching:  # numba reads its variables early
            forked = self.nurseries.start(command, log, self.threads, environment)
            if forked is not None:
                return forked
        with open(log, "ab") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def _outcome(self, ok: bool, message: str = "") -> Outcome:
        return Outcome(self.job, ok, time.monotonic() - self.started, message)

    def stop(self, seconds: float = 5.0) -> None:
        """End the process; its run directory stays resumable."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def job_environment(threads: int) -> dict[str, str]:
    """Environment of a job's process."""
    return {
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT),
        "PYTHONUTF8": "1",
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")},
    }


class Nurseries:
    """Processes to fork jobs from, one for each number of threads (libraries read it early)."""

    def __init__(self, modules: Sequence[str], packages: Sequence[str] = ()) -> None:
        self.modules, self.packages = modules, packages  # that jobs run; that they need
        self._by_threads: dict[int, nursery.Nursery] = {}

    def start(
        self, command: Sequence[str], log: Path, threads: int, environment: dict[str, str]
    ) -> nursery.Forked | None:
        """Begin a process; None if that cannot be done by forking."""
        if command[0] != "-m":
            return None
        if threads not in self._by_threads:
            environment_there = job_environment(threads)
            begun = nursery.Nursery(self.modules, environment_there, ROOT, self.packages)
            self._by_threads[threads] = begun
        chosen = self._by_threads[threads]
        if not chosen.alive:
            return None
        try:
            return chosen.start(command, log, {**environment, PARENT_VARIABLE: str(chosen.pid)})
        except OSError:
            return None

    def close(self) -> None:
        """End them all."""
        for each in self._by_threads.values():
            each.close()


_CACHE_ERRORS = re.compile(
    r"numba.*(EOFError|UnpicklingError|pickle|no locator available|cannot cache function)",
    re.DOTALL,
)


def damaged_cache(status: int, said: str) -> bool:
    """Whether a process failed in numba's cache, or as machine code that is damaged does."""
    crashes = {-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS}
    return status in crashes or bool(_CACHE_ERRORS.search(said[-20_000:]))


def why(status: int, said: str, folder: Path) -> str:
    """Why a process failed, in one line, from its exit status and what it printed."""
    lines = said.strip().splitlines()
    if status == EXIT_NO_SPACE or shutil.disk_usage(folder).free < 2**20:
        return "no space left on the disk"
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return lines[-1] if lines else f"it ended with status {status} and printed nothing"


# -- this machine -----------------------------------------------------------------------------


class Local:
    """A pool of processes that shares the cores out: jobs times threads never exceeds them."""

    def __init__(
        self,
        root: Path,
        cores: int | None = None,
        modules: Sequence[str] = (),
        packages: Sequence[str] = (),
    ) -> None:
        """Run directories lie below ``root``; jobs run ``modules`` and need ``packages``."""
        self.root = root
        self.cores = cores or available_cores()
        self._nurseries = Nurseries(modules, packages)

    def close(self) -> None:
        """End what jobs are forked from."""
        self._nurseries.close()

    def run(self, jobs: Sequence[Job], device: str, watch: Watch) -> Iterator[Outcome]:
        """See :class:`Executor`. Ends its processes when the caller stops early."""
        nurseries = self._nurseries if nursery.possible(device) else None
        gpus = _visible_gpus() if device.startswith("cuda") else []
        load = dict.fromkeys(gpus, 0.0)
        waiting = list(jobs)
        running: list[Running] = []
        try:
            while waiting or running:
                free = self.cores - sum(r.threads for r in running)
                for job in list(waiting):
                    if not watch.fits(job):
                        waiting.remove(job)
                        continue
                    threads = min(job.threads, self.cores)
                    share = (job.gpus or 0.25) if gpus else 0.0
                    gpu = min(load, key=lambda g: load[g]) if gpus else None
                    if threads > free or (gpu is not None and load[gpu] + share > 1):
                        continue
                    if gpu is not None:
                        load[gpu] += share
                    cache = self.root / NUMBA_CACHE
                    folder = self.root / job.name
                    running.append(
                        Running(job, folder, device, threads, cache, gpu, share, nurseries)
                    )
                    waiting.remove(job)
                    free -= threads
                for item in list(running):
                    outcome = item.poll()
                    if outcome is not None:
                        running.remove(item)
                        if item.gpu is not None:
                            load[item.gpu] -= item.share
                        yield outcome
                watch.running([item.job for item in running])
                time.sleep(0.02)
        finally:
            for item in running:
                if item.process is not None and item.process.poll() is None:
                    item.process.send_signal(signal.SIGTERM)  # all at once, then wait for each
            for item in running:
                item.stop()


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed:
        return listed.split(",")
    try:
        text = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        raise UserError("no CUDA device is at hand; use DEVICE=cpu") from None
    return [str(index) for index, _ in enumerate(text.strip().splitlines())]


# -- Ray --------------------------------------------------------------------------------------


class RayCluster:
    """Each job a Ray task with its CPU and GPU needs, tried again when its worker dies.

    Connects to the cluster of ``$RAY_ADDRESS``, else starts Ray on this machine. Nodes need no
    shared file system: the code travels with the tasks, run directories travel both ways. They
    need the same Python environment at the same place.
    """

    RETRIES = 3

    def __init__(self, root: Path, cores: int | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError(
                "EXECUTOR=ray needs the package 'ray': make setup PAPER=<paper> EXECUTOR=ray"
            ) from None
        self.root = root
        self._ray = ray
        address = os.environ.get("RAY_ADDRESS")
        if not ray.is_initialized():
            # The code travels in the runtime environment, without what is made here.
            excludes = ["/runs", "/.venv", "/.git", "/dist", "/papers/*/results", "__pycache__"]
            ray.init(
                address=address,
                num_cpus=None if address else cores or available_cores(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"working_dir": str(ROOT), "excludes": excludes},
            )
        self.cores = int(ray.cluster_resources().get("CPU", 1))

    def run(self, jobs: Sequence[Job], device: str, watch: Watch) -> Iterator[Outcome]:
        """See :class:`Executor`."""
        ray = self._ray
        remote = ray.remote(max_retries=self.RETRIES)(run_shipped)
        pending = {}
        for job in filter(watch.fits, jobs):
            folder = self.root / job.name
            prepare(job, folder, device)
            gpus = (job.gpus or 0.25) if device.startswith("cuda") else 0
            task = remote.options(num_cpus=min(job.threads, self.cores), num_gpus=gpus)
            reference = task.remote(job, pack(folder), device)
            pending[reference] = (job, folder)
        try:
            while pending:
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
                watch.running([job for job, _ in pending.values()])
                for reference in ready:
                    job, folder = pending.pop(reference)
                    try:
                        ok, seconds, message, data = ray.get(reference)
                        unpack(data, folder)
                    except ray.exceptions.RayError as error:
                        yield Outcome(job, False, 0.0, str(error).strip().splitlines()[0])
                    except UserError as error:
                        yield Outcome(job, False, 0.0, f"what came back is not used: {error}")
                    else:
                        yield Outcome(job, ok, seconds, message)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Nothing: Ray stays for the next paper and ends with this process."""


def run_shipped(job: Job, data: bytes, device: str) -> tuple[bool, float, str, bytes]:
    """Body of a Ray task: unpack the run directory, do what is left, pack it again.

    A try on a node where an earlier one died goes on from what that one left.
    """
    started = time.monotonic()
    base = own_folder()
    folder = base / hashlib.sha256(repr((job, data)).encode()).hexdigest()[:16]
    if made_for(folder) != identity(job, device):
        shutil.rmtree(folder, ignore_errors=True)
        unpack(data, folder)
    try:
        item = Running(job, folder, device, job.threads, base / NUMBA_CACHE)
        while (outcome := item.poll()) is None:
            time.sleep(0.05)
        return outcome.ok, time.monotonic() - started, outcome.message, pack(folder)
    finally:  # a node that dies leaves it for the next try; whoever ends takes it away
        shutil.rmtree(folder, ignore_errors=True)


def own_folder() -> Path:
    """A node's folder for shipped work, which nobody else can write into.

    The temporary folder is everybody's: a folder of that name which is not ours, or is open to
    others, is left alone and another one is made.
    """
    base = Path(tempfile.gettempdir()) / f"papers-{os.getuid()}"
    try:
        base.mkdir(mode=0o700)
    except FileExistsError:
        about = base.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            return Path(tempfile.mkdtemp(prefix="papers-"))
    return base


def pack(folder: Path) -> bytes:
    """The run directory as a tar archive in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in NOT_SHIPPED and not path.name.endswith(".tmp"):
                archive.add(path, path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path, largest: int = LARGEST_SHIPMENT) -> None:
    """Put a packed run directory at ``folder``, whole or not at all.

    Raises:
        UserError: if it is damaged, would be larger than ``largest`` bytes, or reaches out of the
            folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        total = 0
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                total += max(member.size, 512)
                if total > largest:
                    raise UserError(f"a run directory of more than {largest >> 20} MiB")
                archive.extract(member, fresh, filter="data")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"a damaged run directory ({error or type(error).__name__})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
