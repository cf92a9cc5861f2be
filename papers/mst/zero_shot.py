"""What a model of the paper's size does on other texts and tasks, without training on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from common.textlab import evaluate, public, tokens
from papers.mst.learning import nll
from papers.mst.task import GPT2, Task, numbers

# name -> data set, configuration, part
TEXTS = {
    "LAMBADA": ("EleutherAI/lambada_openai", "default", "test"),
    "Penn Treebank": ("ptb-text-only/ptb_text_only", None, "test"),
    "WikiText-2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
    "WikiText-103": ("Salesforce/wikitext", "wikitext-103-raw-v1", "test"),
    "1BW": ("dvruette/lm1b", None, "test"),
}
TASKS = {"lambada_openai": 0, "rte": 5, "sst2": 5}  # of the harness, with their shots


def of_texts(model: Any, task: Task) -> Iterator[tuple[str, float]]:
    """Mean -log p per token of GPT-2's vocabulary, on windows of the whole context."""
    tokenizer = public.tokenizer(GPT2)
    for name, (place, part, split) in TEXTS.items():
        there = public.data_set(place, part, split)
        words = (row.get("text") or row.get("sentence", "") for row in there)
        rows = ({"text": text} for text in words if text.strip())  # the hub's treebank: "sentence"
        ids = np.concatenate(list(numbers(tokenizer, rows)))
        windows = tokens.fixed_windows(ids, task.length, task.validation)
        yield name, nll(model, task, windows)


def of_tasks(model: Any) -> Iterator[tuple[str, float]]:
    """Accuracy on tasks of the harness, zero-shot and few-shot."""
    tokenizer = public.tokenizer(GPT2)
    for name, shots in TASKS.items():
        yield name, evaluate.harness(model, tokenizer, [name], num_fewshot=shots)[name]
