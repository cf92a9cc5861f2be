"""Intermediate energies that are known: Gaussian behaviour with quadratic Q, and finite data.

Everything takes any floating type and can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.control.diffusion import Schedule
from papers.aepo.method import Steps, energy_target


@dataclass(frozen=True)
class Quadratic:
    """Q(a) = sum over dimensions of slope a + curvature a^2 / 2."""

    slope: float = 2.0
    curvature: float = -2.0

    def __call__(self, action: Tensor) -> Tensor:
        """[..., d] -> [...]."""
        return (self.slope * action + 0.5 * self.curvature * action.square()).sum(-1)


@dataclass(frozen=True)
class Gaussian:
    """Behaviour N(mean, std^2) in every dimension, on its own."""

    mean: float = 0.3
    std: float = 0.5

    def posterior(self, schedule: Schedule, a: Tensor, n: Steps) -> tuple[Tensor, Tensor]:
        """Mean [..., d] and variance of a_0 given a_n."""
        alpha, sigma = schedule.rates(n, a)
        prior = self.std**2
        variance = prior * sigma**2 / (alpha**2 * prior + sigma**2)
        gain = alpha * prior / (alpha**2 * prior + sigma**2)
        return self.mean + gain * (a - alpha * self.mean), variance

    def epsilon(self, schedule: Schedule, a: Tensor, n: Steps) -> Tensor:
        """The exact noise prediction E[eps | a_n]. [..., d]."""
        alpha, sigma = schedule.rates(n, a)
        return (a - alpha * self.posterior(schedule, a, n)[0]) / sigma

    def target(self, q: Quadratic, beta: float) -> tuple[float, float]:
        """Mean and standard deviation of mu exp(beta Q), in every dimension.

        Raises:
            ValueError: if it cannot be normalised.
        """
        precision = 1 / self.std**2 - beta * q.curvature
        if precision <= 0:
            raise ValueError(f"mu exp({beta:g} Q) has no integral")
        return (self.mean / self.std**2 + beta * q.slope) / precision, precision**-0.5

    def energy(
        self, schedule: Schedule, q: Quadratic, beta: float, kind: str = "exact"
    ) -> Callable[[Tensor, Steps], Tensor]:
        """E_n(a_n), exactly or as a method would have it with this mu. [..., d] -> [...].

        Args:
            schedule: of the diffusion.
            q: its Q.
            beta: inverse temperature.
            kind: "exact", "analytic" (Eq. 7), "mean" (Eq. 7 without the spread) or "naive" (beta Q
                at the noisy action).
        """

        def found(a: Tensor, n: Steps) -> Tensor:
            if kind == "naive":
                return beta * q(a)
            m, v = self.posterior(schedule, a, n)
            g = q.slope + q.curvature * m
            if kind != "exact":
                spread = (v * g.square()).sum(-1)
                return energy_target(q(m), spread if kind == "analytic" else 0.0, beta)
            left = 1 - beta * v * q.curvature
            moved = (0.5 * beta**2 * v * g.square() / left - 0.5 * torch.log(left)).sum(-1)
            return beta * q(m) + moved

        return found


@dataclass(frozen=True)
class FiniteData:
    """The behaviour is uniform over N actions, of which Q is known.

    Attributes:
        action: [S, N, d].
        q: [S, N].
    """

    action: Tensor
    q: Tensor

    def log_weights(self, schedule: Schedule, a: Tensor, n: int) -> Tensor:
        """log of p(a_0 = a_i | a_n). [S, B, d] -> [S, B, N]."""
        alpha, sigma = schedule.rates(n, a)
        distance = (a.unsqueeze(2) - alpha * self.action.unsqueeze(1)).square().sum(-1)
        return torch.log_softmax(-0.5 * distance / sigma**2, -1)

    def energy(self, schedule: Schedule, a: Tensor, n: int, beta: float) -> Tensor:
        """log sum_i p(a_i | a_n) exp(beta Q_i). [S, B, d] -> [S, B]."""
        weights = self.log_weights(schedule, a, n)
        return torch.logsumexp(weights + beta * self.q.unsqueeze(1), -1)

    def reweighted(self, generators: list[torch.Generator], beta: float, count: int) -> Tensor:
        """Draws of mu exp(beta Q) / Z. [S, count, d]."""
        weights = torch.softmax(beta * self.q, -1)
        drawn = [
            x[torch.multinomial(p, count, replacement=True, generator=g)]
            for x, p, g in zip(self.action, weights, generators, strict=True)
        ]
        return torch.stack(drawn)
