"""What a training is about: examples, a loss, a measure. The three kinds of task give these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from papers.sewa.weights import called_with, finite, renormalise, steady

Batch = tuple[Tensor, ...]  # inputs of the network, and what is wanted, last


class Examples(Protocol):
    """Data from which batches are taken."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def take(self, at: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Those with these numbers; with a generator as training sees them (augmented). [B]."""
        ...


@dataclass(frozen=True)
class Plain:
    """Tensors whose first axis numbers the examples."""

    tensors: Batch

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, at: Tensor, generator: torch.Generator | None = None) -> Batch:
        """See :class:`Examples`."""
        return tuple(x[at.to(x.device)] for x in self.tensors)


@dataclass
class Work:
    """All that a run needs of a task and a seed.

    Attributes:
        model: with its first weights.
        train, held, test: trained on; of the same kind and kept apart; for the test loss.
        loss: (network or the like, batch) -> [].
        measure: of a network in evaluation mode: "score", and whatever else.
        optimizer: of the model's parameters.
        rate: learning rate at a step.
        batch: examples of a mini-batch.
        constants: gives what is known beforehand (the expert's return).
    """

    model: nn.Module
    train: Examples
    held: Examples
    test: Examples
    loss: Callable[[Callable[..., Any], Batch], Tensor]
    measure: Callable[[nn.Module], dict[str, float]]
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    batch: int
    device: torch.device
    constants: Callable[[], dict[str, float]] = dict

    def on_device(self, batch: Batch) -> Batch:
        """A batch where the model is."""
        return tuple(x.to(self.device) for x in batch)

    def drawn(self, data: Examples, generator: torch.Generator) -> Batch:
        """A mini-batch, as training sees it."""
        at = torch.randint(len(data), (min(self.batch, len(data)),), generator=generator)
        return self.on_device(data.take(at, generator))

    def batches(self, data: Examples, size: int = 0) -> Iterator[Batch]:
        """All examples in order, as a test sees them."""
        for at in torch.arange(len(data)).split(size or 4 * self.batch):
            yield self.on_device(data.take(at))

    def objective(self, data: Examples, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """The loss of flat weights on a fresh mini-batch, dropout off. [M, P] -> [M]."""
        batch = self.drawn(data, generator)
        steady(self.model)
        return lambda weights: torch.stack(
            [self.loss(called_with(self.model, one), batch) for one in weights.unbind()]
        )

    @torch.no_grad()
    def score(self, data: Examples, weights: Tensor) -> float:
        """The loss of flat weights on all examples, dropout off. [P]."""
        steady(self.model)
        call, total = called_with(self.model, weights), torch.zeros((), device=self.device)
        for batch in self.batches(data):
            total += self.loss(call, batch) * len(batch[0])
        return finite(float(total) / len(data))

    def settle(self, data: Examples) -> None:
        """Statistics of batch normalisation anew, and evaluation mode."""
        self.model.eval()
        renormalise(self.model, lambda: (batch[:-1] for batch in self.batches(data)))


def classification(call: Callable[..., Any], batch: Batch) -> Tensor:
    """Cross-entropy of logits. []."""
    *inputs, wanted = batch
    return F.cross_entropy(call(*inputs), wanted)


def regression(call: Callable[..., Any], batch: Batch) -> Tensor:
    """Mean squared error. []."""
    *inputs, wanted = batch
    return F.mse_loss(call(*inputs), wanted)


@torch.no_grad()
def accuracy(work: Work, data: Examples, model: nn.Module) -> float:
    """Share of the examples that are classified right, in percent."""
    right = 0
    for *inputs, wanted in work.batches(data):
        right += int((model(*inputs).argmax(-1) == wanted).sum())
    return 100.0 * right / len(data)


def constant(lr: float) -> Callable[[int], float]:
    """A learning rate that stays, so that snapshots go on differing."""
    return lambda step: lr


__all__ = [
    "Batch",
    "Examples",
    "Plain",
    "Work",
    "accuracy",
    "classification",
    "constant",
    "regression",
]
