"""How class-conditional samples are judged: by networks trained on the spot, none downloaded.

None of them guides anything, none sees noise. FID and IS are in ``common/image_judges.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.sample_metrics import mmd2, prdc

Features = Callable[[Tensor], Tensor]  # images [N, D] -> [N, F]


class SmallCNN(nn.Module):
    """8 x 8 digits: two convolutions, 64 features, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU()),
        )
        self.out = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Flat images [N, 64] -> [N, 64]."""
        return self.convolutions(x.view(-1, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))


class FlatResNet(nn.Module):
    """A ResNet on flat CIFAR images [N, 3072]."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet

    def features(self, x: Tensor) -> Tensor:
        """[N, 3072] -> [N, F]."""
        return self.resnet.features(x.view(-1, 3, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet.out(self.features(x))


def judge_network(task: str, n_classes: int, width: int, *, cas: bool) -> nn.Module:
    """SmallCNN on digits; on CIFAR ResNet-50 for CAS (as published), ResNet-18 for features."""
    if task == "digits":
        return SmallCNN()
    from papers.dlsm.networks_large import ResNet

    counts = (3, 4, 6, 3) if cas else (2, 2, 2, 2)
    return FlatResNet(ResNet(counts, n_classes, width=width, bottleneck=cas))


def fit(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
) -> nn.Module:
    """Train a classifier from scratch on clean images; the last step counts, not the best.

    Args:
        make: builds the network.
        x: images [N, D] in [0, 1].
        y: labels [N].
        steps: Adam steps.
        lr: learning rate.
        batch: images per step, at most as many as there are.
        seed: of the weights and batches.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make().to(x.device)
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        size = (min(batch, len(x)),)
        rows = torch.randint(len(x), size, generator=generator, device=x.device)
        loss = F.cross_entropy(net(x[rows]), y[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def in_batches(f: Callable[[Tensor], Tensor], x: Tensor, size: int = 1_000) -> Tensor:
    """f over the rows of x, piece by piece."""
    return torch.cat([f(part) for part in x.split(size)])


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images that the network puts into the class y."""
    return (in_batches(net, x).argmax(-1) == y).double().mean().item()


@dataclass(frozen=True)
class Judge:
    """Everything that does not depend on the samples: real images, features, a classifier.

    Attributes:
        task: name of the experiment, for the CAS network.
        x, y: held-out real images and labels.
        classifier: trained on real training images, without noise.
        features: where distances are measured.
        k: neighbours of precision and recall.
        cas: (steps, learning rate, batch, width) of the network trained on samples.
    """

    task: str
    n_classes: int
    x: Tensor
    y: Tensor
    classifier: nn.Module
    features: Features
    k: int
    cas: tuple[int, float, int, int]

    def metrics(self, x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
        """All metrics of samples x [N, D] that were generated as classes y [N].

        cas_cnn, cas_logistic: classifiers trained on the samples, tested on held-out images.
        accuracy: of the samples, by the classifier. precision, …: in feature space, for all
        classes together and, with cw_, class by class and averaged. mmd2 in pixels.
        """
        steps, lr, batch, width = self.cas
        make = lambda: judge_network(self.task, self.n_classes, width, cas=True)  # noqa: E731
        net = fit(make, x, y, steps=steps, lr=lr, batch=batch, seed=seed)
        values = {
            "accuracy": accuracy(self.classifier, x, y),
            "cas_cnn": accuracy(net, self.x, self.y),
        }
        if self.task == "digits":
            values["cas_logistic"] = logistic_accuracy(x, y, self.x, self.y)
            values["mmd2"] = mmd2(self.x, x)
        real, fake = in_batches(self.features, self.x), in_batches(self.features, x)
        thin = max(1, len(x) // 10_000)  # of all classes together: a table of 50,000^2 is too large
        values |= vars(prdc(real, fake[::thin], self.k))
        by_class = [
            vars(prdc(real[self.y == c], fake[y == c], self.k)) for c in range(self.n_classes)
        ]
        for name in by_class[0]:
            values[f"cw_{name}"] = float(np.mean([part[name] for part in by_class]))
        return values


def logistic_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> float:
    """CAS with multinomial logistic regression on pixels."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1_000).fit(x.cpu().numpy(), y.cpu().numpy())
    return float(model.score(x_test.cpu().numpy(), y_test.cpu().numpy()))
