"""RL-CFR's actor-critic over abstractions (Li, Fang and Huang, ICML 2024); the MDP is ``mdp.py``.

The critic regresses the immediate reward of an abstraction, the actor ascends the critic:

    L_Q = mean (Q(s, a) - r)^2,     L_pi = -mean Q(s, pi(s)),     target <- soft update.

No value of a next state enters: it is a contextual bandit along self-play.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from common.ema import follow
from papers.rl_cfr.abstraction import LEAKY
from papers.rl_cfr.task import FEATURES


def trunk(n_in: int, n_out: int) -> nn.Sequential:
    """Linear-LayerNorm-LeakyReLU twice (128, 96), then Linear."""
    return nn.Sequential(
        nn.Linear(n_in, 128),
        nn.LayerNorm(128),
        nn.LeakyReLU(LEAKY),
        nn.Linear(128, 96),
        nn.LayerNorm(96),
        nn.LeakyReLU(LEAKY),
        nn.Linear(96, n_out),
    )


class Actor(nn.Module):
    """pi(s): features [B, d] -> action [B, 2K] in [-1, 1]."""

    def __init__(self, n_pairs: int, n_features: int = FEATURES) -> None:
        super().__init__()
        self.net = trunk(n_features, 2 * n_pairs)

    def forward(self, s: Tensor) -> Tensor:
        return torch.tanh(self.net(s))


class Critic(nn.Module):
    """Q(s, a): features [B, d], action [B, 2K] -> expected reward [B]."""

    def __init__(self, n_pairs: int, n_features: int = FEATURES) -> None:
        super().__init__()
        self.net = trunk(n_features + 2 * n_pairs, 1)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return self.net(torch.cat((s, a), dim=-1)).squeeze(-1)


class Learner:
    """Actor, critic, target actor and their optimisers."""

    def __init__(self, n_pairs: int, n_features: int = FEATURES, lr: float = 3e-4) -> None:
        self.actor = Actor(n_pairs, n_features)
        self.critic = Critic(n_pairs, n_features)
        self.target = copy.deepcopy(self.actor).requires_grad_(False)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=lr, fused=True)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=lr, fused=True)

    def learn(self, s: Tensor, a: Tensor, r: Tensor, tau: float = 0.005) -> tuple[Tensor, Tensor]:
        """One step on a batch: features [B, d], actions [B, 2K], scaled rewards [B].

        One critic, no bootstrapping, no smoothing: not TD3. The actor's loss does not touch the
        critic's weights.

        Returns:
            critic's and actor's loss.
        """
        critic_loss = ((self.critic(s, a) - r) ** 2).mean()
        self.critic_optimiser.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic_optimiser.step()

        self.critic.requires_grad_(False)
        actor_loss = -self.critic(s, self.actor(s)).mean()
        self.actor_optimiser.zero_grad(set_to_none=True)
        actor_loss.backward()
        self.actor_optimiser.step()
        self.critic.requires_grad_(True)

        follow(self.target.parameters(), self.actor.parameters(), tau)
        return critic_loss.detach(), actor_loss.detach()

    def state_dict(self) -> dict[str, object]:
        """Everything that the next step depends on."""
        parts = ("actor", "critic", "target", "actor_optimiser", "critic_optimiser")
        return {name: getattr(self, name).state_dict() for name in parts}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Inverse of :meth:`state_dict`."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)
