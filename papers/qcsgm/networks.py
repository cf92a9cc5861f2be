"""Score networks: of the 2-D sets, of digits, and NCSN++ for images.

All are called as f(x [S, B, D], sigma [S, B, 1] or a scalar) -> [S, B, D].
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.stacked import MLP, StackedLinear, Swish, seed_generators
from papers.qcsgm.baselines import constrained, constrained_output
from papers.qcsgm.config import Config
from papers.qcsgm.exact import mixture
from papers.qcsgm.method import Network, unconstrained
from papers.qcsgm.task import family, pretrained

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
    "center_input_sample": True,  # data in [0, 1]: the published network centres them itself
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

    def __init__(
        self, weights: Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            weights: folder of a diffusers UNet2DModel (config.json and safetensors); None: random.
            settings: of a network without weights; default: NCSNPP.
        """
        super().__init__()
        from diffusers import UNet2DModel
        from diffusers.models.attention_processor import Attention, AttnProcessor

        if weights is None:
            self.unet = UNet2DModel.from_config(dict(NCSNPP if settings is None else settings))
        else:
            self.unet = UNet2DModel.from_pretrained(weights, use_safetensors=True)
        for module in self.unet.modules():
            if isinstance(module, Attention):  # fused attention has no second derivative
                module.set_processor(AttnProcessor())

    @property
    def settings(self) -> dict[str, Any]:
        """All of the network's settings, which its weights do not tell (JSON values)."""
        own = {k: v for k, v in self.unet.config.items() if not k.startswith("_")}
        return dict(json.loads(json.dumps(own)))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[1, B, 3 side^2] -> [1, B, 3 side^2]."""
        side = self.unet.config.sample_size
        images = x.reshape(-1, 3, side, side)
        out = self.unet(images, _per_row(sigma, x).reshape(-1), return_dict=False)[0]
        return out.reshape(x.shape)


def make_network(
    cfg: Config, seeds: Sequence[int], settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network f of every member.

    Args:
        cfg: of the run.
        seeds: of the members.
        settings: images: of the network that was trained, whose weights are to be filled in.

    Raises:
        UserError: if several are asked for at once where the network cannot be stacked.
    """
    kind = family(cfg.task)
    if cfg.model.exact:
        return nn.Identity()
    if kind == "toy":
        output: OutputActivation = "leaky_relu" if cfg.task == "8gaussians" else "elu"
        return ToyNetwork(seed_generators(seeds, 0), output if cfg.model.activation else "none")
    if kind == "digits":
        return DigitsNetwork(seed_generators(seeds, 0))
    if len(seeds) > 1:
        raise UserError(f"{cfg.task} trains one network at a time; give one seed and one --lam")
    if settings is not None:
        return NCSNpp(settings=settings)
    torch.manual_seed(seeds[0])
    return NCSNpp(pretrained(cfg.task) if cfg.pretrained else None)


def make_score(cfg: Config, f: nn.Module) -> Network:
    """s(x, sigma) of a method with network f."""
    toy = family(cfg.task) == "toy"
    if cfg.model.exact:
        return mixture(cfg.task).smoothed_score
    if cfg.model.constrained:
        return constrained(f) if toy else constrained_output(f)
    return unconstrained(f) if toy else f
