"""Text, models and sizes: which transformer reads what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common import files
from common.errors import UserError
from common.textlab import corpus, models, public, store, tokens
from common.textlab.corpus import Corpus

VERSION = 1  # of what is kept
GPT2, OPENWEBTEXT = "openai-community/gpt2", "Skylion007/openwebtext"  # on the hub


@dataclass(frozen=True)
class Task:
    """A model, its text and the length of its training.

    Attributes:
        kind: a decoder that predicts the next token, or an encoder that fills in masked ones.
        layers, width, heads: of the dense model.
        vocabulary: tokens that it knows.
        length: T, tokens of a window.
        batch: windows of an iteration.
        micro: windows whose gradient is computed at once.
        steps: iterations.
        every: delta T, iterations between updates of the topology.
        stride: l of sparse attention.
        text: what is read.
        lr: peak learning rate.
        schedule: level and then linear, or a cosine.
        warm_up: share of the iterations over which the learning rate rises.
        mask_head: the output head, which is the embedding as well, is sparse too (public code).
        narrow_heads: attention heads of the narrower dense model.
        validation: windows of the final evaluation, at most.
        precision: of products; weights and sums are float32.
        zero_shot: other texts and tasks at the end.
    """

    kind: Literal["gpt2", "bert"]
    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    batch: int
    micro: int
    steps: int
    every: int
    stride: int
    text: Literal["library", "tenth", "installed", "openwebtext"]
    lr: float = 3e-3
    schedule: Literal["level", "cosine"] = "level"
    warm_up: float = 0.05
    mask_head: bool = False
    narrow_heads: int = 2
    validation: int = 2048
    precision: Literal["float32", "bfloat16"] = "float32"
    zero_shot: bool = False

    @property
    def mask_id(self) -> int:
        """The token that stands for a masked one."""
        return self.vocabulary


TINY = {"layers": 2, "width": 64, "heads": 4, "vocabulary": 512, "length": 64, "batch": 32}
TINY |= {"micro": 32, "steps": 1200, "every": 20, "stride": 8, "text": "library"}
TASKS = {
    "gpt2-tiny": Task("gpt2", **TINY),  # type: ignore[arg-type]
    "bert-tiny": Task("bert", **TINY),  # type: ignore[arg-type]
    "gpt2-mid": Task(
        **{"kind": "gpt2", "layers": 4, "width": 128, "heads": 4, "vocabulary": 2048},
        **{"length": 256, "batch": 64, "micro": 64, "steps": 8000, "every": 50, "stride": 32},
        **{"text": "installed", "precision": "bfloat16", "narrow_heads": 4},
    ),
    "gpt2-small": Task(  # of the public code
        **{"kind": "gpt2", "layers": 12, "width": 768, "heads": 12, "vocabulary": 50304},
        **{"length": 1024, "batch": 480, "micro": 12, "steps": 600_000, "every": 100},
        **{"stride": 128, "text": "openwebtext", "lr": 6e-4, "schedule": "cosine"},
        **{"warm_up": 2000 / 600_000, "mask_head": True, "narrow_heads": 12},
        **{"validation": 4096, "precision": "bfloat16", "zero_shot": True},
    ),
}


def model_of(task: Task, width: int, heads: int, seed: int) -> Any:
    """The task's model at some width, dense, with fresh weights of ``seed``.

    GPT-2 without biases and dropout, residual projections N(0, (0.02/sqrt(2 L))^2), tied head;
    BERT without dropout, tied head, and one token more.
    """
    if task.kind == "gpt2":
        sizes = {"layers": task.layers, "width": width, "heads": heads}
        model = models.gpt2(task.vocabulary, task.length, **sizes, seed=seed, bias=False)
        for block in model.transformer.h:  # the library's own form takes eight passes
            block.mlp.act = nn.GELU(approximate="tanh")
        return model
    import transformers

    config = transformers.BertConfig(
        **{"vocab_size": task.vocabulary + 1, "hidden_size": width, "intermediate_size": 4 * width},
        **{"num_hidden_layers": task.layers, "num_attention_heads": heads},
        **{"max_position_embeddings": task.length, "type_vocab_size": 1, "pad_token_id": None},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        **{"hidden_act": "gelu_pytorch_tanh"},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.BertForMaskedLM(config)


# -- text -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """What is read.

    Attributes:
        train, validation: numbers of the tokens, uint16. [n].
        n_bytes: bytes of each token, where a vocabulary has been made for the text. [V].
        about: what the text depends on.
    """

    train: NDArray[np.uint16]
    validation: NDArray[np.uint16]
    n_bytes: NDArray[np.int64] | None
    about: str


def installed() -> Corpus:
    """The standard library with its tests, and the sources of two large packages."""
    return corpus.joined(
        corpus.standard_library(tests=True), corpus.installed("torch", "transformers")
    )


def tenth() -> Corpus:
    """Every tenth file of the standard library."""
    whole = corpus.standard_library()
    return Corpus(f"a tenth of the {whole.name}", whole.about, whole.documents[::10])


CORPORA: dict[str, Callable[[], Corpus]] = {
    "library": corpus.standard_library,
    "tenth": tenth,
    "installed": installed,
}


def text_of(task: Task) -> Text:
    """The tokens of a task's text, made once and kept."""
    if task.text == "openwebtext":
        return openwebtext(task.length)
    read = CORPORA[task.text]()
    tokenizer = tokens.tokenizer(read, task.vocabulary)

    def make() -> store.Arrays:
        return {
            part: tokens.tokens(read, task.vocabulary, part).ids for part in ("train", "validation")
        }

    # the numbers alone: dividing the corpus into parts takes ten seconds
    key = {"corpus": read.digest, "tokenizer": tokenizer.digest, "version": VERSION}
    found = store.arrays("parts", key, make)
    about = f"{read.name} ({read.about})"
    return Text(found["train"], found["validation"], tokenizer.lengths, about)


# -- the paper's text -----------------------------------------------------------------------------


def numbers(tokenizer: Any, texts: Any, batch: int = 1000) -> Iterator[NDArray[np.uint16]]:
    """Tokens of many texts, ``batch`` texts at a time, <|endoftext|> after each."""
    end, rows = tokenizer.eos_token_id, iter(texts)
    while part := list(itertools.islice(rows, batch)):
        ids = tokenizer([row["text"] for row in part], add_special_tokens=False)["input_ids"]
        yield np.array([i for row in ids for i in (*row, end)], dtype=np.uint16)


def openwebtext(length: int) -> Text:
    """OpenWebText in GPT-2's tokens, 0.05 % of it for validation (seed 2357).

    Written once, as two arrays below the cache (18 GB).

    Raises:
        UserError: if it cannot be had, or is too short.
    """
    folder = files.cache_root() / "mst" / "openwebtext"
    with files.locked(folder / "lock", "", wait=True):
        paths = {part: folder / f"{part}.npy" for part in ("train", "validation")}
        if not all(path.is_file() for path in paths.values()):
            tokenizer = public.tokenizer(GPT2)
            parts = public.data_set(OPENWEBTEXT, columns=("text",)).train_test_split(
                test_size=0.0005, seed=2357
            )
            for part, rows in (("train", parts["train"]), ("validation", parts["test"])):
                store.sequence(paths[part], numbers(tokenizer, rows), np.uint16)
    found = {part: np.load(path, mmap_mode="r", allow_pickle=False) for part, path in paths.items()}
    if min(map(len, found.values())) <= length:
        raise UserError(f"OpenWebText has parts of less than {length + 1} tokens; remove {folder}")
    return Text(found["train"], found["validation"], None, OPENWEBTEXT)


__all__ = [
    "CORPORA",
    "TASKS",
    "Task",
    "Text",
    "model_of",
    "numbers",
    "openwebtext",
    "text_of",
]
