"""Reward tables that take long to compute, kept in the cache folder."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from common.files import cache_root, locked, sha256, write_bytes


def cached_table(name: str, compute: Callable[[], np.ndarray], n: int) -> np.ndarray:
    """The table ``name`` of n numbers, computed once per cache folder. [n] float64.

    ``name`` must say everything the table depends on, versions of libraries included. A damaged
    file is noticed (its checksum is appended) and computed anew; of several processes one computes.
    """
    path = cache_root() / "gfn" / f"{name}.npy"
    with locked(path.with_suffix(".lock"), "", wait=True):
        if path.exists():
            data, digest = path.read_bytes()[:-64], path.read_bytes()[-64:]
            if sha256(data).encode() == digest:
                table: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
                if table.shape == (n,):
                    return table
        table = np.asarray(compute(), dtype=np.float64)
        if table.shape != (n,) or not np.isfinite(table).all():
            raise ValueError(f"table {name}: {table.shape}, wanted {n} finite numbers")
        buffer = io.BytesIO()
        np.save(buffer, table, allow_pickle=False)
        data = buffer.getvalue()
        write_bytes(path, data + sha256(data).encode())
        return table
