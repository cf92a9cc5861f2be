"""Numba's njit with an on-disk cache that notices edits to every file compiled into a function.

Numba's own cache looks at the file of the function alone: after an edit of a helper in another
file, loops that inline it would go on with the old one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def sources_digest(sources: tuple[Path, ...]) -> str:
    """Digest of the contents of files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def jit_of(*sources: Path) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: njit, cached on disk by the sources' contents.

    The cache is in ``$NUMBA_CACHE_DIR``, else in the first source's ``__pycache__``.

    Args:
        sources: all files whose functions are compiled into one another.
    """
    configured = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(configured) if configured else sources[0].parent / "__pycache__"
    cache = beside / f"numba-{sources_digest(sources)}"

    config: Any = numba.config

    def jit(function: Callable[..., Any]) -> Callable[..., Any]:
        before = config.CACHE_DIR
        config.CACHE_DIR = str(cache)
        try:
            compiled: Callable[..., Any] = numba.njit(cache=True, error_model="numpy")(function)
            return compiled
        finally:
            config.CACHE_DIR = before

    return jit
