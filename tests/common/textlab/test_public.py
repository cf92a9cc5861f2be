"""Names on the hub, their places below $PAPERS_DATA, and what is said where there is nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.textlab import models, public, store

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $PAPERS_DATA, and no network."""
    monkeypatch.setenv("PAPERS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PAPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return tmp_path / "data"


def lines(path: Path, *texts: str, field: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "\n".join(json.dumps({field: text}) for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_a_name_has_a_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert public.place("some/model") is None
    (root / "some" / "model").mkdir(parents=True)
    assert public.place("some/model") == root / "some" / "model"
    assert public.place(str(root / "some")) == root / "some"
    monkeypatch.delenv("PAPERS_DATA")
    assert public.place("some/model") is None and public.place(str(root)) == root


def test_models_and_tokenizers(root: Path) -> None:
    import tokenizers
    import transformers

    folder = root / "some" / "model"
    made = models.llama(300, 16, layers=1, width=16, heads=2, hidden=24, seed=0)
    made.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    wrapped.save_pretrained(folder)
    for name in ("some/model", str(folder)):
        read = public.model("CausalLM", name)
        assert models.n_parameters(read) == models.n_parameters(made)
        assert public.tokenizer(name)("a")["input_ids"] == [0]


def test_lines_of_a_split_and_a_configuration(root: Path) -> None:
    lines(root / "some" / "data" / "train.jsonl", "a", "b")
    lines(root / "some" / "data" / "validation_matched.jsonl", "c")
    lines(root / "some" / "data" / "one" / "test.jsonl", "d")
    lines(root / "some" / "data" / "en" / "shard.json.gz", "e", "f", "g")
    assert public.data_set("some/data")["text"][:] == ["a", "b"]
    assert public.data_set("some/data", split="validation_matched")["text"][:] == ["c"]
    assert public.data_set("some/data", "one", "test")["text"][:] == ["d"]
    shard = public.data_set("some/data", columns=("text",), data_files="en/shard.json.gz")
    assert shard["text"][:] == ["e", "f", "g"]


def test_a_repository_as_it_is_downloaded(root: Path) -> None:
    """Parquet files by configuration, which the card names."""
    import datasets

    folder = root / "some" / "data"
    for config, value in (("one", "a"), ("two", "b")):
        (folder / config).mkdir(parents=True)
        table = datasets.Dataset.from_dict({"text": [value]})
        table.to_parquet(folder / config / "train-00000-of-00001.parquet")
    card = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in ("one", "two")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    assert public.data_set("some/data", "one")["text"][:] == ["a"]
    assert public.data_set("some/data", "two")["text"][:] == ["b"]


def test_files_of_a_data_set(root: Path) -> None:
    for name in ("b", "a"):
        lines(root / "some" / "data" / "train" / "chunk1" / f"{name}.jsonl", name)
    found = public.parts("some/data", "train/**/*.jsonl*")
    assert [Path(path).name for path in found] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(UserError, match=r"holds no file test/"):
        public.parts("some/data", "test/**/*.jsonl*")


def test_what_is_not_there_is_asked_for(root: Path) -> None:
    for ask in (public.tokenizer, lambda name: public.model("CausalLM", name)):
        with pytest.raises(UserError, match=r"nor to be had.*hf download no/model --local-dir"):
            ask("no/model")
    with pytest.raises(UserError, match=r"hf download no/data --repo-type dataset"):
        public.data_set("no/data")
    with pytest.raises(UserError, match=r"hf download no/data --repo-type dataset"):
        public.parts("no/data", "*.jsonl")


def test_what_is_damaged_is_named(root: Path) -> None:
    (root / "some" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is damaged in .*some/model"):
        public.tokenizer("some/model")
    lines(root / "some" / "data" / "train.jsonl", "a", field="words")
    with pytest.raises(UserError, match=r"no column 'text': \['words'\]"):
        public.data_set("some/data", columns=("text",))
    (root / "some" / "data" / "train.jsonl").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        public.data_set("some/data")


def test_errors_of_ones_own_pass() -> None:
    def read(_: str) -> Any:
        raise UserError("say this")

    with pytest.raises(UserError, match="^say this$"):
        public.obtained("no/model", read)


def test_a_sequence_of_parts(tmp_path: Path) -> None:
    parts = [np.arange(5), np.arange(3), np.arange(4)]
    store.sequence(tmp_path / "new" / "all.npy", parts, np.uint16)
    whole = np.load(tmp_path / "new" / "all.npy", allow_pickle=False)
    assert whole.dtype == np.uint16 and np.array_equal(whole, np.concatenate(parts))
    store.sequence(tmp_path / "some.npy", iter(parts), np.int64, limit=6)
    assert len(np.load(tmp_path / "some.npy", allow_pickle=False)) == 8  # the part that reaches it
    store.sequence(tmp_path / "none.npy", [], np.int64)
    assert len(np.load(tmp_path / "none.npy", allow_pickle=False)) == 0

    def broken() -> Any:
        yield parts[0]
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        store.sequence(tmp_path / "broken.npy", broken(), np.int64)
    assert not (tmp_path / "broken.npy").exists()
