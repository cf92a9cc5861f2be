"""The paper's own models and data: BERT-base on GLUE and SQuAD, LLaMA with WikiText-2.

Everything comes through ``transformers`` and ``datasets``; see :mod:`common.textlab.public`.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from common.textlab import encoder, evaluate, public
from papers.liar.architecture import Batch, architecture
from papers.liar.config import Config
from papers.liar.task import TASKS
from papers.liar.working import Work, batched

SENTENCES = {  # columns of GLUE's tasks
    **{
        "sst2": ("sentence",),
        "mrpc": ("sentence1", "sentence2"),
        "rte": ("sentence1", "sentence2"),
    },
    **{"qqp": ("question1", "question2"), "qnli": ("question", "sentence")},
    "mnli": ("premise", "hypothesis"),
}
STRIDE, LONGEST_ANSWER, BEST = 128, 30, 20  # SQuAD's usual: tokens, tokens, starts and ends tried


def checkpoint(kind: str, name: str, **options: Any) -> tuple[Any, Any]:
    """A model of a class ``AutoModelFor...`` and its tokenizer.

    Raises:
        UserError: if it cannot be had.
    """
    model = public.model(kind, name, attn_implementation="sdpa", **options)
    return model.eval(), public.tokenizer(name)


def some(n_all: int, n: int, seed: int) -> list[int]:
    """n of n_all records, drawn without repetition (all, where there are fewer)."""
    return sorted(np.random.default_rng(seed).permutation(n_all)[:n].tolist())


def encoded(
    tokenizer: Any, rows: Sequence[Sequence[str]], limit: int, size: int, device: torch.device
) -> tuple[list[Batch], list[list[int]]]:
    """Texts, or pairs of them, side by side, with the types of BERT's two sentences."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    found = tokenizer(*columns, truncation=True, max_length=limit, return_token_type_ids=True)
    made, parts = batched(found["input_ids"], size, tokenizer.pad_token_id or 0, device)
    typed = []
    for batch, part in zip(made, parts, strict=True):
        types = encoder.padded([found["token_type_ids"][i] for i in part], 0)[0]
        typed.append(Batch(batch.ids, batch.real, types.to(device)))
    return typed, parts


@torch.no_grad()
def outputs(model: Any, batches: Sequence[Batch]) -> list[Any]:
    """What a model of ``transformers`` gives for each batch."""
    return [
        model(input_ids=b.ids, attention_mask=b.real.long(), token_type_ids=b.types)
        for b in batches
    ]


# -- GLUE ------------------------------------------------------------------------------------------


def agreed_labels(predicted: NDArray[np.int64], truth: NDArray[np.int64], n: int) -> NDArray:
    """The checkpoint's labels in the data set's order: the assignment with the most agreements.

    Checkpoints on the hub number MNLI's classes in their own ways. By the unpruned model on the
    calibration texts.
    """
    table = np.zeros((n, n))
    np.add.at(table, (predicted, truth), 1)
    return linear_sum_assignment(-table)[1]


def glue_work(cfg: Config, device: torch.device) -> Work:
    """BERT fine-tuned on a task of GLUE; accuracy on its validation part."""
    task = TASKS[cfg.task]
    name, short = task.source
    model, tokenizer = checkpoint("SequenceClassification", name)
    arch, columns = architecture(model.to(device)), SENTENCES[short]
    limit, n = cfg.length or task.length, cfg.texts or task.texts

    def read(split: str, chosen: list[int] | None) -> tuple[list[Batch], list[NDArray[np.int64]]]:
        data = public.data_set("nyu-mll/glue", short, split)
        data = data.select(some(len(data), n, cfg.seed)) if chosen is None else data
        rows = [[record[c] for c in columns] for record in data]
        batches, parts = encoded(tokenizer, rows, limit, cfg.batch, device)
        labels = np.array(data["label"])
        return batches, [labels[part] for part in parts]

    batches, labels = read("train", None)
    judged, truth = read("validation_matched" if short == "mnli" else "validation", [])

    def predicted(pruned: Any, of: Sequence[Batch]) -> NDArray[np.int64]:
        return np.concatenate([o.logits.argmax(-1).cpu().numpy() for o in outputs(pruned, of)])

    n_labels = model.config.num_labels
    order = agreed_labels(predicted(model, batches), np.concatenate(labels), n_labels)
    own = np.argsort(order)  # the checkpoint's number of a label

    def measure(pruned: Any) -> dict[str, float]:
        right = order[predicted(pruned, judged)] == np.concatenate(truth)
        return {"accuracy": float(right.mean())}

    def loss(h: Tensor, batch: Batch, i: int) -> Tensor:
        logits = model.classifier(model.bert.pooler(h))
        wanted = torch.from_numpy(own[labels[i]]).to(device)
        return F.cross_entropy(logits, wanted, reduction="sum")

    return Work(arch, batches, judged[:2], measure, loss, tokenizer)


# -- SQuAD -----------------------------------------------------------------------------------------


def normal(text: str) -> list[str]:
    """Words of an answer as SQuAD compares them."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(answer: str, truths: Sequence[str]) -> float:
    """Best overlap of words with one of the true answers."""
    best = 0.0
    for truth in truths:
        ours, theirs = normal(answer), normal(truth)
        same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
        if same:
            best = max(best, 2 * same / (len(ours) + len(theirs)))
        elif not ours and not theirs:
            best = 1.0
    return best


@dataclass(frozen=True)
class Windows:
    """Contexts cut into overlapping windows.

    Attributes:
        batches: question and window each.
        parts: which window is where.
        record: of each window.
        offsets: characters of each token of the context; None elsewhere.
    """

    batches: list[Batch]
    parts: list[list[int]]
    record: list[int]
    offsets: list[list[tuple[int, int] | None]]


def squad_windows(
    tokenizer: Any, data: Any, limit: int, size: int, device: torch.device
) -> Windows:
    """All windows of some records; neighbours share ``STRIDE`` tokens."""
    found = tokenizer(
        *([q.strip() for q in data["question"]], list(data["context"])),
        truncation="only_second",
        max_length=limit,
        stride=min(STRIDE, limit // 3),
        **dict.fromkeys(("return_overflowing_tokens", "return_offsets_mapping"), True),
        return_token_type_ids=True,
    )
    batches, parts = batched(found["input_ids"], size, tokenizer.pad_token_id or 0, device)
    typed = []
    for batch, part in zip(batches, parts, strict=True):
        types = encoder.padded([found["token_type_ids"][i] for i in part], 0)[0]
        typed.append(Batch(batch.ids, batch.real, types.to(device)))
    offsets = [
        [
            tuple(span) if kind == 1 else None
            for span, kind in zip(spans, found.sequence_ids(i), strict=True)
        ]
        for i, spans in enumerate(found["offset_mapping"])
    ]
    return Windows(typed, parts, list(found["overflow_to_sample_mapping"]), offsets)


def answers(model: Any, windows: Windows, contexts: Sequence[str]) -> list[str]:
    """The likeliest span of each context, by the sum of the logits of its start and end."""
    best = [(-np.inf, "")] * len(contexts)
    for part, output in zip(windows.parts, outputs(model, windows.batches), strict=True):
        starts, ends = (t.float().cpu().numpy() for t in (output.start_logits, output.end_logits))
        for row, window in enumerate(part):
            spans, record = windows.offsets[window], windows.record[window]
            inside = [i for i, span in enumerate(spans) if span is not None]
            first = sorted(inside, key=lambda i: -starts[row, i])[:BEST]
            last = sorted(inside, key=lambda i: -ends[row, i])[:BEST]
            for i in first:
                for j in last:
                    score = float(starts[row, i] + ends[row, j])
                    if i <= j < i + LONGEST_ANSWER and score > best[record][0]:
                        text = contexts[record][spans[i][0] : spans[j][1]]  # type: ignore[index]
                        best[record] = (score, text)
    return [text for _, text in best]


def squad_work(cfg: Config, device: torch.device) -> Work:
    """BERT fine-tuned on SQuAD; F1 on its validation part."""
    task = TASKS[cfg.task]
    model, tokenizer = checkpoint("QuestionAnswering", task.source[0])
    arch, limit = architecture(model.to(device)), cfg.length or task.length
    train = public.data_set(task.source[1], "plain_text", "train")
    train = train.select(some(len(train), cfg.texts or task.texts, cfg.seed))
    judged = public.data_set(task.source[1], "plain_text", "validation")
    seen, unseen = (squad_windows(tokenizer, d, limit, cfg.batch, device) for d in (train, judged))
    contexts, truths = list(judged["context"]), [a["text"] for a in judged["answers"]]

    def measure(pruned: Any) -> dict[str, float]:
        found = answers(pruned, unseen, contexts)
        return {"f1": float(np.mean([f1(a, t) for a, t in zip(found, truths, strict=True)]))}

    def loss(h: Tensor, batch: Batch, i: int) -> Tensor:
        starts, ends = model.qa_outputs(h).unbind(-1)
        total = 0 * starts.sum()  # a batch of windows without an answer has a gradient of 0
        for row, window in enumerate(seen.parts[i]):
            answer = train[seen.record[window]]["answers"]
            begin = answer["answer_start"][0]
            end = begin + len(answer["text"][0]) - 1
            at = [
                t for t, s in enumerate(seen.offsets[window]) if s and s[0] <= end and begin < s[1]
            ]
            if at:  # the answer lies in this window
                total = (
                    total - starts[row].log_softmax(-1)[at[0]] - ends[row].log_softmax(-1)[at[-1]]
                )
        return total

    return Work(arch, seen.batches, unseen.batches[:2], measure, loss, tokenizer)


# -- LLaMA -----------------------------------------------------------------------------------------


def wikitext_work(cfg: Config, device: torch.device) -> Work:
    """A published Llama; perplexity of WikiText-2, zero-shot tasks where they are asked for."""
    task = TASKS[cfg.task]
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    model, tokenizer = checkpoint("CausalLM", task.source[0], dtype=dtype)
    arch, length = architecture(model.to(device)), cfg.length or task.length

    def windows(split: str) -> Tensor:
        text = "\n\n".join(public.data_set(task.source[1], "wikitext-2-raw-v1", split)["text"])
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        n = len(ids) // length
        if n < 1:
            raise UserError(f"WikiText-2's {split} part has {len(ids)} tokens, not {length}")
        return ids[: n * length].reshape(n, length)

    train = windows("train")
    chosen = train[some(len(train), cfg.texts or task.texts, cfg.seed)]
    batches = [Batch(p, torch.ones_like(p, dtype=torch.bool)).to(device) for p in chosen.split(1)]
    judged = windows("test")

    def measure(pruned: Any) -> dict[str, float]:
        found = {"nll": float(evaluate.window_losses(pruned, judged, 1).mean())}
        if cfg.zero_shot:
            scores = evaluate.harness(pruned, tokenizer, list(cfg.zero_shot))
            found["accuracy"] = float(np.mean(list(scores.values())))
        return found

    def loss(h: Tensor, batch: Batch, i: int) -> Tensor:
        logits = model.lm_head(model.model.norm(h))[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten())

    held_out = [
        Batch(p, torch.ones_like(p, dtype=torch.bool)).to(device) for p in judged[:2].split(1)
    ]
    return Work(arch, batches, held_out, measure, loss, tokenizer)


def work_of(cfg: Config, device: torch.device) -> Work:
    """What a run on published models works on.

    Raises:
        UserError: if a model or data cannot be had.
    """
    makers = {"glue": glue_work, "squad": squad_work, "wikitext": wikitext_work}
    return makers[TASKS[cfg.task].data](cfg, device)


__all__ = ["agreed_labels", "answers", "checkpoint", "f1", "work_of"]
