"""What CompoFormer is compared with: penalties on shared weights, and memories of old data.

Vectors [D] hold the shared transformer's weights one after the other; theta* are those at the end
of the last task. Fine-tuning, LoRA, PackNet, a network per task and training on all tasks at once
need nothing here: they are settings of the loop. Losses are L + lambda times the penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.control.sequences import Windows

Tensors = dict[str, Tensor]
Actions = Callable[[Tensors, Windows], Tensor]  # weights, windows of one -> actions [1, T, a]
CHUNK = 16  # windows whose gradients are held at once


# -- penalties ------------------------------------------------------------------------------------


@dataclass
class Consolidation:
    """What a penalty remembers; each a vector [D], or empty where the penalty has no use for it."""

    anchor: Tensor  # theta*
    importance: Tensor  # Omega
    fisher: Tensor  # RWalk: running mean of squared gradients
    path: Tensor  # RWalk: sum of what moving each weight has gained
    seen: int = 0  # tasks that have ended

    @classmethod
    def of(cls, kind: str, size: int, device: torch.device) -> Consolidation:
        """Nothing is remembered yet."""
        rwalk = size * (kind == "rwalk")
        sizes = (size * (kind != "none"), size * (kind not in ("none", "lwf", "vcl")), rwalk, rwalk)
        anchor, importance, fisher, path = (torch.zeros(n, device=device) for n in sizes)
        return cls(anchor, importance, fisher, path)

    def state(self) -> dict[str, Tensor | int]:
        """What a checkpoint holds."""
        return dict(vars(self))

    def load(self, state: dict[str, Tensor | int]) -> None:
        """What ``state`` gave."""
        for name, value in state.items():
            there = getattr(self, name)
            if isinstance(there, Tensor):
                there.copy_(value)  # type: ignore[arg-type]
            else:
                setattr(self, name, value)


def quadratic(theta: Tensor, anchor: Tensor, importance: Tensor) -> Tensor:
    """sum_i Omega_i (theta_i - theta*_i)^2; L2 has Omega = 1."""
    return (importance * (theta - anchor).square()).sum()


def window_gradients(
    actions: Actions, weights: Tensors, windows: Windows, scalar: Callable[[Tensor], Tensor]
) -> Tensor:
    """d scalar(actions) / d weights of each window by itself. [B, D]

    Args:
        actions: of one window, with these weights.
        scalar: of a window's actions over its real steps [T, a], padded with zeros, times
            1 / sqrt(number of real steps).
    """

    def of_one(theta: Tensors, *window: Tensor) -> Tensor:
        one = Windows(*(x.unsqueeze(0) for x in window))
        found = actions(theta, one)[0] * one.real[0].unsqueeze(-1)
        return scalar(found / one.real.sum().clamp(min=1).sqrt())

    parts = vars(windows).values()
    each = vmap(grad(of_one), in_dims=(None, *(0 for _ in parts)), randomness="different")
    with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be batched over windows
        found = each(weights, *parts)
    return torch.cat([g.detach().flatten(1) for g in found.values()], 1)


def _averaged(
    actions: Actions,
    weights: Tensors,
    windows: Windows,
    scalars: Callable[[Tensor], Tensor],
    of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Mean over windows of a function of their gradients, some windows at a time. [D]"""
    n = len(windows.returns)
    total = torch.zeros((), device=windows.returns.device)
    for begin in range(0, n, CHUNK):
        part = Windows(*(x[begin : begin + CHUNK] for x in vars(windows).values()))
        total = total + of(window_gradients(actions, weights, part, scalars)).sum(0)
    return total / n


def gaussian_fisher(actions: Actions, weights: Tensors, windows: Windows, draws: int = 1) -> Tensor:
    """EWC: diagonal Fisher information of a Gaussian policy of unit variance, per step. [D]

    F_i = E_steps sum_d (d mu_d / d theta_i)^2, estimated without bias by the square of
    d (xi . mu) / d theta_i with random signs xi. (The authors square the gradient of one batch's
    mean loss.)

    Args:
        draws: of signs for each window; from PyTorch's global generator.
    """

    def signed(mu: Tensor) -> Tensor:
        return (mu * (2.0 * (torch.rand_like(mu) < 0.5) - 1.0)).sum()

    found = [_averaged(actions, weights, windows, signed, torch.square) for _ in range(draws)]
    return torch.stack(found).mean(0)


def sensitivity(actions: Actions, weights: Tensors, windows: Windows) -> Tensor:
    """MAS (Aljundi et al. 2018): E |d ||mu||^2 / d theta_i|, mean over steps in the norm. [D]"""
    return _averaged(actions, weights, windows, lambda mu: mu.square().sum(), torch.abs)


def running_fisher(fisher: Tensor, gradient: Tensor, rate: float = 0.1) -> Tensor:
    """RWalk (Chaudhry et al. 2018): (1 - rate) F + rate g^2."""
    return torch.lerp(fisher, gradient.square(), rate)


def path_gain(gradient: Tensor, moved: Tensor, fisher: Tensor, floor: float = 1e-12) -> Tensor:
    """RWalk: -g dtheta / (F dtheta^2 / 2 + floor), what a step has gained per distance, not < 0.

    Args:
        gradient: of the loss without penalty, before the step.
        moved: dtheta of the step.
    """
    return (-gradient * moved / (0.5 * fisher * moved.square() + floor)).clamp(min=0)


def walk_importance(fisher: Tensor, path: Tensor) -> Tensor:
    """RWalk: F / max F + s / max s."""
    return sum(x / x.max().clamp(min=1e-12) for x in (fisher, path))  # type: ignore[return-value]


def distillation(now: Tensor, then: Tensor, real: Tensor) -> Tensor:
    """LwF (Li and Hoiem 2017): mean square of what old heads say on new data, now and before.

    Args:
        now, then: actions of the old heads [H, B, T, a].
        real: [B, T].
    """
    error = (now - then).square().mean(-1) * real
    return error.sum() / (len(now) * real.sum())


class Gaussian(nn.Module):
    """VCL (Nguyen et al. 2018): q = N(theta, sigma^2) per weight; the last q is the next prior.

    The first task has a flat prior. (The authors compare softmaxed weight vectors instead.)

    Args:
        size: D.
        sigma: before training.
    """

    prior_mean: Tensor
    prior_log_sigma: Tensor
    informed: Tensor

    def __init__(self, size: int, sigma: float = 0.01) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.full((size,), sigma).log())
        self.register_buffer("prior_mean", torch.zeros(size))
        self.register_buffer("prior_log_sigma", torch.zeros(size))
        self.register_buffer("informed", torch.tensor(False))

    def sampled(self, mean: Tensor, noise: Tensor) -> Tensor:
        """theta + sigma noise. [D]"""
        return mean + self.log_sigma.exp() * noise

    def divergence(self, mean: Tensor) -> Tensor:
        """KL(q || prior); for a flat prior -sum log sigma, which is the same up to a constant."""
        if not self.informed:
            return -self.log_sigma.sum()
        shift = (mean - self.prior_mean).square() + (2 * self.log_sigma).exp()
        scaled = shift / (2 * self.prior_log_sigma).exp()
        return (self.prior_log_sigma - self.log_sigma + 0.5 * scaled - 0.5).sum()

    @torch.no_grad()
    def settle(self, mean: Tensor) -> None:
        """What was learned becomes the prior."""
        self.prior_mean.copy_(mean)
        self.prior_log_sigma.copy_(self.log_sigma)
        self.informed.fill_(True)


# -- memories -------------------------------------------------------------------------------------


def corrected(gradient: Tensor, reference: Tensor) -> Tensor:
    """A-GEM (Chaudhry et al. 2019): g - min(g.r, 0) / (r.r) r. [D]

    Args:
        gradient: of the task.
        reference: of a batch of the memory.
    """
    along = (gradient @ reference).clamp(max=0.0) / (reference @ reference).clamp(min=1e-12)
    return gradient - along * reference
