"""Errors that a user can act on: one clear line, a non-zero exit, nothing lost."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable
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
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"error: no space left on the disk{where}; free some and run the same command again, "
            "it goes on from the last checkpoint",
            EXIT_NO_SPACE,
        )
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"error: cannot write {error.filename or 'there'}: {error.strerror}", EXIT_USER
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


def fail(error: BaseException) -> NoReturn:
    """Print the line of :func:`explain` on stderr and exit with its status."""
    line, status = explain(error)
    print(line, file=sys.stderr, flush=True)
    sys.exit(status)


def guarded(function: Callable[[], object]) -> None:
    """Call ``function``; turn what a user can act on into one line and an exit status."""
    try:
        function()
    except (Exception, KeyboardInterrupt) as error:
        fail(error)
