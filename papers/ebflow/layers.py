"""The layers that only the paper's image models have. Vectors throughout: x [S, B, D].

A layer of images knows its (channels, height, width) and reads the D = C H W coordinates in that
order. ``constant`` layers (S_l) compute their determinant in ``log_det`` only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.flows import Flow, Layer
from common.stacked import Initialiser

Shape = tuple[int, int, int]  # channels, height, width
DELTA = 1e-6  # keeps the logit away from 0 and 1

# --------------------------------------------------------------------------- preprocessing


class Normalise(Layer):
    """y = (x / levels + delta) (1 - 2 delta): dequantised pixels [0, levels) into (0, 1)."""

    constant = True

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.dim, self.levels = dim, levels
        log_det = torch.full((1, 1), dim * (math.log1p(-2 * DELTA) - math.log(levels)))
        self.register_buffer("constant_log_det", log_det, persistent=False)  # moves with the flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return (x / self.levels + DELTA) * (1 - 2 * DELTA), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """D log((1 - 2 delta) / levels). [1, 1]."""
        return self.constant_log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return (y / (1 - 2 * DELTA) - DELTA) * self.levels


class Logit(Layer):
    """y = (log x - log(1 - x)) / a. Its derivative explodes near 0 and 1, hence MaP.

    x is clamped to [1e-6, 1 - 1e-6]. Data lie inside; only noise added in pixel space leaves it
    (DSM and FDSSM without MaP), where the authors' energy is NaN.
    """

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, sum of -log a - log x - log(1 - x))."""
        x = x.clamp(DELTA, 1 - DELTA)
        log_x, log_rest = x.log(), torch.log1p(-x)
        return (log_x - log_rest) / self.a, -(log_x + log_rest + math.log(self.a)).sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """sigmoid(a y)."""
        return torch.sigmoid(self.a * y)


# --------------------------------------------------------------------------- convolutions


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Each seed's convolution. x [S, B, C, H, W], weight [S, C', C, k, k], bias [S, C'].

    Seeds are groups of channels, so one call serves them all.
    """
    S, B = x.shape[:2]
    if S == 1:
        y = F.conv2d(x[0], weight[0], None if bias is None else bias[0], padding=padding)
        return y.unsqueeze(0)
    grouped = x.transpose(0, 1).flatten(1, 2)  # [B, S C, H, W]
    flat_bias = None if bias is None else bias.flatten()
    y = F.conv2d(grouped, weight.flatten(0, 1), flat_bias, padding=padding, groups=S)
    return y.unflatten(1, (S, -1)).transpose(0, 1)


class StackedConv2d(nn.Module):
    """A stride-1 convolution that keeps the size, for every seed. PyTorch's default draws."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        n_in: int,
        n_out: int,
        kernel: int,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in * kernel**2)
        weights, biases = [], []
        for g in generators:
            w = torch.empty(n_out, n_in, kernel, kernel).uniform_(-bound, bound, generator=g)
            b = torch.empty(n_out).uniform_(-bound, bound, generator=g)
            with torch.no_grad():
                if weight_init is not None:
                    weight_init(w, generator=g)
                if bias_init is not None:
                    bias_init(b, generator=g)
            weights.append(w)
            biases.append(b)
        self.weight = nn.Parameter(torch.stack(weights))  # [S, out, in, k, k]
        self.bias = nn.Parameter(torch.stack(biases))  # [S, out]
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, in, H, W] -> [S, B, out, H, W]."""
        return conv2d(x, self.weight, self.bias, self.padding)


@functools.cache
def _toeplitz_index(shape: Shape, kernel: int) -> Tensor:
    """Where each entry of the D x D matrix stands in the flat weight; its length: nowhere."""
    C, H, W = shape
    o, y, x = torch.meshgrid(torch.arange(C), torch.arange(H), torch.arange(W), indexing="ij")
    o, y, x = o.flatten(), y.flatten(), x.flatten()  # [D]
    row, column = y - y[:, None] + kernel // 2, x - x[:, None] + kernel // 2  # [D out, D in]
    inside = (row >= 0) & (row < kernel) & (column >= 0) & (column < kernel)
    place = ((o[:, None] * C + o) * kernel + row) * kernel + column
    return torch.where(inside, place, C * C * kernel**2)


def toeplitz(weight: Tensor, shape: Shape) -> Tensor:
    """The matrix T with vec(conv(x)) = T vec(x) for zero padding. [S, C, C, k, k] -> [S, D, D]."""
    index = _toeplitz_index(shape, weight.shape[-1]).to(weight.device)
    flat = torch.cat((weight.flatten(1), weight.new_zeros(len(weight), 1)), 1)
    return flat.index_select(1, index.flatten()).unflatten(1, index.shape)


class Convolution(Layer):
    """An invertible k x k convolution C -> C with zero padding, stride 1.

    It is linear: its determinant is that of its D x D Toeplitz matrix, O(D^3).
    """

    constant = True

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        shape: Shape,
        kernel: int,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.map = StackedConv2d(generators, shape[0], shape[0], kernel, weight_init, bias_init)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return self.map(x.unflatten(-1, self.shape)).flatten(2), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """log|det T|. [S, 1]."""
        matrix = toeplitz(self.map.weight, self.shape)
        return torch.linalg.slogdet(matrix).logabsdet.unsqueeze(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Solves T x = y - b."""
        b = self.map.bias[:, None, :, None, None]
        rest = (y.unflatten(-1, self.shape) - b).flatten(2)
        matrix = toeplitz(self.map.weight, self.shape)
        return torch.linalg.solve(matrix.mT, rest, left=False)


class PointwiseConvolution(Layer):
    """A 1 x 1 convolution C -> C: the same matrix at every pixel."""

    constant = True

    def __init__(
        self, generators: Sequence[torch.Generator], shape: Shape, weight_init: Initialiser
    ) -> None:
        super().__init__()
        self.shape = shape
        weights = [torch.empty(shape[0], shape[0]) for _ in generators]
        for w, g in zip(weights, generators, strict=True):
            weight_init(w, generator=g)
        self.weight = nn.Parameter(torch.stack(weights))  # [S, C, C]

    def _times(self, matrix: Tensor, x: Tensor) -> Tensor:
        pixels = x.unflatten(-1, (self.shape[0], -1))  # [S, B, C, H W]
        return (matrix.unsqueeze(1) @ pixels).flatten(2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return self._times(self.weight, x), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """H W log|det W|. [S, 1]."""
        n_pixels = self.shape[1] * self.shape[2]
        return n_pixels * torch.linalg.slogdet(self.weight).logabsdet.unsqueeze(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return self._times(torch.linalg.inv(self.weight), y)


# --------------------------------------------------------------------------- other image layers


class Squeeze(Layer):
    """Space to depth: (C, H, W) -> (4 C, H/2, W/2). A permutation, so its determinant is 1."""

    constant = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        C, H, W = shape
        if H % 2 or W % 2:
            raise ValueError(f"images of {H} x {W} pixels cannot be squeezed")
        self.shape, self.out_shape = shape, (4 * C, H // 2, W // 2)
        places = torch.arange(C * H * W).view(C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3)
        self.order: Tensor
        self.back: Tensor
        self.register_buffer("order", places.flatten(), persistent=False)
        self.register_buffer("back", places.flatten().argsort(), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return x.index_select(-1, self.order), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """Zero. [1, 1]."""
        return torch.zeros(1, 1, device=self.order.device)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return y.index_select(-1, self.back)


class ChannelActNorm(Layer):
    """y = scale (x + shift), one scale and shift per channel, set from the first batch."""

    constant = True

    def __init__(self, n_seeds: int, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.shift = nn.Parameter(torch.zeros(n_seeds, 1, shape[0], 1))
        self.scale = nn.Parameter(torch.ones(n_seeds, 1, shape[0], 1))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """shift = -mean and scale = 1 / (std + 1e-6) over samples and pixels."""
        pixels = x.unflatten(-1, (self.shape[0], -1))
        self.shift.copy_(-pixels.mean((1, 3), keepdim=True))
        self.scale.copy_(1 / (pixels.std((1, 3), keepdim=True) + 1e-6))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        pixels = x.unflatten(-1, (self.shape[0], -1))
        return (self.scale * (pixels + self.shift)).flatten(2), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """H W times the sum of log|scale|. [S, 1]."""
        return self.shape[1] * self.shape[2] * self.scale.abs().log().sum((2, 3))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        pixels = y.unflatten(-1, (self.shape[0], -1))
        return (pixels / self.scale - self.shift).flatten(2)


class CouplingNet(nn.Module):
    """3x3(width), LeakyReLU(.1), 1x1(width), LeakyReLU(.1), 3x3 from zero times exp(3 logs)."""

    def __init__(
        self, generators: Sequence[torch.Generator], n_in: int, n_out: int, width: int
    ) -> None:
        super().__init__()
        self.first = StackedConv2d(generators, n_in, width, 3)
        self.second = StackedConv2d(generators, width, width, 1)
        self.last = StackedConv2d(generators, width, n_out, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.logs = nn.Parameter(torch.zeros(len(generators), 1, n_out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, n_in, H, W] -> [S, B, n_out, H, W]."""
        hidden = F.leaky_relu(self.first(x), 0.1)
        hidden = F.leaky_relu(self.second(hidden), 0.1)
        return self.last(hidden) * torch.exp(3 * self.logs)


class ChannelCoupling(Layer):
    """Glow's coupling: the second half of the channels is shifted and scaled given the first.

    y2 = (x2 + t) exp(s), s = 2 tanh(h / 2). As SplitPrior (whose first half goes on while the
    second is done) it stands for N(x2; -t, exp(-2 s)): the base is standard normal throughout.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: Shape, width: int) -> None:
        super().__init__()
        self.shape, self.half = shape, shape[0] // 2
        free = shape[0] - self.half
        self.net = CouplingNet(generators, self.half, 2 * free, width)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        image = x.unflatten(-1, self.shape)
        given, free = image[:, :, : self.half], image[:, :, self.half :]
        t, h = self.net(given).chunk(2, dim=2)
        return given, free, t, 2 * torch.tanh(h / 2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, sum of s)."""
        given, free, t, s = self._parts(x)
        y = torch.cat((given, (free + t) * torch.exp(s)), 2)
        return y.flatten(2), s.flatten(2).sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        given, free, t, s = self._parts(y)
        return torch.cat((given, free * torch.exp(-s) - t), 2).flatten(2)


class Partial(Layer):
    """A flow of the first ``dim`` coordinates that leaves the others alone: Glow's later levels.

    It has determinants of both kinds: ``forward`` returns those of S_n, ``log_det`` of S_l.
    """

    constant = True

    def __init__(self, flow: Flow, dim: int) -> None:
        super().__init__()
        self.flow, self.dim = flow, dim

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, log-determinants of the layers that are not constant)."""
        y, log_det = self.flow(x[..., : self.dim])
        return torch.cat((y, x[..., self.dim :]), -1), log_det

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """Sum over the constant layers. [S, 1]."""
        return self.flow.log_det_constant()

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return torch.cat((self.flow.inverse(y[..., : self.dim]), y[..., self.dim :]), -1)
