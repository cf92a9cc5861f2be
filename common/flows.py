"""Normalizing flows whose constant Jacobians are told apart from the others.

Direction: u = g(x) ("inference"), log p(x) = log p_u(g(x)) + sum_i log|det J_i|. A layer is
*constant* if its Jacobian does not depend on its input (it may depend on a context): its
determinant is part of the normalising constant, the others' are part of the energy. All seeds are
stacked: x is [S, B, D], log-determinants are [S, B], or [S, 1] where they are the same for all
samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.stacked import Initialiser, StackedLinear

Net = Callable[[Tensor], Tensor]


class Layer(nn.Module, ABC):
    """One invertible map. Constant layers compute their determinant in ``log_det`` only."""

    constant = False

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(y, log|det J| [S, B]); None in place of a constant layer's."""

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """log|det J| of a constant layer: [S, 1], or [S, B] where it depends on the context."""
        raise TypeError(f"the log-determinant of {type(self).__name__} depends on its input")

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """The x with g(x) = y."""


class Flow(nn.Module):
    """g = g_L o ... o g_1."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(g(x), sum of log|det J| over the layers that are not constant [S, B]).

        No determinant of a constant layer is computed.
        """
        total = torch.zeros(x.shape[:2], dtype=x.dtype, device=x.device)
        for layer in self.layers:
            x, log_det = layer(x, context)
            if log_det is not None:
                total = total + log_det
        return x, total

    def log_det_constant(self, context: Tensor | None = None) -> Tensor:
        """Sum of log|det J| over the constant layers. [S, 1] or [S, B]."""
        parts = [m.log_det(context) for m in self.layers if isinstance(m, Layer) and m.constant]
        if not parts:
            raise ValueError("no layer of this flow has a constant Jacobian")
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def split(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(g(x), log-determinants of the other layers, those of the constant ones)."""
        u, rest = self(x, context)
        return u, rest, self.log_det_constant(context)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """The x with g(x) = u."""
        for layer in reversed(self.layers):
            assert isinstance(layer, Layer)
            u = layer.inverse(u, context)
        return u


class Linear(Layer):
    """y = W x + b with a dense W; its log-determinant costs O(D^3)."""

    constant = True

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        dim: int,
        weight_init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        super().__init__()
        # the map keeps W transposed, [S, in, out]
        self.map = StackedLinear(generators, dim, dim, weight_init, bias_init)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return self.map(x), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """log|det W|. [S, 1]."""
        return torch.linalg.slogdet(self.map.weight).logabsdet.unsqueeze(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Solves W x = y - b."""
        return torch.linalg.solve(self.map.weight, y - self.map.bias, left=False)


class ActNorm(Layer):
    """y = scale (x + shift) per coordinate; ``initialise`` standardises a first batch."""

    constant = True

    def __init__(self, n_seeds: int, dim: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_seeds, 1, dim))
        self.scale = nn.Parameter(torch.ones(n_seeds, 1, dim))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Sets shift = -mean and scale = 1 / (std + 1e-6) of a batch [S, B, D]."""
        self.shift.copy_(-x.mean(1, keepdim=True))
        self.scale.copy_(1 / (x.std(1, keepdim=True) + 1e-6))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return self.scale * (x + self.shift), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """Sum of log|scale|. [S, 1]."""
        return self.scale.abs().log().sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return y / self.scale - self.shift


class Scale(Layer):
    """y = x / sigma(context) per coordinate; ``log_sigma`` maps a context to [S, B, D]."""

    constant = True

    def __init__(self, log_sigma: Net) -> None:
        super().__init__()
        self.log_sigma = log_sigma

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return x * torch.exp(-self.of(context)), None

    def of(self, context: Tensor | None) -> Tensor:
        """log sigma(context). [S, B, D]."""
        assert context is not None, "this layer's scale is a function of the context"
        return self.log_sigma(context)

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """-sum of log sigma(context). [S, B]."""
        return -self.of(context).sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return y * torch.exp(self.of(context))


def _masked(x: Tensor, mask: Tensor, context: Tensor | None) -> Tensor:
    kept = x * mask
    return kept if context is None else torch.cat((kept, context), -1)


class AdditiveCoupling(Layer):
    """y = m x + (1 - m) (x - t(m x, context)); its determinant is 1 (NICE, Dinh et al. 2015).

    ``shift`` t maps [S, B, D (+ context)] to [S, B, D]; m is 1 where a coordinate is kept.
    """

    constant = True

    def __init__(self, mask: Tensor, shift: Net) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)
        self.shift = shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        """See ``Layer``."""
        return x - (1 - self.mask) * self.shift(_masked(x, self.mask, context)), None

    def log_det(self, context: Tensor | None = None) -> Tensor:
        """Zero. [1, 1]."""
        return torch.zeros(1, 1, dtype=self.mask.dtype, device=self.mask.device)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        return y + (1 - self.mask) * self.shift(_masked(y, self.mask, context))


class AffineCoupling(Layer):
    """y = m x + (1 - m) (x - t) exp(-s) with s, t of (m x, context) (RealNVP, Dinh et al. 2017).

    ``shift`` t and ``log_scale`` s map [S, B, D (+ context)] to [S, B, D].
    """

    def __init__(self, mask: Tensor, shift: Net, log_scale: Net) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)
        self.shift, self.log_scale = shift, log_scale

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, -sum of (1 - m) s)."""
        given = _masked(x, self.mask, context)
        free = 1 - self.mask
        s = free * self.log_scale(given)
        y = self.mask * x + free * (x - self.shift(given)) * torch.exp(-s)
        return y, -s.sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``Layer``."""
        given = _masked(y, self.mask, context)
        free = 1 - self.mask
        return self.mask * y + free * (y * torch.exp(self.log_scale(given)) + self.shift(given))


class SmoothLeakyReLU(Layer):
    """y = alpha x + (1 - alpha) softplus(x), and + x if ``residual``; element-wise, any shape.

    The inverse is Newton's, with the derivative alpha + (1 - alpha) sigmoid(x) (+ 1).
    """

    def __init__(self, alpha: float = 0.3, residual: bool = False, iterations: int = 100) -> None:
        super().__init__()
        self.alpha, self.residual, self.iterations = alpha, float(residual), iterations

    def _value(self, x: Tensor) -> Tensor:
        return (self.alpha + self.residual) * x + (1 - self.alpha) * F.softplus(x)

    def _derivative(self, x: Tensor) -> Tensor:
        return self.alpha + self.residual + (1 - self.alpha) * torch.sigmoid(x)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, sum of the logarithms of the derivatives)."""
        return self._value(x), self._derivative(x).log().flatten(2).sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Newton's iterations from x = y, until nothing moves."""
        x = y
        for _ in range(self.iterations):
            step = (self._value(x) - y) / self._derivative(x).clamp(min=0.01)
            x = x - step
            if not bool((step.abs() > 1e-12 + 1e-7 * x.abs()).any()):
                break
        return x


class Atanh(Layer):
    """y = atanh(x) for x in (-1, 1), clipped to +-(1 - margin): the inverse of a squashing."""

    def __init__(self, margin: float = 1e-5) -> None:
        super().__init__()
        self.limit = 1 - margin

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(y, -sum of log(1 - x^2))."""
        x = x.clamp(-self.limit, self.limit)
        return torch.atanh(x), -torch.log1p(-x.square()).sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """tanh(y)."""
        return torch.tanh(y)
