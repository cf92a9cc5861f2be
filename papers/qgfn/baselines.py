"""The authors' p-quantile, which is not the paper's; what else is compared stands in methods.py."""

from __future__ import annotations

import torch
from torch import Tensor

from papers.qgfn.method import restricted


def p_quantile_per_type(
    logits: Tensor, q: Tensor, mask: Tensor, p: float, sizes: tuple[int, ...]
) -> Tensor:
    """The authors' p-quantile: a quantile within each action type, masked entries included.

    Documented variant, used nowhere: of strings, the letters to append and those to prepend each
    keep their own top 1 - p, and a type with one entry (stop) is never pruned.

    Args:
        sizes: number of actions of each type, in the order of the last axis.
    """
    keep = [
        part >= torch.quantile(part, p, dim=-1, keepdim=True) for part in q.split(list(sizes), -1)
    ]
    return restricted(logits, mask & torch.cat(keep, -1))
