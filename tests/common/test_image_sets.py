import gzip
import sys

import numpy as np
import pytest

from common.errors import UserError
from common.image_sets import image_set, read_idx

RNG = np.random.default_rng(0)


def idx(array):
    sizes = np.array(array.shape, ">u4").tobytes()
    return b"\x00\x00\x08" + bytes([array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)  # not installed
    return tmp_path


def test_mnist_is_read_from_idx_files_packed_or_not(data):
    folder = data / "mnist"
    folder.mkdir()
    images = RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = RNG.integers(0, 10, 20, dtype=np.uint8)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    x, y = image_set("mnist")
    assert np.array_equal(x, images.reshape(20, 784)) and np.array_equal(y, labels)
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte is missing; download it"):
        image_set("mnist", "test")
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels)[:-1])
    with pytest.raises(UserError, match="no whole idx file"):
        image_set("mnist")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images))[:-9])
    with pytest.raises(UserError, match=r"gz is damaged"):
        image_set("mnist")


@pytest.mark.parametrize("content", [b"", b"\x00\x00", b"\x00\x00\x08\x03\x00", b"GIF89a......"])
def test_what_is_no_idx_file_says_so(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match="no whole idx file"):
        read_idx(tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "folder", "train", "test", "n_labels"),
    [
        (
            "cifar10",
            "cifar-10-batches-bin",
            [f"data_batch_{i}.bin" for i in range(1, 6)],
            ["test_batch.bin"],
            1,
        ),
        ("cifar100", "cifar-100-binary", ["train.bin"], ["test.bin"], 2),
    ],
)
def test_cifar_is_read_from_its_binary_version(data, name, folder, train, test, n_labels):
    (data / folder).mkdir()
    rows = {
        part: RNG.integers(0, 256, (4, n_labels + 3072), dtype=np.uint8) for part in train + test
    }
    for part, values in rows.items():
        values.tofile(data / folder / part)
    for split, parts in (("train", train), ("test", test)):
        whole = np.concatenate([rows[part] for part in parts])
        x, y = image_set(name, split)
        assert np.array_equal(x, whole[:, n_labels:])
        assert np.array_equal(y, whole[:, n_labels - 1])  # CIFAR-100: the fine class
    (data / folder / train[-1]).write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="missing or damaged; take CIFAR's binary version"):
        image_set(name)


@pytest.mark.parametrize(("name", "rest"), [("cifar10", (32, 32, 3)), ("mnist", (28, 28))])
def test_data_of_the_hub_have_the_same_order(data, monkeypatch, name, rest):
    pixels = RNG.integers(0, 256, (6, *rest), dtype=np.uint8)

    class Hub:
        @staticmethod
        def load_dataset(repository, split):
            assert (repository.split("/")[1], split) == (name, "test")
            return {"img": list(pixels), "image": list(pixels), "label": list(range(6))}

    monkeypatch.setitem(sys.modules, "datasets", Hub)
    x, y = image_set(name, "test")
    first = pixels[0].transpose(2, 0, 1) if len(rest) == 3 else pixels[0]
    assert np.array_equal(x[0], first.reshape(-1)) and y.tolist() == list(range(6))


def test_missing_data_and_wrong_names_say_what_to_do(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # nothing is fetched here
    with pytest.raises(UserError, match=r"neither at \$PAPERS_DATA/cifar-10-batches-bin"):
        image_set("cifar10")
    with pytest.raises(UserError, match="did you mean cifar10"):
        image_set("cifar_10")
