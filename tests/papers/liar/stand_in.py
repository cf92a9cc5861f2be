"""A tiny encoder with its tokenizer, saved as a checkpoint; a tiny library of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common.textlab.corpus import Corpus, Document
from papers.liar.texts import Pair

WORDS = "read write open close send file line node task value name list queue test event key"
PACKAGES = ("alpha", "beta", "gamma")


def config(**changes: Any) -> Any:
    import transformers

    sizes = {
        **{"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 12, "max_position_embeddings": 64, "pad_token_id": 0},
    }
    return transformers.BertConfig(**{**sizes, **changes})


def tokenizer(folder: Path) -> Any:
    """Word pieces of the words alone, saved in ``folder``."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS.split(), *PACKAGES])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    wrapped.save_pretrained(folder)
    return wrapped


def sharpened(model: Any) -> Any:
    """Weights large enough that modules matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
    return model


def encoder(folder: Path) -> Path:
    """A checkpoint as the package ships it."""
    import transformers

    torch.manual_seed(0)
    sharpened(transformers.BertModel(config())).save_pretrained(folder)
    tokenizer(folder)
    return folder


def pairs() -> tuple[Pair, ...]:
    """Sixty functions of three packages: docstring and body share words."""
    words, made = WORDS.split(), []
    for i in range(60):
        own = [words[(i * k + k) % len(words)] for k in (1, 3, 5, 7)]
        package = PACKAGES[i % 3]
        made.append(Pair(f"{package}/{i // 3}.py", " ".join([package, *own]), " ".join(own[::-1])))
    return tuple(made)


def library() -> Corpus:
    """Forty files of two domains."""
    words, documents = WORDS.split(), []
    for i in range(40):
        lines = [
            f"{words[(i * j) % len(words)]} = {words[(i + j * j) % len(words)]}({i}, {j})"
            for j in range(1, 30)
        ]
        domain = "core" if i % 2 else "network"
        documents.append(Document(f"{domain}/file{i}.py", domain, "\n".join(lines)))
    return Corpus("stand-in", "tests", tuple(documents))


DECODER: dict[str, Any] = {
    **{"vocabulary": 280, "length": 24, "layers": 2, "width": 8, "heads": 2, "hidden": 12},
    **{"batch": 2, "steps": 4, "log_every": 2},
}
TEXTS = 10  # for calibration
ENCODER: dict[str, Any] = {
    **{"length": 12, "pairs": 8, "eval_length": 12, "held_out": 4, "batch": 4},
    **{"windows": 4, "steps": 3},
}


def flags(values: dict[str, Any]) -> list[str]:
    """As words of a command line."""
    return [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]
