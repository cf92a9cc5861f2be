"""Data sets come back as they were, and say so when they don't."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.marl import datasets
from common.marl.episodes import Episode


def episode(length: int, seed: int, won: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    moments = (length + 1, 2)
    return {
        "obs": rng.standard_normal((*moments, 3), dtype=np.float32),
        "state": rng.standard_normal((length + 1, 4), dtype=np.float32),
        "avail": rng.random((*moments, 5)) < 0.5,
        "alive": rng.random(moments) < 0.5,
        "agent_type": rng.integers(3, size=moments),
        "actions": rng.integers(5, size=(length, 2)),
        "reward": np.full(length, 0.5, np.float32),
        "terminated": np.eye(length, dtype=np.float32)[-1],
        "won": np.array(won),
    }


EPISODES = [episode(3, 0, True), episode(5, 1), episode(1, 2, True), episode(4, 3, True)]
ABOUT: dict[str, Any] = {
    **{"task": "smax:3m", "seed": 10_003, "behaviour": "QMIX", "epsilon": 0.05},
    "checkpoint": 24_000,
}


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "medium.npz"
    written = datasets.write(path, EPISODES, **ABOUT)
    episodes, header = datasets.read(path)
    assert header == written == datasets.read_header(path)
    assert len(episodes) == 4
    for one, other in zip(EPISODES, episodes, strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            assert array.dtype == other[name].dtype and np.array_equal(array, other[name]), name


def test_the_header_says_what_is_in_it(tmp_path: Path) -> None:
    header = datasets.write(tmp_path / "d.npz", EPISODES, **ABOUT)
    assert (header.episodes, header.steps, header.win_rate) == (4, 13, 0.75)
    assert header.mean_return == pytest.approx(13 * 0.5 / 4)
    text = datasets.card(header, "Medium")
    for shown in ("### Medium", "smax:3m", "24,000", "0.750", "13 steps", header.sha256):
        assert shown in text
    assert "changing" in datasets.card(
        datasets.write(tmp_path / "e.npz", EPISODES, **{**ABOUT, "epsilon": None})
    )


def test_the_same_episodes_have_the_same_digest_and_others_another(tmp_path: Path) -> None:
    one = datasets.write(tmp_path / "1.npz", EPISODES, **ABOUT)
    again = datasets.write(tmp_path / "2.npz", EPISODES, **ABOUT)
    swapped = datasets.write(tmp_path / "3.npz", EPISODES[::-1], **ABOUT)
    assert one.sha256 == again.sha256 != swapped.sha256
    with pytest.raises(ValueError, match="needs an episode"):
        datasets.write(tmp_path / "4.npz", [], **ABOUT)


def repacked(path: Path, **changes: Any) -> None:
    with np.load(path) as archive:
        arrays = {**{name: archive[name] for name in archive.files}, **changes}
    data = io.BytesIO()
    np.savez(data, **{name: array for name, array in arrays.items() if array is not None})
    path.write_bytes(data.getvalue())


def header_with(path: Path, **changes: Any) -> np.ndarray:
    with np.load(path) as archive:
        values = {**json.loads(archive["header"].tobytes()), **changes}
    return np.frombuffer(json.dumps(values).encode(), np.uint8)


def test_damage_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    datasets.write(path, EPISODES, **ABOUT)
    whole = path.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            datasets.read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    path.write_bytes(whole[: len(whole) // 2])
    refused("damaged.*make it again")
    path.write_bytes(b"")
    refused("damaged")
    path.write_bytes(pickle.dumps({"obs": 1}))  # never executed
    refused("damaged")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 255
    path.write_bytes(bytes(flipped))
    refused("damaged")
    path.write_bytes(whole)
    repacked(path, reward=np.zeros(13, np.float32))
    refused("not those that were written")
    path.write_bytes(whole)
    repacked(path, header=None)
    refused("damaged")
    for change in ({"steps": "13"}, {"more": 1}):
        path.write_bytes(whole)
        repacked(path, header=header_with(path, **change))
        refused("damaged")
    path.write_bytes(whole)
    repacked(path, header=header_with(path, steps=12))
    refused("other episodes")
    path.unlink()
    refused("no data set")
