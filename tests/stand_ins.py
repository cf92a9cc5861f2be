"""Tiny files in the published formats, for tests of the scale paper."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

BLOCKS = {  # the published list's format: one entry per way of attaching
    "block_smi": {"0": "c1ccccc1", "1": "CO", "2": "CO", "3": "O", "4": "c1cn[nH]c1", "5": "CC"},
    "block_r": {
        **{"0": [0, 2, 3], "1": [0, 1], "2": [1, 0]},
        **{"3": [0], "4": [3, 0, 1], "5": [0, 1]},
    },
}


def seh(root: Path) -> Path:
    """Fragments and a proxy of random weights in ``root``/seh, where $PAPERS_DATA is ``root``."""
    from common.gfn.fragments import SEHProxy

    folder = root / "seh"
    folder.mkdir(parents=True)
    (folder / "blocks_PDB_105.json").write_text(json.dumps(BLOCKS), encoding="utf-8")
    torch.manual_seed(0)
    proxy = SEHProxy()
    arrays = {f"p{i:02d}": proxy.get_parameter(n).detach().numpy() for i, n in proxy.ORDER.items()}
    arrays |= {f"p{i:02d}": np.zeros(3, np.float32) for i in (12, 13, 14, 15)}
    arrays["p21"] = np.array([4.0], np.float32)
    np.savez(folder / "seh_proxy.npz", **arrays)
    return folder


def cifar(root: Path, per_class: int) -> None:
    """CIFAR-10 and -100 in their published binary format, ``per_class`` random images of each."""
    rng = np.random.default_rng(0)
    parts = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
    for folder, names, n_labels, n_classes in (
        ("cifar-10-batches-bin", parts, 1, 10),
        ("cifar-100-binary", ("train.bin", "test.bin"), 2, 100),
    ):
        (root / folder).mkdir()
        for name in names:
            n = per_class * n_classes
            labels = np.zeros((n, n_labels), np.uint8)
            labels[:, -1] = np.arange(n) % n_classes
            pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
            np.hstack([labels, pixels]).tofile(root / folder / name)
