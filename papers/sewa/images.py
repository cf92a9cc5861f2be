"""Images: scikit-learn's digits with wrong labels, and CIFAR-100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from common.image_sets import image_set
from papers.sewa.examples import Batch, Plain, Work, accuracy, classification, constant
from papers.sewa.networks import resnet

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of CIFAR-100


def noisy(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """A share of the labels drawn anew, always another class of the ten."""
    wrong = rng.random(len(labels)) < share
    return np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)


def digits_work(task: Any, seed: int, device: torch.device) -> Work:
    """Some hundred images of digits, a share of whose labels is wrong; a small residual network.

    Training and held-out images have wrong labels, test images have not.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng([3, seed])
    order = rng.permutation(len(x))
    n, more = task.examples, task.examples // 4
    images = torch.from_numpy(x[order] / 16.0 - 0.3).float().view(-1, 1, 8, 8)
    labels = torch.from_numpy(np.concatenate(
        [noisy(y[order[: n + more]], task.wrong, rng), y[order[n + more :]]]))  # fmt: skip
    both = (images, labels)
    cuts = (slice(0, n), slice(n, n + more), slice(n + more, None))
    parts = [Plain(tuple(t[cut] for t in both)) for cut in cuts]
    torch.manual_seed(seed)
    width = task.width
    model = resnet(1, (width, width, 2 * width), 10, (1,)).to(device)
    return of_images(model, parts, task, constant(task.lr), device)


def of_images(model: nn.Module, parts: list[Any], task: Any, rate: Any,
              device: torch.device) -> Work:  # fmt: skip
    """The work of classifying images by SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), task.lr, momentum=0.9, weight_decay=task.decay)
    work: Work

    def measure(net: nn.Module) -> dict[str, float]:
        return {"score": accuracy(work, work.test, net)}

    work = Work(
        model,
        parts[0],
        parts[1],
        parts[2],
        classification,
        measure,
        optimizer,
        rate,
        task.batch,
        device,
    )
    return work


@dataclass(frozen=True)
class Augmented:
    """CIFAR as bytes; training sees random crops and mirror images.

    Attributes:
        images: [n, 3, 32, 32] uint8.
        labels: [n].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, at: Tensor, generator: torch.Generator | None = None) -> Batch:
        """See ``examples.Examples``."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        x = (self.images[at].float() / 255 - mean) / std
        if generator is not None:
            padded = F.pad(x, (4, 4, 4, 4))
            rows, columns = torch.randint(9, (2, len(at), 1), generator=generator)
            i = (rows + torch.arange(32))[:, None, :, None]
            j = (columns + torch.arange(32))[:, None, None, :]
            n, c = torch.arange(len(at))[:, None, None, None], torch.arange(3)[:, None, None]
            x = padded[n, c, i, j]
            mirrored = torch.rand(len(at), generator=generator) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        return x, self.labels[at]


def cifar_work(task: Any, seed: int, device: torch.device) -> Work:
    """CIFAR-100 and a residual network of 1, 3 or 5 blocks; the rate falls every 30 epochs."""
    parts = []
    for split in ("train", "test"):
        images, labels = image_set("cifar100", split)
        shaped = torch.from_numpy(images).view(-1, 3, 32, 32)
        parts.append(Augmented(shaped, torch.from_numpy(labels)))
    torch.manual_seed(seed)
    blocks = task.layers
    widths = (task.width, *(task.width * n for n in (1, 2, 4, 8, 8)[:blocks]))
    model = resnet(3, widths, 100, (1, 2, 3)).to(device)
    third = max(1, round(0.3 * task.steps))
    rate = lambda step: task.lr * 0.1 ** (step // third)  # noqa: E731
    # the public code selects and measures on these two as well; nothing is held out
    return of_images(model, [parts[0], parts[0], parts[1]], task, rate, device)


__all__ = ["Augmented", "cifar_work", "digits_work", "noisy"]
