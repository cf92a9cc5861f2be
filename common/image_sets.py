"""CIFAR and MNIST as bytes, from ``$PAPERS_DATA`` or fetched by the package ``datasets``.

``$PAPERS_DATA/cifar-10-batches-bin`` and ``cifar-100-binary`` are CIFAR's published binary
versions, ``$PAPERS_DATA/mnist`` holds ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, packed
(.gz) or not. Nothing is unpickled.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, choose
from common.files import find_data

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Set:
    folder: str  # below $PAPERS_DATA
    shape: tuple[int, int, int]  # channels, rows, columns
    repository: str  # of the Hugging Face hub
    columns: tuple[str, str]  # image and label there
    train: tuple[str, ...]  # files
    test: tuple[str, ...]
    label_bytes: int = 1  # before each image; the last one is the class


_SETS = {
    "cifar10": _Set(
        "cifar-10-batches-bin",
        (3, 32, 32),
        "uoft-cs/cifar10",
        ("img", "label"),
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
    ),
    "cifar100": _Set(
        "cifar-100-binary",
        (3, 32, 32),
        "uoft-cs/cifar100",
        ("img", "fine_label"),
        ("train.bin",),
        ("test.bin",),
        label_bytes=2,
    ),
    "mnist": _Set("mnist", (1, 28, 28), "ylecun/mnist", ("image", "label"), ("train",), ("t10k",)),
}


def image_set(name: str, split: str = "train") -> tuple[Bytes, NDArray[np.int64]]:
    """Images [N, C H W] in the order (channel, row, column), and their classes [N].

    Args:
        name: "cifar10", "cifar100" (its 100 fine classes) or "mnist".
        split: "train" or "test".

    Raises:
        UserError: if the files are not there and cannot be fetched, or one is damaged.
    """
    choose("data set", name, _SETS)
    chosen = _SETS[name]
    try:
        folder = find_data(chosen.folder, name, "")
    except UserError:
        return _fetched(name, chosen, split)
    parts = chosen.train if split == "train" else chosen.test
    if name == "mnist":
        images = read_idx(folder / f"{parts[0]}-images-idx3-ubyte")
        labels = read_idx(folder / f"{parts[0]}-labels-idx1-ubyte")
        return images.reshape(len(images), -1), labels.astype(np.int64)
    rows = np.concatenate(
        [_records(folder / part, chosen.label_bytes + math.prod(chosen.shape)) for part in parts]
    )
    return rows[:, chosen.label_bytes :], rows[:, chosen.label_bytes - 1].astype(np.int64)


def read_idx(path: Path) -> Bytes:
    """The array of an idx file of unsigned bytes, or of the same file with .gz.

    Raises:
        UserError: if it is missing or not such a file.
    """
    packed = path.with_name(path.name + ".gz")
    if path.is_file():
        data = path.read_bytes()
    elif packed.is_file():
        try:
            data = gzip.decompress(packed.read_bytes())
        except (OSError, EOFError) as error:
            raise UserError(f"{packed} is damaged ({error}); download it again") from error
    else:
        raise UserError(f"{path} is missing; download it (or its .gz) and put it there")
    start = 4 + 4 * data[3] if len(data) >= 4 else 4
    sizes = np.frombuffer(data[4:start], ">u4").astype(int) if len(data) >= start else [-1]
    if data[:3] != b"\x00\x00\x08" or len(data) != start + math.prod(sizes):
        raise UserError(f"{path} is no whole idx file of bytes; download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(*sizes)


def _records(path: Path, width: int) -> Bytes:
    if not path.is_file() or path.stat().st_size == 0 or path.stat().st_size % width:
        raise UserError(f"{path} is missing or damaged; take CIFAR's binary version")
    return np.fromfile(path, np.uint8).reshape(-1, width)


def _fetched(name: str, chosen: _Set, split: str) -> tuple[Bytes, NDArray[np.int64]]:
    """The same from the Hugging Face hub, where images are channels last."""
    try:
        import datasets

        table = datasets.load_dataset(chosen.repository, split=split)
    except Exception as error:  # no package, no network, no such data: the same remedy
        raise UserError(
            f"{name} is neither at $PAPERS_DATA/{chosen.folder} nor could it be fetched from "
            f"{chosen.repository} ({type(error).__name__}); put its published "
            f"{'idx files' if name == 'mnist' else 'binary version'} there"
        ) from error
    image, label = chosen.columns
    C, H, W = chosen.shape
    images = np.stack([np.asarray(x) for x in table[image]]).reshape(-1, H, W, C)
    return (
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1),
        np.asarray(table[label], dtype=np.int64),
    )
