"""Score networks: of the 2-D sets, of digits, and NCSN++ for images.

All are called as f(x [S, B, D], sigma [S, B, 1] or a scalar) -> [S, B, D].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import MLP, StackedLinear, Swish

OutputActivation = Literal["none", "elu", "leaky_relu"]


def _per_row(sigma: Tensor, x: Tensor) -> Tensor:
    """Noise levels [S, B, 1] also where one scalar is given for all."""
    return sigma.to(x).expand(*x.shape[:-1], 1)


class ToyNetwork(nn.Module):
    """f of the 2-D sets: x by 2-64-128-256, sigma by 1-1-1-1, both joined, Swish, 257-2.

    Swish has a learnable beta per unit. The authors' CSBM applies one more activation to the
    output: ELU, or LeakyReLU(0.1) on 8-Gaussians.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], output_activation: OutputActivation = "none"
    ) -> None:
        super().__init__()
        self.of_x = MLP(generators, (2, 64, 128, 256), "swish")
        self.of_sigma = MLP(generators, (1, 1, 1, 1), "swish")
        self.joined = Swish(len(generators), 257)
        self.out = StackedLinear(generators, 257, 2)
        activations: dict[str, Callable[[Tensor], Tensor]] = {
            "none": lambda y: y,
            "elu": F.elu,
            "leaky_relu": lambda y: F.leaky_relu(y, 0.1),
        }
        self.last = activations[output_activation]

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[S, B, 2] -> [S, B, 2]."""
        joined = torch.cat([self.of_x(x), self.of_sigma(_per_row(sigma, x))], dim=-1)
        return self.last(self.out(self.joined(joined)))


class DigitsNetwork(nn.Module):
    """The score of digits: [x, Fourier features of log sigma] by 64-512-512-64, over sigma.

    x is divided by sqrt(sigma^2 + 1/4), so that all noise levels meet the first layer at one size.
    """

    frequencies = 8  # sine and cosine of k log(sigma), k = 1/2, 1, ..., 4

    def __init__(
        self, generators: Sequence[torch.Generator], dim: int = 64, width: int = 512
    ) -> None:
        super().__init__()
        self.mlp = MLP(generators, (dim + 2 * self.frequencies, width, width, dim))
        self.register_buffer("k", 0.5 * torch.arange(1, self.frequencies + 1), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[S, B, D] -> [S, B, D]."""
        sigma = _per_row(sigma, x)
        phase = sigma.log() * self.k
        inputs = torch.cat([x / (sigma.square() + 0.25).sqrt(), phase.sin(), phase.cos()], dim=-1)
        return self.mlp(inputs) / sigma


NCSNPP = {  # NCSN++ for 32 x 32 images: the score_sde_ve configuration of diffusers' UNet2DModel
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 8,
    "down_block_types": (
        *("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        *("SkipDownBlock2D", "SkipDownBlock2D"),
    ),
    "up_block_types": (
        *("SkipUpBlock2D", "SkipUpBlock2D"),
        *("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    ),
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "norm_num_groups": None,
    "mid_block_scale_factor": math.sqrt(2),
    "time_embedding_type": "fourier",
    "dropout": 0.0,  # the Jacobian has to be that of one function
}


class NCSNpp(nn.Module):
    """NCSN++ as a stack of one: images as rows, the output divided by sigma as diffusers does."""

    def __init__(self, weights: Path | None = None, **changes: Any) -> None:
        """
        Args:
            weights: folder of a diffusers UNet2DModel (config.json and safetensors); None: random.
            changes: of NCSNPP.
        """
        super().__init__()
        from diffusers import UNet2DModel
        from diffusers.models.attention_processor import Attention, AttnProcessor

        if weights is None:
            self.unet = UNet2DModel(**{**NCSNPP, **changes})
        else:
            self.unet = UNet2DModel.from_pretrained(weights, use_safetensors=True)
        for module in self.unet.modules():
            if isinstance(module, Attention):  # fused attention has no second derivative
                module.set_processor(AttnProcessor())

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[1, B, 3 side^2] -> [1, B, 3 side^2]."""
        side = self.unet.config.sample_size
        images = x.reshape(-1, 3, side, side)
        out = self.unet(images, _per_row(sigma, x).reshape(-1), return_dict=False)[0]
        return out.reshape(x.shape)
