"""A run directory: configuration, metrics as they come, checkpoints, evaluation.

``train.py`` opens it, names what it keeps, and goes through its steps::

    run = Run.open(cfg.out, cfg)
    kept = run.keep(net=net, optimizer=optimizer, generators=generators, found=found)
    for step in run.steps(cfg.steps):
        ...
        kept.found = mark(kept.found, objects)
        run.log(step + 1, loss=loss)

``eval.py`` loads it and writes its rows. A run can be killed at any moment: the next one goes on
from the last checkpoint with the metrics file cut back to the same moment, so on one machine it
ends with the numbers of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common import checkpoint, files, kept
from common.configs import instance_of, plain_of
from common.errors import UserError
from common.kept import Kept
from common.progress import Progress
from common.track import Tracker, tracker

C = TypeVar("C")

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS_BETWEEN_CHECKPOINTS = 20.0
SECONDS_FOR_THE_LOCK = 4.0  # a killed holder may take a moment to be gone
EVERY_VARIABLE = "PAPERS_CHECKPOINT_EVERY"  # steps between checkpoints, instead of seconds


def loaded_sources() -> dict[str, str]:
    """SHA-256 of each file of ``papers`` and ``common`` that this process has imported."""
    folders = tuple(f"{REPOSITORY / name}{os.sep}" for name in ("papers", "common"))
    names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    paths = {
        Path(name).relative_to(REPOSITORY).as_posix()
        for name in names
        if name and name.startswith(folders) and name.endswith(".py")
    }
    return {path: files.sha256((REPOSITORY / path).read_bytes()) for path in sorted(paths)}


def unchanged(sources: Mapping[str, str], root: Path = REPOSITORY) -> bool:
    """Whether each recorded source file is still what it was."""
    return bool(sources) and all(
        (root / path).is_file() and files.sha256((root / path).read_bytes()) == digest
        for path, digest in sources.items()
    )


class Run:
    """An open run directory. Make one by :meth:`open` (training) or :meth:`load` (evaluation)."""

    def __init__(self, folder: Path, *, lock: bool) -> None:
        self.folder = folder
        self._release = self._take_lock() if lock else _nothing
        self._metrics: typing.IO[bytes] | None = None
        self._digest = hashlib.sha256()  # of the metrics file so far
        self._bytes = 0
        self._tracker: Tracker | None = None
        self._started = time.monotonic()
        self._earlier_seconds = 0.0
        self._saved_at = time.monotonic()
        self._every = _checkpoint_every() if lock else None
        self._kept: Kept | None = None
        self._done = 0  # steps done by the loop of ``steps``
        self._total: int | None = None
        self._over = False  # nothing is left to do
        self._last = 0  # the highest step that was heard of
        self._config_sha256 = ""
        self._progress = Progress(folder)

    # -- opening ------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, config: Any) -> Run:
        """Create the run directory or reopen it, holding its lock.

        A directory that was begun by other code is moved to ``<folder>.stale`` and a new one
        begun, with a line that says so.

        Raises:
            UserError: if another process is at work there, or it holds another configuration.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, lock=True)
        plain = {k: v for k, v in plain_of(config).items() if k not in ("out", "device")}
        path = folder / "config.json"
        run._check_config(plain)
        if path.exists() and not unchanged(run._recorded_sources()):
            stale = folder.with_name(folder.name + ".stale")
            shutil.rmtree(stale, ignore_errors=True)
            run._release()
            folder.rename(stale)
            print(f"{folder} was begun by other code: moved to {stale.name}, begun anew")
            folder.mkdir()
            run = cls(folder, lock=True)
        if not path.exists():
            files.write_json(folder / "sources.json", loaded_sources())
            files.write_json(path, plain)
        run._config_sha256 = files.sha256(path.read_bytes())
        run._tracker = tracker(folder, plain)
        return run

    def _check_config(self, wanted: dict[str, Any]) -> None:
        """Compare ``config.json`` with the configuration that is wanted.

        Where the file is damaged or was altered, and the newest whole checkpoint was made with
        just the configuration that is wanted, it is written anew.

        Raises:
            UserError: if the run there has another configuration.
        """
        path = self.folder / "config.json"
        if not path.exists():
            return
        there, why = None, f"{path} is damaged; remove it and run the same command again"
        try:
            there = files.read_json(path)
        except UserError as error:
            why = str(error)
        if there == json.loads(json.dumps(wanted)):
            return
        made_with = self._made_with()
        if made_with == files.sha256(files.json_bytes(wanted)) or (
            made_with is None and not isinstance(there, dict)  # there is nothing to lose
        ):
            print(f"{path} is damaged; it is written anew", file=sys.stderr)
            files.write_json(path, wanted)
            return
        if not isinstance(there, dict):
            raise UserError(why)
        nothing = object()
        k = min(k for k in {*there, *wanted} if there.get(k, nothing) != wanted.get(k, nothing))
        raise UserError(
            f"{self.folder} holds a run with {k}={there.get(k)!r}, not {wanted.get(k)!r}; "
            "choose another --out or remove it"
        )

    def _made_with(self) -> str | None:
        """SHA-256 of the configuration of the newest whole checkpoint ("": not known), or None."""
        for path in checkpoint.newest_first(self.folder):
            if (loaded := checkpoint.load(path)) is not None:
                return str(loaded[2].get("config_sha256", ""))
        return None

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Open a finished run for evaluation.

        Raises:
            UserError: if the run is not there or not finished. A run that is damaged loses its
                mark of being finished, so that the next command trains it again from what is
                whole.
        """
        folder = Path(folder)
        run = cls(folder, lock=False)
        if not (folder / "config.json").is_file():
            run._unmark()
            raise UserError(f"{folder} is no run directory; train first")
        if not run.finished:
            damaged = run._unmark()
            raise UserError(
                f"the run in {folder} is {'damaged' if damaged else 'not finished'}; "
                "run its training again, it goes on from what is whole"
            )
        return run

    def _take_lock(self) -> Callable[[], object]:
        busy = f"another process is at work in {self.folder}; wait for it or stop it"
        lock = files.take_lock(self.folder / "lock", busy, seconds=SECONDS_FOR_THE_LOCK)
        return weakref.finalize(self, lock.release, force=True)

    def _recorded_sources(self) -> dict[str, str]:
        path = self.folder / "sources.json"
        return files.read_json(path) if path.exists() else {}

    def config(self, config: type[C]) -> C:
        """The configuration of this run as an instance of the dataclass ``config``."""
        values = dict(files.read_json(self.folder / "config.json"))
        values.setdefault("out", str(self.folder))
        values.setdefault("device", "cpu")
        return instance_of(values, config)

    # -- training -----------------------------------------------------------------------------

    def keep(self, **things: Any) -> Kept:
        """Name everything that a checkpoint holds, and restore it if there is a checkpoint.

        Objects that have a state, random generators, tensors and arrays are restored in place;
        the rest are values, read and rebound as ``kept.NAME`` (see :mod:`common.kept`). Draw
        nothing from a kept generator between this call and the loop.

        Raises:
            ValueError: when called twice, or for a name that is taken ("step").
            UserError: if a checkpoint is there and does not fit.
        """
        if self._kept is not None:
            raise ValueError("run.keep names everything in one call")
        keeping = Kept(things)
        self._over = self.finished
        if not self._over and (saved := self.restore()) is not None:
            self._done = saved[kept.RESERVED]
            kept.restore(keeping, saved)
        self._kept = keeping
        return keeping

    def steps(
        self,
        total: int,
        then: Callable[[], Mapping[str, Any]] | None = None,
        *,
        every: int = 1,
        drop: Sequence[str] = (),
    ) -> Iterator[int]:
        """The numbers of the steps that are left, from 0 to ``total - 1``.

        Saves what :meth:`keep` named after the body of a step when it is time to, and finishes
        the run after the last one. A run that is finished already has no steps left. Leaving the
        loop by ``break`` finishes nothing; call :meth:`finish` before it to end early.

        Args:
            total: how many steps the whole run has.
            then: called after the last step; what it returns goes into the last checkpoint too,
                in the place of kept things of the same names.
            every: a checkpoint is possible only after a multiple of so many steps.
            drop: kept things that the last checkpoint does without (a replay buffer).
        """
        if self._kept is None:
            self.keep()
        return iter(()) if self._over else self._steps(total, then, every, drop)

    def _steps(
        self,
        total: int,
        then: Callable[[], Mapping[str, Any]] | None,
        every: int,
        drop: Sequence[str],
    ) -> Iterator[int]:
        self._total = total
        self._progress.begin(self._done)
        for step in range(self._done, total):
            self._done = step + 1  # while the body of the last step runs, it counts as done
            yield step
            if self._over:
                return
            self._progress.at(self._done, total, self.seconds)
            if self._done % every == 0 and self.due(self._done):
                self.save(self._done, self._state())
        extra = then() if then else {}
        if not self._over:
            self._finish({**self._state(drop), **extra})

    def _state(self, drop: Sequence[str] = ()) -> dict[str, Any]:
        """The tree of a checkpoint: what is kept, and the number of steps done."""
        assert self._kept is not None
        tree = {name: part for name, part in kept.state(self._kept).items() if name not in drop}
        return {**tree, kept.RESERVED: self._done}

    @property
    def finished(self) -> bool:
        """Whether training ended and its last checkpoint and its metrics are whole.

        A run that was killed after its last checkpoint and before its mark is marked now.
        """
        loaded = self._usable(checkpoint.newest_first(self.folder)[:1], quiet=True)
        if loaded is None or not loaded[2]["final"]:
            return False
        if not (self.folder / "finished.json").is_file():
            self._unmark()  # a folder in its place
            self._mark_finished(loaded[2]["seconds"])
        return True

    def _usable(
        self, paths: Sequence[Path], *, quiet: bool = False
    ) -> tuple[Path, Any, dict[str, Any]] | None:
        """The first of ``paths`` that is whole and whose part of the metrics file is whole.

        Returns:
            (path, tree, note), or None.
        """
        metrics, config = self.folder / "metrics.jsonl", self.folder / "config.json"
        configured = files.sha256(config.read_bytes()) if config.is_file() else ""
        for path in paths:
            loaded = checkpoint.load(path)
            if loaded is None or not _is_note(loaded[2]):
                if not quiet:
                    print(f"{path} is damaged; the checkpoint before it is used", file=sys.stderr)
                continue
            note = loaded[2]
            if note.get("config_sha256", configured) != configured:
                if not quiet:
                    print(f"{path} is of another config.json; it is not used", file=sys.stderr)
                continue
            data = metrics.read_bytes()[: note["metrics_bytes"]] if metrics.is_file() else b""
            if files.sha256(data) != note["metrics_sha256"]:
                if not quiet:
                    print(f"{metrics} is damaged; an earlier checkpoint is used", file=sys.stderr)
                continue
            return path, loaded[1], note
        return None

    def restore(self) -> Any | None:
        """The tree of the last whole checkpoint, or None to begin at the beginning.

        The metrics file is cut back to the moment of that checkpoint.
        """
        self._unmark()
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        paths = checkpoint.newest_first(self.folder)
        loaded = self._usable(paths)
        if loaded is not None and loaded[2]["final"]:
            raise UserError(f"the run in {self.folder} is finished; look at Run.finished first")
        keep = loaded[2]["metrics_bytes"] if loaded else 0
        metrics = self.folder / "metrics.jsonl"
        if metrics.is_dir():
            _remove(metrics)
        self._metrics = open(metrics, "ab")  # noqa: SIM115 (held for the run's life)
        self._metrics.truncate(keep)
        self._digest = hashlib.sha256(metrics.read_bytes())
        self._bytes = keep
        if loaded is None:
            for path in paths:
                _remove(path)
            return None
        for path in paths[: paths.index(loaded[0])]:  # those that are newer are damaged
            _remove(path)
        self._earlier_seconds = loaded[2]["seconds"]
        self._last = checkpoint.step_of(loaded[0])
        return loaded[1]

    def log(self, step: int, **metrics: float | Sequence[float]) -> None:
        """Append one line to ``metrics.jsonl``; ``keep`` or ``restore`` comes before."""
        if self._metrics is None:
            self.restore()
        assert self._metrics is not None
        line = json.dumps({"step": step, **{k: _number(v) for k, v in metrics.items()}}) + "\n"
        self._metrics.write(line.encode())
        self._metrics.flush()
        self._digest.update(line.encode())
        self._bytes += len(line)
        self._last = max(self._last, step)
        self._progress.loss = _mean(metrics.get("loss"), self._progress.loss)
        if self._total is None:  # a loop of its own: its end is not known
            self._progress.at(step, None, self.seconds)
        if self._tracker is not None:
            self._tracker.log(step, metrics)

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint (every 20 s; tests count steps instead)."""
        if self._every is not None:
            return step % self._every == 0
        return time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS

    def save(self, step: int, tree: Any) -> None:
        """Write a checkpoint from which training goes on bit for bit (on one machine)."""
        self._save(step, tree, final=False)

    def _save(self, step: int, tree: Any, *, final: bool) -> None:
        if self._metrics is None:
            self.restore()
        assert self._metrics is not None
        os.fsync(self._metrics.fileno())
        note = {
            "metrics_bytes": self._bytes,
            "metrics_sha256": self._digest.hexdigest(),
            "seconds": self.seconds,
            "final": final,
            "config_sha256": self._config_sha256,  # as it was when the run was opened
        }
        checkpoint.save(self.folder, step, tree, note, last=final)
        self._saved_at = time.monotonic()
        self._last = max(self._last, step)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training so far, earlier tries included up to their checkpoint."""
        return self._earlier_seconds + time.monotonic() - self._started

    def finish(self, tree: Mapping[str, Any] | None = None, /, **extra: Any) -> None:
        """Write the last checkpoint and mark the run as finished.

        It holds everything that :meth:`keep` named, and ``extra``; or ``tree``, where the loop
        keeps its own. Does nothing where ``keep`` found the run finished.
        """
        if self._over:
            return
        own = {} if self._kept is None else self._state()
        self._finish({**own, **(tree or {}), **extra})

    def _finish(self, tree: Mapping[str, Any]) -> None:
        known = tree.get(kept.RESERVED)
        step = max(self._last, known if isinstance(known, int) else 0)
        if self._kept is not None:  # what was logged may count something else
            step = self._done
        self._save(step, {k: kept.state_of(v) for k, v in tree.items()}, final=True)
        self._mark_finished(self.seconds)
        self._progress.at(step, self._total or step, self.seconds, last=True)
        if self._tracker is not None:
            self._tracker.close()
        self._over = True
        self._release()

    def _unmark(self) -> bool:
        """The run counts as finished no more; returns whether it did."""
        mark = self.folder / "finished.json"
        there = mark.is_file()
        _remove(mark)
        return there

    def _mark_finished(self, seconds: float) -> None:
        files.write_json(
            self.folder / "sources.json", {**self._recorded_sources(), **loaded_sources()}
        )
        files.write_json(self.folder / "finished.json", {"seconds": round(seconds, 3)})

    # -- evaluation ---------------------------------------------------------------------------

    def final(self) -> Any:
        """What was kept when the run ended, by its names (a module as its state dict), and
        what the loop's ``then`` or :meth:`finish` added.
        """
        loaded = self._usable(checkpoint.newest_first(self.folder)[:1])
        if loaded is None:
            self._unmark()
            raise UserError(f"the last checkpoint of {self.folder} is damaged; train again")
        return loaded[1]

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return files.read_json_lines(self.folder / "metrics.jsonl")

    def write_eval(
        self,
        rows: Iterable[Mapping[str, Any]],
        extras: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Write ``eval.json``: rows of metrics, and small arrays that figures need.

        Args:
            rows: each with "method", "task", "seed", "metric", "value" (a finite number, or None
                where there is none), optionally "step" and further labels. A curve is one row
                with equally long lists as "step" and "value"; its values are rounded to 7
                significant digits. Claims see it as one row per point.
            extras: each with "name", "method", "task", "seed", "data" (nested lists).

        Raises:
            ValueError: if a row lacks a key or its value is not finite.
        """
        checked = []
        for row in rows:
            missing = {"method", "task", "seed", "metric", "value"} - set(row)
            if missing:
                raise ValueError(f"a row lacks {sorted(missing)}: {row}")
            value = _number(row["value"])
            lost = None in value if isinstance(value, list) else value is None
            if lost and row["value"] is not None:
                raise ValueError(f"not a finite value: {row}")
            if isinstance(value, list):
                if len(value) != len(row.get("step", [])):
                    raise ValueError(f"a curve needs as many steps as values: {row}")
                value = [float(f"{point:.7g}") for point in value]
            checked.append({**row, "value": float(value) if isinstance(value, int) else value})
        evaluation: dict[str, Any] = {"rows": checked, "extras": list(extras)}
        evaluation = json.loads(json.dumps(evaluation, allow_nan=False, default=_number))
        evaluation["digest"] = files.rows_digest(evaluation)
        evaluation["sources"] = {**self._recorded_sources(), **loaded_sources()}
        path = self.folder / "eval.json"
        if path.is_dir():
            _remove(path)
        files.write_json(path, evaluation)


def _checkpoint_every() -> int | None:
    """Steps between checkpoints by ``$PAPERS_CHECKPOINT_EVERY``, or None."""
    every = os.environ.get(EVERY_VARIABLE, "").strip()
    if not every:
        return None
    if not every.isdecimal() or int(every) < 1:
        raise UserError(f"{EVERY_VARIABLE} is {every!r}; give a number of steps, 1 or more")
    return int(every)


def _is_note(note: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's note is one of :meth:`Run._save`."""
    kinds: dict[str, Any] = {
        "metrics_bytes": int,
        "metrics_sha256": str,
        "seconds": (int, float),
        "final": bool,
    }
    return all(isinstance(note.get(name), kind) for name, kind in kinds.items())


def _remove(path: Path) -> None:
    """Remove a file, or the folder in its place, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _nothing() -> None:
    """Release of a lock that was never taken."""


def _mean(value: Any, otherwise: float | None) -> float | None:
    """The mean of what is finite in a number or (nested) list of numbers; else ``otherwise``."""

    def flat(value: Any) -> Iterator[float]:
        if isinstance(value, list):
            for item in value:
                yield from flat(item)
        elif value is not None:
            yield value

    finite = list(flat(_number(value)))
    return sum(finite) / len(finite) if finite else otherwise


def _number(value: Any) -> Any:
    """A JSON number or list of numbers; what is not finite becomes None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_number(item) for item in value]
    if value is None or isinstance(value, int):
        return value
    return value if math.isfinite(value) else None
