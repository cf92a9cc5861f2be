"""Vectors of task descriptions: each by itself, cached, near where the words are near."""

import numpy as np
import pytest

from common.control import task_texts
from common.control.task_texts import embed_tasks

pytest.importorskip("transformers", reason="needs the extra 'control'")
SENTENCES = [
    "Push the puck to a goal.",
    "Push the puck to a goal behind a wall.",
    "Close the window by sliding it.",
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path))
    return tmp_path


def test_vectors_do_not_depend_on_the_other_sentences(cache, monkeypatch, tmp_path):
    vectors = embed_tasks(SENTENCES)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "other"))
    assert np.array_equal(embed_tasks([SENTENCES[2], SENTENCES[0]]), vectors[[2, 0]])
    near = vectors @ vectors.T
    assert near[0, 1] > 0.7 > near[0, 2] and near[1, 2] < 0.7


def test_the_encoder_is_loaded_for_new_sentences_alone(cache, monkeypatch):
    loaded = []
    load = task_texts.encoder.load
    monkeypatch.setattr(task_texts.encoder, "load", lambda: loaded.append(1) or load())
    first = embed_tasks(SENTENCES[:1])
    assert np.array_equal(embed_tasks([SENTENCES[0]] * 2), np.repeat(first, 2, 0))
    assert len(loaded) == 1
    (kept,) = (cache / "texts").glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:40])  # damaged: made again
    assert np.array_equal(embed_tasks(SENTENCES[:1]), first)
    assert len(loaded) == 2
    with pytest.raises(ValueError, match="sentence"):
        embed_tasks([" "])
