"""TD3 (Fujimoto et al. 2018), with the networks of all seeds stacked.

Pieces, no trainer, beside those of :mod:`common.sac` (replay buffer, twin critics, ``frozen``,
``polyak``): a deterministic actor, smoothed target actions, and the losses as functions that return
one value per seed. ``loss.sum().backward()`` gives every seed its own gradients. The paper's
numbers: gamma = .99, tau = .005, noise of targets .2 clipped at .5, exploration .1, an update of
the actor and of the targets for every second one of the critics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.sac import Batch, ReplayBuffer, TwinCritic, frozen, polyak
from common.stacked import MLP, StackedLinear


class Actor(nn.Module):
    """A deterministic policy for every seed; actions lie in (-1, 1)."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.net = MLP(generators, [obs_dim, *hidden, action_dim], activation)

    def forward(self, obs: Tensor) -> Tensor:
        """tanh of the network. [S, B, obs] -> [S, B, action]."""
        return torch.tanh(self.net(obs))


def noisy(action: Tensor, noise: Tensor, scale: float, clip: float | None = None) -> Tensor:
    """Clip(a + clip(scale noise, -clip, clip), -1, 1): target smoothing, or exploration.

    Args:
        action: in (-1, 1). [S, B, action]
        noise: standard normal draws. [S, B, action]
        scale: their standard deviation (.2 in targets, .1 in exploration).
        clip: of the noise (.5 in targets); None: not clipped (exploration).
    """
    moved = scale * noise if clip is None else (scale * noise).clamp(-clip, clip)
    return (action + moved).clamp(-1, 1)


def critic_target(reward: Tensor, terminated: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """y = r + gamma (1 - d) min_i Q_i(s', a'), a' the target actor's, smoothed. [S, B].

    Args:
        next_q: the target critics'. [S, 2, B]
    """
    return (reward + gamma * (1 - terminated) * next_q.amin(1)).detach()


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """sum_i mean (Q_i - y)^2. [S, 2, B], [S, B] -> [S]."""
    return (q - target.unsqueeze(1)).square().mean(-1).sum(-1)


def first_q(critic: TwinCritic, obs: Tensor, action: Tensor) -> Tensor:
    """Q_1 alone, which is half the work. [S, B, obs], [S, B, action] -> [S, B]."""
    x = torch.cat((obs, action), -1)
    layers, S = cast(Iterable[StackedLinear], critic.net.layers), len(obs)
    for i, layer in enumerate(layers):
        if i:
            x = critic.net.activations[i - 1](x)
        weight, bias = (p.unflatten(0, (S, 2))[:, 0] for p in (layer.weight, layer.bias))
        x = torch.baddbmm(bias, x, weight)
    return x.squeeze(-1)


def actor_loss(q: Tensor) -> Tensor:
    """-mean Q_1(s, mu(s)). [S, B] -> [S]."""
    return -q.mean(-1)


__all__ = [
    "Actor",
    "Batch",
    "ReplayBuffer",
    "TwinCritic",
    "actor_loss",
    "critic_loss",
    "critic_target",
    "first_q",
    "frozen",
    "noisy",
    "polyak",
]
