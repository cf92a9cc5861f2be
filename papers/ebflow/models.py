"""The paper's models: FC, CNN, Glow for images, Glow for points in the plane.

Each returns a ``Flow``; ``preprocessing`` gives the layers that an image model begins with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.flows import ActNorm, AffineCoupling, Flow, Layer, Linear, SmoothLeakyReLU
from common.stacked import MLP
from papers.ebflow.config import Setting
from papers.ebflow.layers import (
    ChannelActNorm,
    ChannelCoupling,
    Convolution,
    Logit,
    Normalise,
    Partial,
    PointwiseConvolution,
    Shape,
    Squeeze,
)
from papers.ebflow.task import Images

Generators = Sequence[torch.Generator]
NEWTON = 8  # iterations of an activation's inverse: exact from 5 on (the authors': 100)


def preprocessing(shape: Shape, levels: int, a: float) -> list[Layer]:
    """Scale and logit of dequantised pixels: what MaP takes out of the score."""
    dim = shape[0] * shape[1] * shape[2]
    return [Normalise(dim, levels), Logit(a)]


def negative_identity(weight: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
    """W = -I ("neg_init"); for convolutions -Dirac."""
    weight.zero_()
    diagonal = torch.arange(weight.shape[0])
    centre = tuple(k // 2 for k in weight.shape[2:])
    weight[(diagonal, diagonal, *centre)] = -1.0
    return weight


def ones(bias: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
    """b = 1."""
    return nn.init.ones_(bias)


def tiny_normal(bias: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
    """b ~ N(0, 1e-3^2)."""
    return nn.init.normal_(bias, std=1e-3, generator=generator)


def fc_layers(generators: Generators, dim: int) -> list[Layer]:
    """u = W2 SLR(W1 x + b1) + b2, SLR(x) = .3 x + .7 softplus(x); 2 D (D + 1) parameters."""
    first, second = (Linear(generators, dim, negative_identity, ones) for _ in range(2))
    return [first, SmoothLeakyReLU(0.3, iterations=NEWTON), second]


def cnn_layers(generators: Generators, shape: Shape, kernel: int = 7) -> list[Layer]:
    """Three blocks of two convolutions, squeezed between; residual SLR after all but the last."""
    layers: list[Layer] = []
    for block in range(3):
        if block:
            squeeze = Squeeze(shape)
            layers.append(squeeze)
            shape = squeeze.out_shape
        for _ in range(2):
            layers.append(Convolution(generators, shape, kernel, negative_identity, tiny_normal))
            layers.append(SmoothLeakyReLU(0.3, residual=True, iterations=NEWTON))
    return layers[:-1]


def glow_layers(
    generators: Generators, shape: Shape, *, depth: int = 16, width: int = 512, levels: int = 2
) -> list[Layer]:
    """Levels of squeeze, ``depth`` x [ActNorm, 1x1 convolution, coupling], SplitPrior between."""
    squeeze = Squeeze(shape)
    shape = squeeze.out_shape
    layers: list[Layer] = [squeeze]
    for _ in range(depth):
        layers.append(ChannelActNorm(len(generators), shape))
        layers.append(PointwiseConvolution(generators, shape, nn.init.orthogonal_))
        layers.append(ChannelCoupling(generators, shape, width))
    if levels > 1:
        layers.append(ChannelCoupling(generators, shape, width))  # SplitPrior
        rest = (shape[0] // 2, shape[1], shape[2])
        deeper = glow_layers(generators, rest, depth=depth, width=width, levels=levels - 1)
        layers.append(Partial(Flow(deeper), rest[0] * rest[1] * rest[2]))
    return layers


def toy_layers(generators: Generators, *, blocks: int = 10, hidden: int = 64) -> list[Layer]:
    """``blocks`` x [2 x 2 linear, masked affine coupling, ActNorm], and a last linear layer.

    The scale net has Swish with a learnable beta per unit, the shift net ELU; all weights start
    orthogonal.
    """
    layers: list[Layer] = []
    sizes = [2, hidden, hidden, hidden, 2]
    for block in range(blocks):
        mask = torch.tensor([0.0, 1.0] if block % 2 == 0 else [1.0, 0.0])
        log_scale = MLP(generators, sizes, "swish", weight_init=nn.init.orthogonal_)
        shift = MLP(generators, sizes, F.elu, weight_init=nn.init.orthogonal_)
        layers.append(Linear(generators, 2, nn.init.orthogonal_))
        layers.append(AffineCoupling(mask, shift, log_scale))
        layers.append(ActNorm(len(generators), 2))
    return [*layers, Linear(generators, 2, nn.init.orthogonal_)]


def build(setting: Setting, generators: Generators, data: Images | None) -> Flow:
    """The flow g of a task: for images it begins with the scale and the logit (k = 2)."""
    if data is None:
        return Flow(toy_layers(generators, blocks=setting.blocks, hidden=setting.hidden))
    if setting.model == "fc":
        layers = fc_layers(generators, data.dim)
    elif setting.model == "cnn":
        layers = cnn_layers(generators, data.shape)
    else:
        layers = glow_layers(generators, data.shape)
    return Flow([*preprocessing(data.shape, data.levels, setting.a), *layers])


@torch.no_grad()
def initialise(flow: Flow, x: Tensor) -> None:
    """Data-dependent start: each ActNorm standardises what reaches it of a first batch."""
    for layer in flow.layers:
        if isinstance(layer, Partial):
            initialise(layer.flow, x[..., : layer.dim])
        elif isinstance(layer, (ActNorm, ChannelActNorm)):
            layer.initialise(x)
        x = layer(x)[0]
