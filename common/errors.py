"""Errors that a user can act on: one clear line, a non-zero exit, nothing lost."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NoReturn

EXIT_USER = 2
EXIT_NO_SPACE = 28
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake or a missing thing that the user can put right; the message says how."""


def choose(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is allowed, else raise :class:`UserError` with the nearest names.

    Args:
        kind: what is chosen ("method", "paper", …), for the message.
        value: what was asked for.
        allowed: every name there is.
    """
    names = list(allowed)
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose among: {', '.join(names)}"
    raise UserError(f"unknown {kind} '{value}'; {hint}")


def explain(error: BaseException) -> tuple[str, int]:
    """One line for the user and the exit status that goes with it.

    Raises:
        BaseException: ``error`` itself, when it is a fault of the program and not of its use,
            so that its traceback is seen.
    """
    if isinstance(error, UserError):
        return f"error: {error}", EXIT_USER
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from the last checkpoint", EXIT_INTERRUPTED
    if isinstance(error, OSError) and (explained := _of_the_system(error)) is not None:
        return explained
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in (
        "common",
        "papers",
        "tools",
    ):
        return (
            f"error: the package '{error.name}' is missing; "
            "'make setup PAPER=<paper>' installs what a paper needs",
            EXIT_USER,
        )
    raise error


def _of_the_system(error: OSError) -> tuple[str, int] | None:
    """:func:`explain` for what the operating system refuses; None for the rest."""
    where = str(error.filename2 or error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        at = f" for {where}" if where else ""
        return (
            f"error: no space left on the disk{at}; free some and run the same command again, "
            "it goes on from the last checkpoint",
            EXIT_NO_SPACE,
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "error: too many open files; raise the limit (ulimit -n) and try again", EXIT_USER
    if not where:
        return None
    reason = f"{where}: {error.strerror}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"error: no access to {reason}", EXIT_USER
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG):
        return (
            f"error: {reason}; something else is in the place, choose another path or move it away",
            EXIT_USER,
        )
    if error.errno == errno.ENOENT:
        return f"error: {reason}; check the path, or make what is missing", EXIT_USER
    return None


def fail(error: BaseException) -> NoReturn:
    """Print the line of :func:`explain` on stderr and exit with its status."""
    line, status = explain(error)
    print(line, file=sys.stderr, flush=True)
    sys.exit(status)


def one_line_from_now_on() -> None:
    """Whatever ends this process from now on is said in the one line of :func:`explain`.

    :func:`guarded` does that for what it calls; this serves the seconds before, when a command
    imports its packages: Ctrl-C, a package that is missing, a limit of the system.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            line = explain(error)[0]
        except BaseException:  # a fault of the program
            before(kind, error, trace)
        else:
            print(line, file=sys.stderr, flush=True)

    sys.excepthook = hook


def guarded(function: Callable[[], object]) -> None:
    """Call ``function``; turn what a user can act on into one line and an exit status."""
    try:
        function()
    except (Exception, KeyboardInterrupt) as error:
        fail(error)
