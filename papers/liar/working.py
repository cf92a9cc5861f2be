"""What a run works on: a model, calibration texts, and how a pruned copy of it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.textlab import encoder
from papers.liar.architecture import Architecture, Batch
from papers.liar.criteria import Loss


@dataclass
class Work:
    """A task for one seed.

    Attributes:
        arch: the unpruned model.
        batches: calibration texts.
        held_out: texts on which modules are compared.
        measure: a model -> its metrics.
        loss: of a batch of calibration texts, for the Fisher criterion.
        tokenizer: of the model.
    """

    arch: Architecture
    batches: list[Batch]
    held_out: list[Batch]
    measure: Callable[[Any], dict[str, float]]
    loss: Loss
    tokenizer: Any

    @property
    def tokens(self) -> int:
        """Of the calibration texts, without padding."""
        return sum(int(batch.real.sum()) for batch in self.batches)


def batched(
    rows: Sequence[Sequence[int]], size: int, pad: int, device: torch.device
) -> tuple[list[Batch], list[list[int]]]:
    """Texts of like length side by side; and which they are."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    made = [Batch(*encoder.padded([rows[i] for i in part], pad)).to(device) for part in parts]
    return made, parts
