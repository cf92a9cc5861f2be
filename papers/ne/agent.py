"""TD3's networks with their topologies, for all seeds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from common.stacked import StackedLinear, adam, seed_generators
from common.td3 import Actor, TwinCritic
from papers.ne.config import Config, resolve
from papers.ne.method import Generators, Topology, hidden_activations
from papers.ne.methods import METHODS
from papers.ne.task import Task


@dataclass(frozen=True)
class Part:
    """A network, its target, its optimiser and its topology."""

    net: Any  # td3.Actor or td3.TwinCritic
    slow: Any
    optimizer: torch.optim.Adam
    topology: Topology

    @property
    def layers(self) -> list[StackedLinear]:
        """Of the network, in order."""
        return list(self.net.net.layers)

    @property
    def slow_layers(self) -> list[StackedLinear]:
        """Of the target, in order."""
        return list(self.slow.net.layers)

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            **{"net": self.net, "slow": self.slow},
            **{"optimizer": self.optimizer, "topology": self.topology},
        }


@dataclass(frozen=True)
class Agent:
    """Both parts."""

    actor: Part
    critic: Part

    @torch.no_grad()
    def critic_hidden(self, obs: Tensor, action: Tensor) -> list[Tensor]:
        """Hidden activations of both critics. [2 S, B, n] each."""
        x = torch.cat((obs, action), -1).repeat_interleave(2, dim=0)
        return hidden_activations(self.critic.layers, x)

    @torch.no_grad()
    def actor_hidden(self, obs: Tensor) -> list[Tensor]:
        """Hidden activations of the actor. [S, B, n] each."""
        return hidden_activations(self.actor.layers, obs)


def narrow_width(inputs: Sequence[int], outputs: Sequence[int], hidden: int, share: float) -> int:
    """Width of two hidden layers with at most ``share`` of the weights of ``hidden`` ones.

    Args:
        inputs, outputs: of the networks that get this width.
        hidden: of the full networks.
        share: of their weights, all networks together.
    """

    def weights(width: int) -> int:
        return sum(a * width + width**2 + width * b for a, b in zip(inputs, outputs, strict=True))

    fitting = [w for w in range(1, hidden + 1) if weights(w) <= share * weights(hidden)]
    return max(fitting, default=1)


def make_agent(cfg: Config, task: Task, moving: Generators, device: torch.device) -> Agent:
    """Networks as training begins.

    Args:
        cfg: of the run.
        task: its dimensions.
        moving: generators of the topologies, one per seed.
        device: of everything.
    """
    (setting, ne), method = resolve(cfg), METHODS[cfg.method]
    d, A, width = task.obs_dim, task.action_dim, setting.hidden
    if method.narrow:
        # two critics and an actor
        width = narrow_width([d, *[d + A] * 2], [A, 1, 1], width, 1 - cfg.start_sparsity)
    nets = (
        Actor(seed_generators(cfg.seed, 1), d, A, (width, width)),
        TwinCritic(seed_generators(cfg.seed, 2), d, A, (width, width)),
    )
    updates = setting.steps - setting.warm_up
    configs = (ne if method.actor else replace(ne, growth="none", prune="none"), ne)
    parts = []
    for net, config in zip(nets, configs, strict=True):
        net.to(device)
        topology = Topology(list(net.net.layers), config, updates, moving)
        slow = copy.deepcopy(net).requires_grad_(False)
        optimizer = adam([{"params": list(net.parameters())}], lr=setting.lr)
        parts.append(Part(net, slow, optimizer, topology))
    return Agent(*parts)
