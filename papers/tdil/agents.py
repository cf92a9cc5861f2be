"""The agents that TDIL drives: soft actor-critic for continuous and for discrete actions.

Both have the same calls, per seed and per state, so that train.py is one loop. The continuous one
is common/sac.py; the discrete one follows the authors' maze code. Nothing here knows of rewards.
    obs [S, B, d] · reward, log-probabilities, kept [S, B] · actions [S, B, A], discrete [S, B]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import sac
from common.stacked import MLP, clip_grad_norm_per_seed, rand, randn
from common.torch_utils import cumulative_probability
from papers.tdil.method import bc_loss, bc_loss_discrete

Generators = Sequence[torch.Generator]


class StackedAdam:
    """Adam for stacked parameters in which a seed may sit a step out.

    The actor takes no step for a seed whose whole batch lies above the reward threshold. A zero
    gradient would not do: Adam's momentum moves the parameters all the same.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.lr, self.betas, self.eps = list(parameters), lr, betas, eps
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.steps = torch.zeros(len(self.parameters[0]), device=self.parameters[0].device)

    @torch.no_grad()
    def step(self, active: Tensor | None = None) -> None:
        """One step of the seeds that are active ([S], default: all); clears the gradients."""
        active = torch.ones_like(self.steps) if active is None else active.to(self.steps.dtype)
        self.steps += active
        n = self.steps.clamp(min=1)
        beta_1, beta_2 = self.betas
        bias_1, bias_2 = 1 - beta_1**n, 1 - beta_2**n
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            shape = (-1, *[1] * (p.dim() - 1))
            on = active.view(shape)
            assert p.grad is not None
            m.addcmul_(on * (1 - beta_1), p.grad - m)
            v.addcmul_(on * (1 - beta_2), p.grad.square() - v)
            size = -self.lr * active / bias_1
            p.addcmul_(size.view(shape), m / ((v / bias_2.view(shape)).sqrt() + self.eps))
            p.grad = None

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"m": self.m, "v": self.v, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        mine, saved = (*self.m, *self.v, self.steps), (*state["m"], *state["v"], state["steps"])
        for tensor, value in zip(mine, saved, strict=True):
            tensor.copy_(value)  # in place: on its own device


class ContinuousAgent(nn.Module):
    """SAC with a tanh-Gaussian policy and twin critics, 3 hidden layers each."""

    bc_last = True  # order of the updates: behaviour cloning after the expert's critic step

    def __init__(
        self,
        init: Generators,
        obs_dim: int,
        action_dim: int,
        hidden: int,
        log_alpha: float | None = None,
    ) -> None:
        """`log_alpha`: fixed at this value; None: learned from 0 for a target entropy of -A."""
        super().__init__()
        layers = (hidden,) * 3
        self.action_dim, self.learns_alpha = action_dim, log_alpha is None
        self.actor = sac.Actor(init, obs_dim, action_dim, layers)
        self.critic = sac.TwinCritic(init, obs_dim, action_dim, layers)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((len(init),), log_alpha or 0.0))  # [S]

    @property
    def alpha(self) -> Tensor:
        """Temperature, [S, 1]."""
        return self.log_alpha.detach().exp().unsqueeze(1)

    def noise(self, generators: Generators, batch: int) -> Tensor:
        """What a stochastic action of `batch` states needs."""
        return randn(generators, batch, self.action_dim)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Stochastic actions in (-1, 1)."""
        return self.actor.sample(obs, noise)[0]

    def mode(self, obs: Tensor) -> Tensor:
        """Deterministic actions."""
        return self.actor.mode(obs)

    def actor_terms(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """alpha log pi - min Q, and log pi, per state."""
        action, log_prob = self.actor.sample(obs, noise)
        with sac.frozen(self.critic):
            q = self.critic(obs, action).amin(1)
        return self.alpha * log_prob - q, log_prob.detach()

    def alpha_gradient(self, log_prob: Tensor) -> Tensor | None:
        """d/d log alpha of -log alpha (mean log pi + target entropy), from means [S]."""
        return -(log_prob - self.action_dim) if self.learns_alpha else None

    def critic_loss(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        noise: Tensor,
        gamma: float,
    ) -> Tensor:
        """Loss of both critics; no state is terminal, so every target bootstraps. [S]."""
        with torch.no_grad():
            next_action, next_log_prob = self.actor.sample(next_obs, noise)
            next_q = self.target(next_obs, next_action)
            never = torch.zeros_like(reward)
            y = sac.critic_target(reward, never, next_q, next_log_prob, self.alpha, gamma)
        return sac.critic_loss(self.critic(obs, action), y)

    def clip_critic(self) -> None:
        """Critic gradients are not clipped here."""

    def bc_loss(self, obs: Tensor, action: Tensor) -> Tensor:
        """Mean squared error of the deterministic action. [S]."""
        return bc_loss(self.mode(obs), action)

    def action_features(self, action: Tensor) -> Tensor:
        """What a discriminator of actions sees."""
        return action


class DiscreteAgent(nn.Module):
    """Discrete SAC (Christodoulou 2019) as in the authors' maze.

    Their gradient of log alpha, exp(target entropy - entropy), is positive whatever the entropy:
    alpha decays, and the target (.98 log A, which would keep the policy near uniform) is never
    enforced. We write the decay down.
    """

    bc_last = False

    def __init__(
        self,
        init: Generators,
        obs_dim: int,
        action_dim: int,
        hidden: int,
        log_alpha: float | None = None,
    ) -> None:
        """`action_dim`: number of actions."""
        super().__init__()
        layers = (hidden,) * 3
        twice = [g for g in init for _ in range(2)]
        self.action_dim, self.learns_alpha = action_dim, log_alpha is None
        self.actor = MLP(init, (obs_dim, *layers, action_dim), F.relu)
        self.critic = MLP(twice, (obs_dim, *layers, action_dim), F.relu)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((len(init),), log_alpha or 0.0))  # [S]

    @property
    def alpha(self) -> Tensor:
        """Temperature, [S, 1]."""
        return self.log_alpha.detach().exp().unsqueeze(1)

    def noise(self, generators: Generators, batch: int) -> Tensor:
        """What a stochastic action of `batch` states needs."""
        return rand(generators, batch, 1)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Stochastic actions, by the inverse of their distribution function."""
        below = cumulative_probability(F.softmax(self.actor(obs), dim=-1))[..., :-1] <= noise
        return below.sum(-1)

    def mode(self, obs: Tensor) -> Tensor:
        """The most probable action."""
        return self.actor(obs).argmax(-1)

    def q(self, net: MLP, obs: Tensor) -> Tensor:
        """Both critics at all actions. [S, 2, B, A]."""
        return net(obs.repeat_interleave(2, dim=0)).unflatten(0, (len(obs), 2))

    def actor_terms(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """sum_a pi (alpha log pi - min Q), and minus the entropy, per state; noise is unused."""
        log_prob = F.log_softmax(self.actor(obs), dim=-1)
        with torch.no_grad():
            q = self.q(self.critic, obs).amin(1)
        loss = (log_prob.exp() * (self.alpha.unsqueeze(-1) * log_prob - q)).sum(-1)
        return loss, (log_prob.exp() * log_prob).sum(-1).detach()

    def alpha_gradient(self, log_prob: Tensor) -> Tensor | None:
        """1 for every seed: under Adam, log alpha falls by the learning rate at each update."""
        return torch.ones_like(log_prob) if self.learns_alpha else None

    def critic_loss(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        noise: Tensor,
        gamma: float,
    ) -> Tensor:
        """Loss of both critics, with the exact expectation over next actions. [S]."""
        with torch.no_grad():
            log_prob = F.log_softmax(self.actor(next_obs), dim=-1)
            soft = self.q(self.target, next_obs).amin(1) - self.alpha.unsqueeze(-1) * log_prob
            y = reward + gamma * (log_prob.exp() * soft).sum(-1)
        q = self.q(self.critic, obs)
        taken = action[:, None, :, None].expand(-1, 2, -1, 1)
        return sac.critic_loss(q.gather(-1, taken).squeeze(-1), y)

    def clip_critic(self) -> None:
        """Gradient norm of each critic at most 1 (authors' code)."""
        clip_grad_norm_per_seed(list(self.critic.parameters()), 1.0)

    def bc_loss(self, obs: Tensor, action: Tensor) -> Tensor:
        """Cross-entropy. [S]."""
        return bc_loss_discrete(self.actor(obs), action)

    def action_features(self, action: Tensor) -> Tensor:
        """What a discriminator of actions sees: one-hot rows."""
        return F.one_hot(action, self.action_dim).to(torch.get_default_dtype())


Agent = ContinuousAgent | DiscreteAgent
