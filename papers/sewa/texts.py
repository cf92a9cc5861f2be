"""Text: snippets of the standard library by what they are about, and AG News."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.textlab import corpus, public, tokens
from papers.sewa.examples import Plain, Work, accuracy, classification, constant
from papers.sewa.networks import Encoder

GROUPS = ("core", "concurrency", "network", "tooling")  # of others the test has few files
AG_NEWS, LEAST = "fancyzhx/ag_news", 5  # on the hub; how often a word has to occur


def snippets(text: tokens.Tokens, length: int) -> list[NDArray[np.int64]]:
    """Pieces of each group that follow each other. [n, length] each; 0 ends a document."""
    found = []
    for group in GROUPS:
        there = group in text.domains  # a part may hold no file of a group
        ids = (text.of_domain(group) if there else np.zeros(0)).astype(np.int64)
        found.append(ids[: len(ids) // length * length].reshape(-1, length))
    return found


def drawn(groups: Sequence[NDArray[np.int64]], n: int, rng: np.random.Generator) -> Plain:
    """n of each group, all of a group that has fewer."""
    ids, labels = [], []
    for label, rows in enumerate(groups):
        chosen = rng.permutation(len(rows))[:n]
        ids.append(rows[chosen])
        labels.append(np.full(len(chosen), label))
    return Plain((torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(labels))))


def snippets_work(task: Any, seed: int, device: torch.device) -> Work:
    """Which of four groups of packages is a snippet of? Files are in one part alone."""
    source = corpus.standard_library()
    parts = {p: tokens.tokens(source, task.vocabulary, p) for p in corpus.PARTS}
    rng, n = np.random.default_rng([5, seed]), task.examples
    train = [rows[rng.permutation(len(rows))] for rows in snippets(parts["train"], task.length)]
    apart = [rows[: max(1, len(rows) // 5)] for rows in train]
    others = [rows[max(1, len(rows) // 5) :] for rows in train]
    unseen = [
        np.concatenate(pair)
        for pair in zip(
            *(snippets(parts[p], task.length) for p in ("validation", "test")), strict=True
        )
    ]
    data = [drawn(others, n // 4, rng), drawn(apart, n // 16, rng), drawn(unseen, 400, rng)]
    return of_text(data, task.vocabulary, task, seed, device)


def of_text(
    parts: list[Plain], vocabulary: int, task: Any, seed: int, device: torch.device
) -> Work:
    """The work of classifying texts by Adam."""
    torch.manual_seed(seed)
    width = task.width
    model = Encoder(
        vocabulary, task.length, 4, width, task.layers, task.heads, 2 * width
    ).to(device)  # fmt: skip
    work: Work

    def measure(net: nn.Module) -> dict[str, float]:
        return {"score": accuracy(work, work.test, net)}

    optimizer = torch.optim.Adam(model.parameters(), task.lr)
    rate = constant(task.lr)
    work = Work(
        model, parts[0], parts[1], parts[2], classification, measure, optimizer, rate,
        task.batch, device,
    )  # fmt: skip
    return work


def ag_news(split: str) -> tuple[list[str], list[int]]:
    """Texts and classes.

    Raises:
        UserError: if they cannot be had.
    """
    table = public.data_set(AG_NEWS, split=split, columns=("text", "label"))
    return list(table["text"]), [int(label) for label in table["label"]]


def numbered(texts: Sequence[str], known: dict[str, int], length: int) -> NDArray[np.int64]:
    """Words as numbers, padded with 0; 1 is any unknown word. [n, length]."""
    found = np.zeros((len(texts), length), np.int64)
    for row, text in zip(found, texts, strict=True):
        words = [known.get(word, 1) for word in words_of(text)[:length]]
        row[: len(words)] = words
    return found


def words_of(text: str) -> list[str]:
    """Lower-case words and signs."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def news_work(task: Any, seed: int, device: torch.device) -> Work:
    """AG News with a vocabulary of the words that occur five times."""
    texts, labels = ag_news("train")
    counts = Counter(word for text in texts for word in words_of(text))
    frequent = sorted(word for word, n in counts.items() if n >= LEAST)
    known = {word: i + 2 for i, word in enumerate(frequent)}
    order = np.random.default_rng(seed).permutation(len(texts))
    cut = len(texts) // 50 + 1

    def part(rows: NDArray[np.int64], t: Sequence[str], y: Sequence[int]) -> Plain:
        ids = numbered([t[i] for i in rows], known, task.length)
        return Plain((torch.from_numpy(ids), torch.tensor([y[i] for i in rows])))

    test = ag_news("test")
    data = [part(order[cut:], texts, labels), part(order[:cut], texts, labels),
            part(np.arange(len(test[0])), *test)]  # fmt: skip
    return of_text(data, len(known) + 2, task, seed, device)


__all__ = ["GROUPS", "ag_news", "news_work", "numbered", "snippets", "snippets_work"]
