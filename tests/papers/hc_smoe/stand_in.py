"""A text of a few thousand words, and sizes at which everything takes milliseconds."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.textlab.corpus import Corpus, Document
from papers.hc_smoe.task import C4

TRAINING: dict[str, Any] = {
    **{"vocabulary": 300, "length": 24, "layers": 2, "width": 16, "heads": 2, "experts": 4},
    **{"batch": 4, "dense_steps": 4, "steps": 4},
}
MERGING: dict[str, Any] = {"calibration": 6, "windows": 6, "errors": 3, "most": 5, "batch": 4}


def flags(values: dict[str, Any]) -> list[str]:
    """The command line of some values."""
    return [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def text(seed: int = 0) -> Corpus:
    """Documents of random words in two domains."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(60)])
    documents = []
    for i in range(40):
        drawn = " ".join(words[rng.zipf(1.5, 250) % 60])
        documents.append(Document(f"{i}.py", f"d{i % 2}", drawn))
    return Corpus("stand-in", f"seed {seed}", tuple(documents))


def public_mixture(folder: Path, kind: str, seed: int = 0) -> Path:
    """A random mixture of the public class with its tokenizer, saved as on the hub."""
    import tokenizers
    import transformers

    from common.textlab import models

    shape: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "hidden": 8, "experts": 4}
    shape |= {"active": 2, "balance": 0.01, "seed": seed}
    if kind == "mixtral":
        model = models.mixtral(300, 16, **shape)
    else:
        model = models.qwen_moe(300, 16, shared=16, **shape)
    model.save_pretrained(folder)
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([d.text for d in text().documents], 300, special_tokens=["<eos>"])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token="<eos>")
    fast.save_pretrained(folder)
    return folder


def c4(root: Path) -> Path:
    """JSON Lines as C4's, where $PAPERS_DATA is ``root``."""
    import json

    name, file = C4
    path = root / name / file
    path.parent.mkdir(parents=True)
    lines = [json.dumps({"text": d.text, "url": d.path}) for d in text(1).documents]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return root


def harness(model: Any, tokenizer: Any, tasks: list[str], **options: Any) -> dict[str, float]:
    """In the place of the LM Evaluation Harness: a number of the model's own per task."""
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8)[None]).logits
    spread = float(logits.softmax(-1).max(-1).values.mean())
    return {task: (0.5 + spread + 0.01 * i) / 2 for i, task in enumerate(tasks)}
