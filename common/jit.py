"""Numba's njit with an on-disk cache that notices edits to every file compiled into a function.

Numba's own cache looks at the file of the function alone: after an edit of a helper in another
file, loops that inline it would go on with the old one. Nor does it survive a power cut or a full
disk: an emptied or cut file stops every later start. Here each file begins with the SHA-256 of the
rest, is written whole or not at all, and one that does not fit its checksum is compiled anew. (The
files are pickles, and as trustworthy as the code that they lie beside.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

from common import files

DIGEST = 32  # bytes of a SHA-256


def sources_digest(sources: tuple[Path, ...]) -> str:
    """Digest of the contents of files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def jit_of(*sources: Path) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: njit, cached by the sources' contents.

    The cache is in ``$NUMBA_CACHE_DIR``, else in the first source's ``__pycache__``; where that
    cannot be written, in ``numba`` of :func:`common.files.cache_root`; where that cannot either,
    there is none.

    Args:
        sources: all files whose functions are compiled into one another.
    """
    name = f"numba-{sources_digest(sources)}"
    configured = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(configured) if configured else sources[0].parent / "__pycache__"
    places = (beside, files.cache_root() / "numba")
    cache = next((place / name for place in places if _writable(place / name)), None)
    config: Any = numba.config

    def jit(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Any = numba.njit(error_model="numpy")(function)
        if cache is not None:
            before = config.CACHE_DIR
            config.CACHE_DIR = str(cache)
            try:
                compiled._cache = _Cache(function)
            finally:
                config.CACHE_DIR = before
        checked: Callable[..., Any] = compiled
        return checked

    return jit


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, in files that are checked."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        plain = self._cache_file
        self._cache_file = _Files(
            plain._cache_path, plain._index_name.removesuffix(".nbi"), plain._source_stamp
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None if it has to be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whole, and yet of no use here: compiled anew, and written over
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; where there is no room for it, it is compiled next time."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _Files(IndexDataCacheFile):  # type: ignore[misc]
    """An index (signature -> name of a data file) and data files, each with its checksum."""

    def save(self, key: Any, data: Any) -> None:
        """Add an entry: the data under a new name first, then the index that refers to it.

        Of two processes that do so at once, one loses its entry and compiles again later.
        """
        name = f"{self._index_name.removesuffix('.nbi')}.{uuid.uuid4().hex[:16]}.nbc"
        overloads = self._load_index()
        self._save_data(name, data)
        replaced = overloads.get(key)
        self._save_index({**overloads, key: name})
        if replaced is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._data_path(replaced))

    def _load_index(self) -> dict[Any, str]:
        content = _read(self._index_path)
        version, stamp, overloads = content if content is not None else (None, None, {})
        current = (version, stamp) == (self._version, self._source_stamp)
        return overloads if current else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        content = (self._version, self._source_stamp, overloads)
        _write(self._index_path, self._dump(content))

    def _load_data(self, name: str) -> Any:
        data = _read(self._data_path(name))
        if data is None:
            raise FileNotFoundError(name)  # for the caller: not there
        return data

    def _save_data(self, name: str, data: Any) -> None:
        _write(self._data_path(name), self._dump(data))


def _write(path: str, data: bytes) -> None:
    files.write_bytes(Path(path), hashlib.sha256(data).digest() + data)


def _read(path: str) -> Any:
    """What :func:`_write` wrote, or None if it is missing or damaged."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    digest, data = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        return None
    return pickle.loads(data)
