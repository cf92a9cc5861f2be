"""A tiny encoder with its tokenizer, a tiny library, a tiny SlimPajama."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from common.textlab.corpus import Corpus, Document
from papers.disf.published import NAME

WORDS = "read write open close send file line node task value name list queue test event key"
DOMAINS = ("core", "network", "test")
TASK: dict[str, Any] = {
    **{"files": 96, "pieces": 12, "batch": 24, "picks": 6, "vocabulary": 280, "length": 16},
    **{"layers": 1, "width": 16, "heads": 2, "groups": 1, "hidden": 16, "windows": 4, "micro": 2},
    **{"steps": 6, "warm_up": 1, "evaluated": 3, "precision": "float32"},
}


def tokenizer(folder: Path) -> Any:
    """Words alone, saved in ``folder``."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "</s>"]
    words = dict.fromkeys([*special, *WORDS.split(), *DOMAINS])
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>"
    )
    wrapped.save_pretrained(folder)
    return wrapped


def encoder(folder: Path) -> Path:
    """A checkpoint as the package ships it: a BERT of one layer."""
    import transformers

    config = transformers.BertConfig(
        **{"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 12, "max_position_embeddings": 64, "pad_token_id": 0},
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(20)
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def text(domain: str, seed: int, n: int) -> str:
    """Words of a domain, a word tells the next."""
    rng, words = random.Random(f"{domain} {seed}"), WORDS.split()
    own = words[: 6 + 3 * DOMAINS.index(domain)]
    return " ".join([domain, *(rng.choice(own) for _ in range(n))])


def library() -> Corpus:
    """Source files of three domains, paragraphs apart."""
    documents = []
    for i in range(160):
        domain = DOMAINS[min(i % 4, 2)]
        parts = [text(domain, 10 * i + j, 16) for j in range(4)]
        documents.append(Document(f"{domain}/{i}.py", domain, "\n\n".join(parts) + "\n"))
    return Corpus("stand-in", "tests", tuple(documents))


def slimpajama(folder: Path) -> None:
    """Three training files and one of validation, as the data set's JSON Lines."""
    for split, n_files, n_rows in (("train", 3, 20), ("validation", 1, 12)):
        for i in range(n_files):
            lines = []
            for j in range(n_rows):
                domain = DOMAINS[j % 3]
                row = {
                    "text": text(domain, 100 * i + j + 1000 * (split == "train"), 30),
                    "meta": {"redpajama_set_name": domain},
                }
                lines.append(json.dumps(row))
            path = folder / NAME / split / "chunk1" / f"example_{split}_{i}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")


def flags(values: dict[str, Any]) -> list[str]:
    """As words of a command line."""
    return [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]
