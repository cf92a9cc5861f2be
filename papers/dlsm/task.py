"""The experiments: moons (exact scores), digits (8 x 8 images), CIFAR-10 and -100 (GPU).

A task says what the data are, how much noise there is, which networks learn, and with which
hyperparameters; it holds no results and no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.errors import choose
from common.image_sets import image_set
from common.score import noise_level
from common.stacked import rand, randn
from papers.dlsm.methods import TASKS


@dataclass(frozen=True)
class Task:
    """One experiment and its hyperparameters; the source of each value is in brackets."""

    name: str
    n_classes: int
    dim: int  # D
    sigma_min: float  # [code] of moons and CIFAR
    sigma_max: float  # [code]
    t_min: float = 0.0  # training draws t ~ U(t_min, 1) [code: 0 on moons, 1e-5 on CIFAR]
    # stage 1: the score model
    score_weight: float = 1.0  # w of denoising score matching [code: 2 on moons]
    score_lr: float = 2e-4  # Adam [code: 6.5e-4 on moons]
    score_cosine: bool = False  # cosine decay to 0 [ours, moons and digits: the runs are short]
    score_steps: int = 950_000  # [code: 40,000 on moons]
    score_batch: int = 128  # [code: 4,000 on moons]
    score_warm_up: int = 0  # steps of linear warm-up [code: 5,000 on CIFAR]
    score_ema: float = 0.0  # decay of the evaluated average; 0: none [code: 0.999 on CIFAR]
    flip: bool = False  # stage 1 sees mirrored images too [code: CIFAR]
    # stage 2: the classifier, all methods
    weight: float = 0.0  # w of L_DLSM' [code: 2 on moons, 0 on CIFAR]
    lambda_ce: float = 1.0  # lambda of L_Total [code: 0.125 on moons, 1 on CIFAR]
    lr: float = 2e-4  # Adam, constant [code: 1e-5 and 2e-5 on moons, with 40,000 steps]
    steps: int = 60_000  # [code: 40,000 on moons]
    batch: int = 150  # [code: 4,000 on moons]
    warm_up: int = 0  # [code: 1,000 on CIFAR-100]
    clip: float = 0.0  # largest gradient norm, both stages; 0: none [code: 1 on CIFAR]
    # evaluation
    k: int = 3  # neighbours of precision and recall [code: 5 on moons]
    samples: int = 5_000  # per class [code: CIFAR]
    sampler_steps: int = 1_000  # noise levels of the PC sampler; Langevin steps on moons [code]
    cas_steps: int = 400_000  # training steps of the CAS network [code: at most 400,000]

    def rate(self, step: int) -> float:
        """Adam's rate of classifiers at a step: linear warm-up, then constant."""
        return self.lr * min(1.0, step / self.warm_up if self.warm_up else 1.0)

    def score_rate(self, step: int) -> float:
        """Adam's rate of score models at a step: linear warm-up, then constant or a cosine to 0."""
        rate = self.score_lr
        if self.score_warm_up:
            rate *= min(1.0, step / self.score_warm_up)
        if self.score_cosine:
            rate *= 0.5 * (1.0 + math.cos(math.pi * step / self.score_steps))
        return rate


MOONS = Task(
    "moons",
    n_classes=2,
    dim=2,
    sigma_min=1e-3,
    sigma_max=10.0,
    score_weight=2.0,
    score_lr=6.5e-4,
    score_cosine=True,
    score_steps=6_000,
    score_batch=512,
    weight=2.0,
    lambda_ce=0.125,
    steps=6_000,
    batch=512,
    k=5,
    samples=2_000,
    sampler_steps=300,
    cas_steps=0,
)
DIGITS = Task(
    "digits",
    n_classes=10,
    dim=64,
    sigma_min=0.05,
    sigma_max=5.0,
    score_lr=1e-3,
    score_cosine=True,
    score_steps=8_000,
    score_batch=128,
    weight=1.0,
    steps=8_000,
    batch=128,
    samples=100,
    sampler_steps=200,
    cas_steps=600,
)
CIFAR10 = Task(
    "cifar10",
    n_classes=10,
    dim=3 * 32 * 32,
    sigma_min=0.01,
    sigma_max=50.0,
    t_min=1e-5,
    score_warm_up=5_000,
    score_ema=0.999,
    flip=True,
    clip=1.0,
)
CIFAR100 = replace(CIFAR10, name="cifar100", n_classes=100, warm_up=1_000, samples=500)


def make_task(name: str) -> Task:
    """The experiment `name` with its default hyperparameters."""
    choose("task", name, TASKS)
    return next(task for task in (MOONS, DIGITS, CIFAR10, CIFAR100) if task.name == name)


# --------------------------------------------------------------------------- data


def load(name: str, split: str = "train") -> tuple[Tensor, Tensor]:
    """x [N, D] (float32; CIFAR: uint8, see `as_float`) and labels [N] of a split.

    Args:
        name: one of TASKS.
        split: "train" or "held-out". Moons have one set of points, which is both.
    """
    if name == "moons":
        return moons()
    if name == "digits":
        return digits(split)
    return cifar(name, split)


def moons() -> tuple[Tensor, Tensor]:
    """Two interleaved half circles of 5,000 points each, centred, times 20; no noise."""
    from sklearn.datasets import make_moons

    x, y = make_moons(10_000, noise=0.0, random_state=1)
    x = 20.0 * (x - x.mean(0))
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def digits(split: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits in [0, 1]: 1,197 to train on, the other 600 held out."""
    from common.digits import splits

    parts = splits()
    chosen = [parts["train"]] if split == "train" else [parts["valid"], parts["test"]]
    x, y = (np.concatenate([getattr(part, name) for part in chosen]) for name in "xy")
    return torch.from_numpy(x).float() / 16.0, torch.from_numpy(y)


def cifar(name: str, split: str) -> tuple[Tensor, Tensor]:
    """CIFAR as uint8 [N, 3072], channels first, from $PAPERS_DATA or by the library `datasets`.

    Raises:
        UserError: if neither is at hand.
    """
    x, y = image_set(name, "train" if split == "train" else "test")
    return torch.from_numpy(x.copy()), torch.from_numpy(y)


def as_float(x: Tensor) -> Tensor:
    """Pixels of 0..255 -> [0, 1]; everything else as it is."""
    return x.float() / 255.0 if x.dtype == torch.uint8 else x


def draw(
    x: Tensor, pools: list[Tensor], generators: list[torch.Generator], batch: int, task: Task
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of every network: rows [S, B], x [S, B, D], sigma [S, B, 1], z [S, B, D].

    Args:
        x: all data [N, D].
        pools: the rows that each network learns from.
        generators: of each network.
        batch: B.
        task: says how much noise there is.
    """
    rows = torch.stack(
        [
            pool[torch.randint(len(pool), (batch,), generator=g, device=g.device)]
            for pool, g in zip(pools, generators, strict=True)
        ]
    )
    t = task.t_min + (1.0 - task.t_min) * rand(generators, batch, 1)
    sigma = noise_level(t, task.sigma_min, task.sigma_max)
    return rows, as_float(x[rows]), sigma, randn(generators, batch, task.dim)


# --------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class ImageNetworks:
    """Sizes of CIFAR's networks; the defaults are the published ones, tests take small ones."""

    channels: tuple[int, ...] = (128, 256, 256, 256)  # NCSN++: nf 128, multipliers 1, 2, 2, 2
    layers: int = 8  # residual blocks per resolution (the deep version)
    dropout: float = 0.1  # of the score model
    width: int = 64  # channels of the classifier's first stage
