"""The paper's scale on checkpoints and data of the published layout, tiny."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.textlab import models
from papers.liar import published
from papers.liar.config import Config
from papers.liar.task import TASKS
from tests.papers import kit
from tests.papers.liar import stand_in

WORDS = stand_in.WORDS.split()
SMALL: dict[str, Any] = {"length": 24, "batch": 4, "held_out": 2}


def sentence(i: int, n: int = 5) -> str:
    return " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, n + 1))


def written(folder: Path, split: str, records: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def glue(root: Path, name: str) -> None:
    columns = published.SENTENCES[name]
    for split in ("train", "validation_matched" if name == "mnli" else "validation"):
        records = [
            {**{c: sentence(i + len(c)) for c in columns}, "label": i % 2} for i in range(10)
        ]
        written(root / "nyu-mll" / "glue" / name, split, records)


def squad(root: Path) -> None:
    records = []
    for i in range(6):
        context = sentence(i, 30)
        answer = context.split()[3]
        truth = {"text": [answer], "answer_start": [context.index(answer)]}
        records.append({"question": sentence(i, 4), "context": context, "answers": truth})
    for split in ("train", "validation"):
        written(root / "rajpurkar" / "squad" / "plain_text", split, records)


def wikitext(root: Path) -> None:
    for split in ("train", "test"):
        records = [{"text": sentence(i, 12)} for i in range(30)]
        written(root / "Salesforce" / "wikitext" / "wikitext-2-raw-v1", split, records)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every checkpoint and data set of the paper's scale."""
    import transformers

    root = tmp_path_factory.mktemp("liar-published")
    torch.manual_seed(0)
    for name, task in TASKS.items():
        folder = root / task.source[0]
        if task.data == "glue":
            glue(root, task.source[1])
            made = transformers.BertForSequenceClassification(stand_in.config(num_labels=2))
        elif task.data == "squad":
            squad(root)
            made = transformers.BertForQuestionAnswering(stand_in.config())
        elif task.data == "wikitext":
            wikitext(root)
            sizes = {"layers": 1, "width": 8, "heads": 2, "hidden": 12}
            made = models.llama(40, 32, seed=0, **sizes)
        else:
            continue
        assert name
        stand_in.sharpened(made).save_pretrained(folder)
        stand_in.tokenizer(folder)
    return root


@pytest.fixture
def at_hand(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERS_DATA", str(data))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, task in TASKS.items():
        monkeypatch.setitem(TASKS, name, replace(task, texts=6))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(
        "common.textlab.evaluate.harness", lambda *_, **__: {"arc_easy": 0.25, "piqa": 0.5}
    )


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_every_stage_of_the_papers_scale(at_hand: None, tmp_path: Path) -> None:
    kept = {"glue-mnli", "glue-sst2", "squad", "llama-7b"}  # pairs, one sentence, the others

    def tiny(job: Any) -> list[str] | None:
        if job.task not in kept or job.method in ("liar-q", "mask"):
            return None
        return stand_in.flags({**SMALL, **({"batch": 1} if job.task == "llama-7b" else {})})

    found = kit.run_scale("liar", "paper", tmp_path, tiny, seeds=1)
    seen = {(row["task"], row["metric"]) for row in found["rows"]}
    assert {("glue-mnli", "kept_accuracy"), ("squad", "f1"), ("llama-7b", "lost_nll")} <= seen
    assert {row["value"] for row in found["rows"] if row["metric"] == "accuracy"
            and row["task"] == "llama-7b"} == {0.375}  # fmt: skip
    verdicts = {claim["id"]: claim["verdict"] for claim in found["claims"]}
    assert verdicts["C7"] != "needs paper" and verdicts["C1"] == "needs default"


@pytest.mark.parametrize("task", ["glue-mrpc", "squad", "llama-7b"])
def test_the_stepwise_model_is_the_published_one(at_hand: None, task: str, tmp_path: Path) -> None:
    """With the two sentences of BERT told apart: last hidden states as by the model's forward."""
    work = published.work_of(Config(task=task, **SMALL), torch.device("cpu"))
    batch = work.batches[0]
    if task != "llama-7b":
        assert batch.types is not None and batch.types.sum() > 0
    h = work.arch.start(batch)
    for index, module in enumerate(work.arch.modules):
        h = work.arch.after(index, h, module.last(work.arch.features(index, h, batch)))
    base = work.arch.model.bert if task != "llama-7b" else work.arch.model.model
    options = {} if task == "llama-7b" else {"token_type_ids": batch.types}
    theirs = base(
        input_ids=batch.ids, attention_mask=batch.real.long(), **options
    ).last_hidden_state
    ours = base.norm(h) if task == "llama-7b" else h
    torch.testing.assert_close(ours[batch.real], theirs[batch.real], rtol=1e-4, atol=1e-5)
    losses = [work.loss(work.arch.start(b), b, i) for i, b in enumerate(work.batches)]
    assert float(sum(losses)) > 0


def test_labels_of_a_checkpoint_in_its_own_order() -> None:
    truth = np.array([0, 1, 2, 0, 1, 2, 2])
    predicted = np.array([2, 0, 1, 2, 0, 1, 1])
    assert published.agreed_labels(predicted, truth, 3)[predicted].tolist() == truth.tolist()


@pytest.mark.parametrize(
    ("answer", "truths", "wanted"),
    [
        ("The cat", ["cat"], 1.0),
        ("a black cat!", ["cat"], 2 / 3),
        ("dog", ["cat", "a dog"], 1.0),
        ("dog", ["cat"], 0.0),
        ("", ["the"], 1.0),
    ],
)
def test_f1(answer: str, truths: list[str], wanted: float) -> None:
    assert published.f1(answer, truths) == pytest.approx(wanted)


def test_the_answer_of_a_context(at_hand: None) -> None:
    """Logits that point at one word give that word, whichever window it is in."""
    from types import SimpleNamespace

    model, tokenizer = published.checkpoint("QuestionAnswering", TASKS["squad"].source[0])
    data = {"question": ["read write"], "context": [sentence(3, 30)]}
    windows = published.squad_windows(tokenizer, data, 16, 4, torch.device("cpu"))
    assert len(windows.record) > 2 and set(windows.record) == {0}
    wanted = tokenizer.convert_tokens_to_ids(data["context"][0].split()[20])

    def told(input_ids: Any, **_: Any) -> Any:
        at = (input_ids == wanted).float() * 9
        return SimpleNamespace(start_logits=at, end_logits=at)

    found: Callable[..., Any] = told
    assert published.answers(found, windows, data["context"]) == [data["context"][0].split()[20]]
    assert model.training is False
