"""Data sets and the values each is trained with: 2-D sets, digits, 32 x 32 images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import digits
from common.errors import UserError, choose
from common.files import find_data
from common.image_sets import image_set
from common.stacked import rand, randint
from common.toy_data import checkerboard
from papers.qcsgm.methods import Family

TOY = ("8gaussians", "spirals", "checkerboard")
IMAGES = ("cifar10", "cifar100", "imagenet32", "svhn")
SCORES = (*TOY, "digits", *IMAGES)
SPIRAL_SCALE = 2.3 / 3
N_TOY = 50_000  # points of a 2-D training set
N_HELD_OUT = 2_000  # further points, for likelihoods
IMAGE_LEVELS = 100  # noise levels that the asymmetry on 32 x 32 images is averaged over


@dataclass(frozen=True)
class Setting:
    """How score models are trained on a set; the paper's values are those of the authors' code."""

    sigma_min: float  # smallest noise level, in units of the data
    sigma_max: float  # largest
    steps: int  # gradient steps
    batch: int  # points a step
    lr: float  # Adam's learning rate
    lam: tuple[float, ...]  # weights of the regulariser; several are trained side by side
    regularise_after: int = 0  # steps of plain U before the regulariser sets in (fine-tuning)
    matching: float = 1.0  # factor of the matching loss 1/2 |sigma s + z|^2; 2-D: 2, as the code
    warm_up: int = 0  # steps over which the learning rate rises
    ema: float = 0.0  # decay of the averaged weights, which are evaluated; 0: none
    t_min: float = 0.0  # t ~ U(t_min, 1)


_TOY = Setting(
    sigma_min=0.1,
    sigma_max=3.0,
    steps=2000,
    batch=1000,  # paper: 5000
    lr=7.5e-4,
    lam=(0.1, 1.0),
    matching=2.0,
)
_DIGITS = Setting(
    sigma_min=0.05,
    sigma_max=5.0,
    steps=4000,
    batch=128,
    lr=1e-3,
    lam=(1e-3, 1e-2),
    regularise_after=3000,
    ema=0.999,
    t_min=1e-5,
)
_NCSNPP = Setting(  # on top of U trained for 600,000 steps (SVHN: 300,000)
    sigma_min=0.01,
    sigma_max=50.0,
    steps=100_000,
    batch=128,
    lr=2e-4,
    lam=(1e-4,),
    warm_up=5000,
    ema=0.999,
    t_min=1e-5,
)

SETTINGS = {
    "8gaussians": _TOY,
    "spirals": _TOY,
    "checkerboard": _TOY,  # paper: 4000 steps
    "digits": _DIGITS,
    "cifar10": _NCSNPP,
    "cifar100": _NCSNPP,
    "imagenet32": _NCSNPP,
    "svhn": replace(_NCSNPP, steps=150_000),
}


def family(task: str) -> Family:
    """The kind of a task, which says what methods are for it.

    Raises:
        UserError: for an unknown task.
    """
    choose("task", task, SCORES)
    return "toy" if task in TOY else "images" if task in IMAGES else "digits"


# -- 2-D sets, as the authors draw them ----------------------------------------------------------


def eight_gaussians(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """(N(0, I) + 8 (unit vector in one of 8 directions)) / sqrt 2. [n, 2]."""
    angle = rng.integers(0, 8, n) * (2 * np.pi / 8)
    centre = 8 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (rng.standard_normal((n, 2)) + centre) / math.sqrt(2)


def spirals(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """+-(-r cos r + U'/2, r sin r + U''/2) 2.3 / 3 with r = 3 pi sqrt(U). [n, 2]."""
    r = 3 * np.pi * np.sqrt(rng.random(n))
    arm = np.stack([-r * np.cos(r), r * np.sin(r)], axis=1) + rng.random((n, 2)) / 2
    sign = rng.choice([-1.0, 1.0], (n, 1))
    return sign * arm * SPIRAL_SCALE


def toy_points(task: str, split: str) -> Tensor:
    """The training set [N_TOY, 2] or the held-out points [N_HELD_OUT, 2], the same for all runs."""
    draw = {"8gaussians": eight_gaussians, "spirals": spirals, "checkerboard": checkerboard}[task]
    rng, n = {
        "train": (np.random.default_rng(0), N_TOY),
        "test": (np.random.default_rng(1), N_HELD_OUT),
    }[split]
    return torch.from_numpy(draw(rng, n)).float()


# -- images ---------------------------------------------------------------------------------------


def image_bytes(task: str, split: str) -> NDArray[np.uint8]:
    """Channel-first images [N, 3 * 32 * 32] from ``$PAPERS_DATA``; nothing is unpickled.

    Raises:
        UserError: if a file is not there; it says what to obtain.
    """
    if task in ("cifar10", "cifar100"):
        return image_set(task, split)[0]
    if task == "svhn":
        from scipy.io import loadmat

        path = find_data(
            f"svhn/{split}_32x32.mat",
            "SVHN",
            "download it from http://ufldl.stanford.edu/housenumbers",
        )
        images = loadmat(path)["X"]  # [32, 32, 3, N]
        return np.ascontiguousarray(images.transpose(3, 2, 0, 1)).reshape(-1, 3072)
    name = "train_data_batch_*.npz" if split == "train" else "val_data.npz"
    folder = find_data(
        "imagenet32",
        "ImageNet 32 x 32",
        "unpack the npz archives of https://image-net.org/download-images (downsampled)",
    )
    files = sorted(folder.glob(name))
    if not files:
        raise UserError(
            f"{folder} holds no {name}; unpack the npz archives of ImageNet 32 x 32 there"
        )
    return np.concatenate([np.load(f, allow_pickle=False)["data"] for f in files])


def pretrained(task: str) -> Path:
    """Folder with the weights of U for an image set, in diffusers' format.

    Raises:
        UserError: if it is not there; it says how to make it.
    """
    return find_data(
        f"qcsgm/ncsnpp-{task}",
        f"a pretrained U-NCSN++ for {task}",
        "make it by `python -m papers.qcsgm.pretrain` (NOTES.md), or put a diffusers UNet2DModel "
        "folder there",
    )


# -- batches --------------------------------------------------------------------------------------


class Data:
    """Training points, drawn with replacement: clean in 2-D, dequantised and scaled for images."""

    def __init__(self, task: str, device: torch.device) -> None:
        self.levels, self.flip = 0, False  # 0: real-valued
        self.stacks = task not in IMAGES  # several networks can be trained at once
        if task in TOY:
            self.points = toy_points(task, "train")
        elif task == "digits":
            self.points = torch.from_numpy(digits.splits()["train"].x)
            self.levels = digits.LEVELS
        else:
            self.points = torch.from_numpy(image_bytes(task, "train"))
            self.levels, self.flip = 256, task != "svhn"  # mirrored digits are other digits
        self.device = device

    @property
    def dim(self) -> int:
        """D."""
        return self.points.shape[-1]

    def batch(self, generators: list[torch.Generator], n: int) -> Tensor:
        """[S, n, D]: in 2-D as they are, else (integer + U[0, 1)) / levels."""
        x = self.points[randint(generators, len(self.points), n)]
        if self.levels:
            x = (x + rand(generators, n, self.dim)) / self.levels
        if self.flip:
            side = math.isqrt(self.dim // 3)
            images = x.unflatten(-1, (3, side, side))
            mirrored = randint(generators, 2, n, 1).bool()
            x = torch.where(mirrored, images.flip(-1).flatten(-3), x)
        return x.float().to(self.device)


def test_images(task: str, rng: np.random.Generator, draws: int) -> Tensor:
    """Test images, dequantised ``draws`` times over. [draws * N, D] in [0, 1)."""
    x = digits.splits()["test"].x if task == "digits" else image_bytes(task, "test")
    levels = digits.LEVELS if task == "digits" else 256
    return torch.from_numpy(digits.dequantise(np.tile(x, (draws, 1)), rng, levels)).float()
