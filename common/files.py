"""Files that appear whole or not at all, and locks that vanish with their holder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from common.errors import UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: temporary name, fsync, rename, fsync of the folder.

    A reader sees the old file or the new one, whenever the process or the machine stops. When the
    disk is full the old file stays and the temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if sys.platform == "win32":  # which has no fsync of folders
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text (UTF-8)."""
    write_bytes(path, text.encode())


def read_text(path: Path) -> str:
    """Text of a file (UTF-8, whatever the locale).

    Raises:
        UserError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); restore it with git") from error


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """:func:`write_bytes` for JSON; NaN and infinity are refused (they are not JSON)."""
    write_bytes(path, json_bytes(value, indent=indent))


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """What :func:`write_json` writes."""
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is damaged; the message says which file to remove.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested without end
        raise UserError(
            f"{path} is damaged ({error}); remove it and run the same command again"
        ) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file; a half-written last line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [row for row in rows if isinstance(row, dict)]


def rows_digest(evaluation: dict[str, Any]) -> str:
    """SHA-256 of an evaluation's rows and extras, by which damage is noticed."""
    return sha256(json.dumps([evaluation.get("rows"), evaluation.get("extras")]).encode())


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def locked(path: Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` (made if need be) while the block runs.

    The operating system releases it when the holder ends, however it ends.

    Args:
        path: the lock file; it stays behind, empty.
        busy: what to say when somebody else holds the lock and ``wait`` is false.
        wait: wait for the other holder.

    Raises:
        UserError: ``busy``.
    """
    lock = take_lock(path, busy, seconds=None if wait else 0.0)
    try:
        yield
    finally:
        lock.release(force=True)


def take_lock(path: Path, busy: str, *, seconds: float | None = 0.0) -> filelock.BaseFileLock:
    """An exclusive lock on the file ``path``, to be given back by its ``release(force=True)``.

    It is the operating system's own (flock, or LockFileEx on Windows): it is free at once when
    the holder is killed, also where children that it forked live on.

    Args:
        path: the lock file; it stays behind, empty.
        busy: what to say when somebody else holds the lock.
        seconds: how long to wait for the other holder; None: as long as it takes.

    Raises:
        UserError: ``busy``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=-1 if seconds is None else seconds)
    except filelock.Timeout:
        raise UserError(busy) from None
    return lock


def cache_root() -> Path:
    """Where generated data sets are kept: ``$PAPERS_CACHE``, else ``runs/cache`` of the clone."""
    configured = os.environ.get("PAPERS_CACHE", "").strip()
    return (
        Path(configured).absolute() if configured else Path(__file__).parents[1] / "runs" / "cache"
    )


def find_data(relative: str, what: str, obtain: str) -> Path:
    """A data file or folder below ``$PAPERS_DATA``.

    Args:
        relative: path below ``$PAPERS_DATA``.
        what: what it is, for the message.
        obtain: how to get it, for the message.

    Raises:
        UserError: if it is not there; the message says what to obtain and where to put it.
    """
    root = os.environ.get("PAPERS_DATA")
    if root and (path := Path(root) / relative).exists():
        return path
    where = f"{root}/{relative}" if root else f"$PAPERS_DATA/{relative} (PAPERS_DATA is not set)"
    raise UserError(f"{what} is missing: {obtain}, and put it at {where}")
