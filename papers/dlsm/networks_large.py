"""Networks of CIFAR: NCSN++ through diffusers, ResNets with and without noise embedding.

They speak the language of the stacked ones, flat images [1, B, 3072], for one seed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from papers.dlsm.networks import per_sample
from papers.dlsm.task import ImageNetworks

SHAPE = (3, 32, 32)


class Flat(nn.Module):
    """An image network behind x [1, B, 3072], sigma [1, B, 1] or a scalar; output [1, B, …]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError(f"image networks hold one seed, not {x.shape[0]}")
        out = self.net(x[0].unflatten(-1, SHAPE), per_sample(sigma, x)[0, :, 0])
        return out.flatten(1).unsqueeze(0)


class Score(nn.Module):
    """diffusers' UNet2DModel as a score; with the Fourier embedding it divides by sigma itself."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.unet(x, sigma, return_dict=False)[0]


def ncsnpp(generators: Sequence[torch.Generator], sizes: ImageNetworks) -> nn.Module:
    """NCSN++ (continuous, deep, variance exploding): FIR resampling, input skips, attention at
    16 x 16, Gaussian Fourier features of log sigma of scale 16, pixels centred inside."""
    from diffusers import UNet2DModel

    n = len(sizes.channels)
    kinds = ["AttnSkip" if 32 >> i == 16 else "Skip" for i in range(n)]
    with initial_weights(generators):
        unet = UNet2DModel(
            sample_size=32,
            center_input_sample=True,
            block_out_channels=sizes.channels,
            layers_per_block=sizes.layers,
            dropout=sizes.dropout,
            time_embedding_type="fourier",
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            norm_eps=1e-6,
            norm_num_groups=None,
            attention_head_dim=None,
            mid_block_scale_factor=math.sqrt(2.0),
        )
    return Flat(Score(unet))


def pretrained(name: str) -> nn.Module:
    """A variance-exploding UNet2DModel that diffusers saved to $PAPERS_DATA/<name>.

    Raises:
        UserError: if it is not there, or does not take sigma (Fourier embedding).
    """
    from diffusers import UNet2DModel

    folder = Path(os.environ.get("PAPERS_DATA", "$PAPERS_DATA")) / name
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model that diffusers saved (config.json, safetensors)")
    unet = UNet2DModel.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    if unet.config.time_embedding_type != "fourier":
        raise UserError(f"{folder} is no variance-exploding model: its embedding is not fourier")
    return Flat(Score(unet))


@contextmanager
def initial_weights(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """PyTorch's default initialisation inside, drawn from the seed of the one generator."""
    (generator,) = generators
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        yield


# --------------------------------------------------------------------------- ResNets


class NoiseEmbedding(nn.Module):
    """sigma [B] -> [B, 128]: 32 Gaussian Fourier features of log sigma (scale 16), two layers."""

    def __init__(self, frequencies: int = 32, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(frequencies) * scale)
        self.first, self.second = nn.Linear(2 * frequencies, 128), nn.Linear(128, 128)

    def forward(self, sigma: Tensor) -> Tensor:
        angles = 2 * math.pi * sigma.log()[:, None] * self.frequencies
        features = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.second(F.silu(self.first(features)))


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions, or a bottleneck 1-3-1 (ResNet-50)."""

    def __init__(self, n_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        n_out = 4 * width if bottleneck else width
        shapes = [(n_in, width, 3, stride), (width, n_out, 3, 1)]
        if bottleneck:
            shapes = [(n_in, width, 1, 1), (width, width, 3, stride), (width, n_out, 1, 1)]
        self.layers = nn.ModuleList(conv_norm(*shape) for shape in shapes)
        same = stride == 1 and n_in == n_out
        self.shortcut = nn.Identity() if same else conv_norm(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.layers[:-1]:
            out = F.relu(layer(out))
        return F.relu(self.layers[-1](out) + self.shortcut(x))


def conv_norm(n_in: int, n_out: int, kernel: int, stride: int) -> nn.Module:
    """Convolution without bias, then batch norm."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


class ResNet(nn.Module):
    """CIFAR's ResNet with a 3 x 3 stem; with `noisy`, sigma's embedding is added after each stage.

    Batch norm in training mode lets the samples of a batch see each other, also in the likelihood
    score that DLSM differentiates: as published.
    """

    def __init__(
        self,
        counts: Sequence[int],
        n_classes: int,
        *,
        width: int = 64,
        bottleneck: bool = False,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        n = width
        self.stem = conv_norm(3, n, 3, 1)
        stages, embeddings = [], []
        for i, count in enumerate(counts):
            blocks = []
            for j in range(count):
                blocks.append(Block(n, width << i, 2 if i and not j else 1, bottleneck))
                n = (width << i) * (4 if bottleneck else 1)
            stages.append(nn.Sequential(*blocks))
            embeddings.append(nn.Linear(128, n))
        self.stages = nn.ModuleList(stages)
        self.noise = NoiseEmbedding() if noisy else None
        self.embeddings = nn.ModuleList(embeddings) if noisy else None
        self.out = nn.Linear(n, n_classes)

    def features(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Images [B, 3, 32, 32] -> what the last layer sees [B, n]."""
        x = F.relu(self.stem(x))
        embedded = None if self.noise is None or sigma is None else F.silu(self.noise(sigma))
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if self.embeddings is not None and embedded is not None:
                x = x + self.embeddings[i](embedded)[:, :, None, None]
        return x.mean((2, 3))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.out(self.features(x, sigma))


def noisy_resnet(
    generators: Sequence[torch.Generator], n_classes: int, sizes: ImageNetworks
) -> nn.Module:
    """The guiding classifier: ResNet-18 for ten classes, ResNet-34 for a hundred."""
    counts = (2, 2, 2, 2) if n_classes == 10 else (3, 4, 6, 3)
    with initial_weights(generators):
        return Flat(ResNet(counts, n_classes, width=sizes.width, noisy=True))
