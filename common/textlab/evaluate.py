"""Quality of a language model: loss, perplexity, bits per byte, multiple choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import files
from common.textlab.tokens import Tokenizer, Tokens
from common.textlab.training import token_losses

CHOICES = 4
NORMS = ("tokens", "bytes")


@torch.no_grad()
def window_losses(model: Any, windows: Tensor, batch: int = 64, **options: Any) -> Tensor:
    """Mean -log p of the tokens of each window, in nats. [n, T + 1] -> [n]."""
    was, device = model.training, next(model.parameters()).device
    model.eval()
    found = [
        token_losses(model, part.to(device), **options).mean(1).cpu()
        for part in windows.split(batch)
    ]
    model.train(was)
    return torch.cat(found)


@dataclass(frozen=True)
class Quality:
    """Of a model on text.

    Attributes:
        nll: mean -log p of a token. [nats].
        perplexity: exp(nll).
        bits_per_byte: total -log2 p over the bytes of the text: comparable between vocabularies.
    """

    nll: float
    perplexity: float
    bits_per_byte: float


def quality(
    model: Any, windows: Tensor, tokenizer: Tokenizer, batch: int = 64, **options: Any
) -> Quality:
    """Of a model on windows of one length."""
    nll = float(window_losses(model, windows, batch, **options).mean())
    targets = windows[:, 1:].numpy()
    n_bytes = int(tokenizer.lengths[targets].sum())
    return Quality(nll, math.exp(nll), nll * targets.size / math.log(2) / n_bytes)


@dataclass(frozen=True)
class Items:
    """Questions: which of four continuations follows?

    Attributes:
        contexts: [n, C].
        options: [n, 4, L].
        answers: index of what follows in the text. [n].
    """

    contexts: NDArray[np.int64]
    options: NDArray[np.int64]
    answers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def digest(self) -> str:
        """SHA-256 of all of them."""
        parts = (self.contexts, self.options, self.answers)
        return files.sha256(b"".join(a.tobytes() for a in parts))


def multiple_choice(
    tokens: Tokens, n: int, seed: int, *, context: int = 64, length: int = 16
) -> Items:
    """Questions from a text: 64 tokens, and 16 that follow them here or elsewhere.

    The three wrong continuations come from other places of the same domain and begin after the
    same last token, so that grammar alone does not tell them apart. Chance is 1/4.

    Raises:
        ValueError: if the text is too short for so many questions.
    """
    rng = np.random.default_rng(seed)
    domains = sorted(set(tokens.domains))
    texts = {d: tokens.of_domain(d).astype(np.int64) for d in domains}
    span = context + length
    texts = {d: ids for d, ids in texts.items() if len(ids) > 4 * span}
    if not texts:
        raise ValueError(f"no domain has {4 * span} tokens")
    sizes = np.array([len(ids) for ids in texts.values()], dtype=float)
    made: list[tuple[NDArray[np.int64], NDArray[np.int64], int]] = []
    for _ in range(200 * n):
        if len(made) == n:
            break
        ids = texts[rng.choice(list(texts), p=sizes / sizes.sum())]
        at = int(rng.integers(context - 1, len(ids) - length - 1))  # the context's last token
        places = np.flatnonzero(ids[context - 1 : len(ids) - length - 1] == ids[at]) + context - 1
        places = rng.permutation(places[np.abs(places - at) > span])
        gold = ids[at + 1 : at + 1 + length]
        wrong: list[NDArray[np.int64]] = []
        for place in places:
            option = ids[place + 1 : place + 1 + length]
            if not any(np.array_equal(option, other) for other in (gold, *wrong)):
                wrong.append(option)
            if len(wrong) == CHOICES - 1:
                break
        if len(wrong) < CHOICES - 1:
            continue
        answer = int(rng.integers(CHOICES))
        options = np.stack([*wrong[:answer], gold, *wrong[answer:]])
        made.append((ids[at - context + 1 : at + 1], options, answer))
    if len(made) < n:
        raise ValueError(f"the text gives {len(made)} questions, not {n}")
    contexts, options, answers = zip(*made, strict=True)
    return Items(np.stack(contexts), np.stack(options), np.array(answers))


@dataclass(frozen=True)
class Scores:
    """Which questions were answered rightly. [n] bool each.

    Attributes:
        right: by the sum of log p of the option's tokens.
        right_by_bytes: by that sum over the option's bytes.
    """

    right: NDArray[np.bool_]
    right_by_bytes: NDArray[np.bool_]


@torch.no_grad()
def answered(model: Any, items: Items, tokenizer: Tokenizer, batch: int = 64) -> Scores:
    """Answers by the likelihood of each option after its context."""
    n, choices, length = items.options.shape
    contexts = np.repeat(items.contexts, choices, axis=0)
    rows = np.concatenate([contexts, items.options.reshape(n * choices, length)], axis=1)
    device = next(model.parameters()).device
    was = model.training
    model.eval()
    sums = [
        -token_losses(model, part.to(device))[:, -length:].sum(1).cpu()
        for part in torch.from_numpy(rows).split(batch)
    ]
    model.train(was)
    log_p = torch.cat(sums).numpy().reshape(n, choices)
    n_bytes = np.maximum(tokenizer.lengths[items.options].sum(-1), 1)
    return Scores(log_p.argmax(1) == items.answers, (log_p / n_bytes).argmax(1) == items.answers)


def harness(
    model: Any, tokenizer: Any, tasks: list[str], *, metric: str = "acc,none", **options: Any
) -> dict[str, float]:
    """Tasks of the LM Evaluation Harness (``pip install lm-eval``; they are downloads).

    Args:
        model: of ``transformers``.
        tokenizer: its own, of ``transformers``.
        tasks: e.g. ``["arc_easy", "hellaswag"]``.
        metric: by the harness's name.
        options: of ``lm_eval.simple_evaluate``, e.g. ``num_fewshot=0``.

    Raises:
        UserError: if the package is missing.
    """
    from common.errors import UserError

    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(
            "zero-shot tasks need the package lm-eval: 'make setup PAPER=<paper> SCALE=paper' "
            "installs it (the extra 'harness')"
        ) from error
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer)
    found = lm_eval.simple_evaluate(model=wrapped, tasks=tasks, **options)["results"]
    return {task: float(found[task][metric]) for task in tasks}


__all__ = [
    "Items",
    "Quality",
    "Scores",
    "answered",
    "harness",
    "multiple_choice",
    "quality",
    "window_losses",
]
