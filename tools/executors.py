"""Where jobs run: on this machine's cores (``local``) or as Ray tasks (``ray``).

An executor gets jobs and yields each as it ends. It knows nothing of what a job computes.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common import files
from common.cli import PARENT_VARIABLE
from common.errors import UserError
from common.run import unchanged
from tools.manifest import ROOT, Job

NOT_SHIPPED = ("lock", "tensorboard", "wandb")


@dataclass
class Outcome:
    """How a job ended."""

    job: Job
    ok: bool
    seconds: float
    message: str = ""  # last line of the log of a job that failed


class Executor(Protocol):
    """Runs jobs; ``cores`` is how many it has at hand."""

    cores: int

    def run(self, jobs: Sequence[Job], device: str) -> Iterator[Outcome]:
        """Run the jobs, in this order as far as there is room, and yield each as it ends."""
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
    """Whether training is finished, by the code as it is now."""
    return (folder / "finished.json").is_file() and unchanged(_sources(folder / "sources.json"))


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
        and unchanged(evaluation.get("sources", {}))
    )


def prepare(job: Job, folder: Path, device: str) -> None:
    """Make the run directory; one of another command, device or code is moved aside."""
    wanted, made_by = identity(job, device), made_for(folder)
    if folder.exists():
        other = made_by is not None and made_by != wanted
        begun = (folder / "config.json").exists()
        trusted = made_by is not None and unchanged(_sources(folder / "sources.json"))
        if other or (begun and not trusted):
            stale = folder.with_name(folder.name + ".stale")
            shutil.rmtree(stale, ignore_errors=True)
            folder.rename(stale)
    folder.mkdir(parents=True, exist_ok=True)
    if _read(folder / "job.json") != wanted:
        files.write_json(folder / "job.json", wanted)


def _read(path: Path) -> Any:
    try:
        return files.read_json(path)
    except (OSError, UserError):
        return None


def _sources(path: Path) -> dict[str, str]:
    found = _read(path)
    return found if isinstance(found, dict) else {}


def _start(
    command: Sequence[str], folder: Path, threads: int, extra: dict[str, str]
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT),
        **{f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")},
        **extra,
    }
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _last_line(folder: Path) -> str:
    path = folder / "log.txt"
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it printed nothing"


# -- this machine -----------------------------------------------------------------------------


class Local:
    """A pool of processes that shares the cores out: jobs times threads never exceeds them."""

    def __init__(self, root: Path, cores: int | None = None) -> None:
        self.root = root
        self.cores = cores or available_cores()

    def run(self, jobs: Sequence[Job], device: str) -> Iterator[Outcome]:
        """See :class:`Executor`. Ends its processes when the caller stops early."""
        gpus = _visible_gpus() if device.startswith("cuda") else []
        load = dict.fromkeys(gpus, 0.0)
        waiting = list(jobs)
        running: list[_Running] = []
        try:
            while waiting or running:
                free = self.cores - sum(r.threads for r in running)
                for job in list(waiting):
                    threads = min(job.threads, self.cores)
                    share = (job.gpus or 0.25) if gpus else 0.0
                    gpu = min(load, key=lambda g: load[g]) if gpus else None
                    if threads > free or (gpu is not None and load[gpu] + share > 1):
                        continue
                    folder = self.root / job.name
                    prepare(job, folder, device)
                    extra = {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
                    if gpu is not None:
                        load[gpu] += share
                    running.append(
                        _Running(job, folder, commands(job, folder, device), threads, extra, share)
                    )
                    waiting.remove(job)
                    free -= threads
                for item in list(running):
                    outcome = item.poll()
                    if outcome is not None:
                        running.remove(item)
                        if item.share:
                            load[item.extra["CUDA_VISIBLE_DEVICES"]] -= item.share
                        yield outcome
                time.sleep(0.02)
        finally:
            for item in running:
                item.stop()


class _Running:
    """A job's processes, one after the other."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        left: list[list[str]],
        threads: int,
        extra: dict[str, str],
        share: float,
    ) -> None:
        self.job, self.folder, self.left, self.threads = job, folder, left, threads
        self.extra, self.share = extra, share
        self.started = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None

    def poll(self) -> Outcome | None:
        """Start the next process if the one before ended well; the outcome when all ended."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return None
            if status != 0:
                return self._outcome(False, _last_line(self.folder))
        if not self.left:
            return self._outcome(True)
        self.process = _start(self.left.pop(0), self.folder, self.threads, self.extra)
        return None

    def _outcome(self, ok: bool, message: str = "") -> Outcome:
        return Outcome(self.job, ok, time.monotonic() - self.started, message)

    def stop(self) -> None:
        """End the process; its run directory stays resumable."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


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

    def run(self, jobs: Sequence[Job], device: str) -> Iterator[Outcome]:
        """See :class:`Executor`."""
        ray = self._ray
        remote = ray.remote(max_retries=self.RETRIES)(run_shipped)
        pending = {}
        for job in jobs:
            folder = self.root / job.name
            prepare(job, folder, device)
            gpus = (job.gpus or 0.25) if device.startswith("cuda") else 0
            task = remote.options(num_cpus=min(job.threads, self.cores), num_gpus=gpus)
            reference = task.remote(job, pack(folder), device)
            pending[reference] = (job, folder)
        try:
            while pending:
                (reference,), _ = ray.wait(list(pending), num_returns=1)
                job, folder = pending.pop(reference)
                try:
                    ok, seconds, message, data = ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Outcome(job, False, 0.0, str(error).strip().splitlines()[0])
                    continue
                unpack(data, folder)
                yield Outcome(job, ok, seconds, message)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def run_shipped(job: Job, data: bytes, device: str) -> tuple[bool, float, str, bytes]:
    """Body of a Ray task: unpack the run directory, do what is left, pack it again.

    A try on a node where an earlier one died goes on from what that one left.
    """
    started = time.monotonic()
    key = hashlib.sha256(repr((job, data)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"papers-{os.getuid()}" / key
    if not folder.exists():
        unpack(data, folder)
    for command in commands(job, folder, device):
        process = _start(command, folder, job.threads, {})
        if process.wait() != 0:
            return False, time.monotonic() - started, _last_line(folder), pack(folder)
    packed = pack(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return True, time.monotonic() - started, "", packed


def pack(folder: Path) -> bytes:
    """The run directory as a tar archive in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in NOT_SHIPPED and not path.name.endswith(".tmp"):
                archive.add(path, path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Put a packed run directory at ``folder``, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(fresh, filter="data")
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)
