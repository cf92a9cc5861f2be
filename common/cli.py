"""Command lines made from a dataclass by tyro: its fields are the flags, its comments the help."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from common.errors import guarded

C = TypeVar("C")

PARENT_VARIABLE = "PAPERS_PARENT"  # set by the runner: its process id


def run_cli(
    function: Callable[[C], object], config: type[C], args: Sequence[str] | None = None
) -> None:
    """Parse ``args`` (default: the command line) into ``config`` and call ``function`` with it.

    Errors that the user can act on end as one line on stderr and a non-zero exit status.
    """
    die_with_parent()
    guarded(lambda: function(tyro.cli(config, args=args)))


def die_with_parent() -> None:
    """End this process when the runner that started it is gone, however the runner ended.

    A runner that is killed cannot stop its jobs, and a job left over would go on writing into
    run directories that the next runner takes over. Does nothing outside the runner.
    """
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is None:
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # the thread below serves everywhere
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == int(expected):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
