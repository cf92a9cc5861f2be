"""Proximal policy optimisation as in MAPPO and MAT: advantages, value normalisation, the loss.

Stacked over S seeds; T steps, E environments, N agents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

GAMMA, LAMBDA = 0.99, 0.95
ENTROPY, VALUE = 0.01, 1.0  # coefficients
HUBER = 10.0
DECAY = 0.99999  # of the value normaliser


def advantages(reward: Tensor, value: Tensor, last_value: Tensor, over: Tensor) -> Tensor:
    """Generalised advantage estimates of every agent. [S, T, E, N].

    Args:
        reward: where an episode was cut, with the discounted value of what it led to.
            [S, T, E, N].
        value: of what was seen before each step. [S, T, E, N].
        last_value: after the last step. [S, E, N].
        over: the episode ended at this step, or was cut. [S, T, E].
    """
    result = torch.zeros_like(reward)
    ahead, following = torch.zeros_like(last_value), last_value
    for t in reversed(range(reward.shape[1])):
        goes_on = (~over[:, t]).to(reward.dtype).unsqueeze(-1)
        delta = reward[:, t] + GAMMA * goes_on * following - value[:, t]
        ahead = delta + GAMMA * LAMBDA * goes_on * ahead
        result[:, t], following = ahead, value[:, t]
    return result


def normalised(advantage: Tensor, alive: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the living agents' entries of each seed.

    Args:
        advantage: [S, ...].
        alive: 0 or 1, of the same shape.
    """
    x, w = advantage.flatten(1), alive.flatten(1)
    n = w.sum(1, keepdim=True).clamp(min=1)
    mean = (w * x).sum(1, keepdim=True) / n
    std = ((w * (x - mean).square()).sum(1, keepdim=True) / n).sqrt()
    return ((x - mean) / (std + 1e-5)).reshape(advantage.shape)


class ValueNorm:
    """Running mean and variance of the returns of each seed, debiased.

    Args:
        n_seeds: S.
        device: where.
    """

    def __init__(self, n_seeds: int, device: torch.device) -> None:
        self.moments = torch.zeros(n_seeds, 3, device=device)  # of x, of x^2, the weight so far

    def update(self, returns: Tensor) -> None:
        """Once per roll-out. [S, ...]."""
        x = returns.flatten(1)
        now = torch.stack((x.mean(1), x.square().mean(1), torch.ones_like(x[:, 0])), dim=1)
        self.moments = DECAY * self.moments + (1 - DECAY) * now

    def _mean_and_std(self, like: Tensor) -> tuple[Tensor, Tensor]:
        first, second, weight = self.moments.clamp(min=-torch.inf).unbind(1)
        known = weight > 0
        weight = torch.where(known, weight, 1.0)
        mean = first / weight
        variance = torch.where(known, (second / weight - mean.square()).clamp(min=1e-2), 1.0)
        shape = (-1, *([1] * (like.dim() - 1)))
        return mean.view(shape), variance.sqrt().view(shape)

    def normalise(self, x: Tensor) -> Tensor:
        """Returns -> what the critic regresses. [S, ...]."""
        mean, std = self._mean_and_std(x)
        return (x - mean) / std

    def denormalise(self, x: Tensor) -> Tensor:
        """What the critic says -> returns. [S, ...]."""
        mean, std = self._mean_and_std(x)
        return x * std + mean

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"moments": self.moments}

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes back to what ``state`` gave."""
        self.moments = state["moments"].to(self.moments.device)


@dataclass(frozen=True)
class Data:
    """A roll-out, its T E samples in a row (B); [S, B, ...] each.

    Attributes:
        obs: [S, B, N, O].
        avail: [S, B, N, A].
        alive: 0 or 1, [S, B, N].
        actions: [S, B, N].
        log_prob: of the actions when they were taken. [S, B, N].
        value: normalised, when they were taken. [S, B, N].
        returns: normalised. [S, B, N].
        advantage: normalised. [S, B, N].
    """

    obs: Tensor
    avail: Tensor
    alive: Tensor
    actions: Tensor
    log_prob: Tensor
    value: Tensor
    returns: Tensor
    advantage: Tensor

    def split(self, parts: int, generators: Sequence[torch.Generator]) -> Iterator[Data]:
        """Mini-batches of samples, in an order of each seed's own; a single one as it is."""
        if parts == 1:
            yield self
            return
        S, B = self.obs.shape[:2]
        orders = [torch.randperm(B, generator=g, device=g.device) for g in generators]
        seeds = torch.arange(S, device=self.obs.device).unsqueeze(1)
        for chosen in torch.stack(orders).chunk(parts, dim=1):
            values = (getattr(self, f.name)[seeds, chosen] for f in fields(self))
            yield Data(*values)


def loss_of(logits: Tensor, value: Tensor, data: Data, clip: float) -> tuple[Tensor, dict]:
    """L_dec - 0.01 H + L_enc of every seed, means over living agents. [S], and what is logged."""
    log_p = logits.log_softmax(-1)
    taken = log_p.gather(-1, data.actions.unsqueeze(-1)).squeeze(-1)
    ratio = (taken - data.log_prob).exp()
    gain = torch.minimum(ratio * data.advantage, ratio.clamp(1 - clip, 1 + clip) * data.advantage)
    entropy = -(log_p.exp() * log_p).sum(-1)
    near = data.value + (value - data.value).clamp(-clip, clip)
    errors = [F.huber_loss(v, data.returns, reduction="none", delta=HUBER) for v in (value, near)]
    each = -gain - ENTROPY * entropy + VALUE * torch.maximum(*errors)

    def mean(x: Tensor) -> Tensor:
        return (x * data.alive).sum((1, 2)) / data.alive.sum((1, 2)).clamp(min=1)

    with torch.no_grad():
        logged = {
            "entropy": mean(entropy),
            "value_loss": mean(errors[0]),
            "clipped": mean(((ratio - 1).abs() > clip).to(ratio.dtype)),
            "ratio": mean(ratio),
        }
    return mean(each), logged
