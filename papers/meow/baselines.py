"""What MEow is compared with: soft actor-critic, and Monte-Carlo estimates of the soft value.

SAC (Haarnoja et al. 2018) has an actor, two critics and a temperature; with `alpha` fixed the
temperature does not move. Same calls as method.MEow.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.sac import (
    Actor,
    Batch,
    TwinCritic,
    actor_loss,
    critic_loss,
    critic_target,
    frozen,
    polyak,
    temperature_loss,
)
from common.stacked import adam, randn

Generators = Sequence[torch.Generator]


@dataclass(frozen=True)
class SACConfig:
    """Hyperparameters; the defaults are the usual ones on MuJoCo."""

    alpha: float | None = None  # temperature; None: learned, for a target entropy of -A
    gamma: float = 0.99  # discount
    tau: float = 0.005  # step of the slow critics per update
    lr: float = 3e-4  # Adam, for actor, critics and temperature
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics


class SAC:
    """Soft actor-critic for S seeds, in the order of stable-baselines3's `train`."""

    def __init__(
        self,
        generators: Generators,
        noise: Generators,
        obs_dim: int,
        action_dim: int,
        cfg: SACConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.cfg, self.noise, self.action_dim = cfg, noise, action_dim
        sizes = (obs_dim, action_dim, cfg.hidden)
        # ReLU in place: with stacked seeds the activations' memory traffic shows
        self.actor = Actor(generators, *sizes, torch.relu_).to(device)
        self.critic = TwinCritic(generators, *sizes, torch.relu_).to(device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        log_alpha = torch.zeros(len(generators), 1, device=device)
        if cfg.alpha is not None:
            log_alpha += torch.log(torch.tensor(cfg.alpha))
        self.log_alpha = log_alpha.requires_grad_(cfg.alpha is None)
        self.actor_optimizer = adam([{"params": list(self.actor.parameters())}], lr=cfg.lr)
        self.critic_optimizer = adam([{"params": list(self.critic.parameters())}], lr=cfg.lr)
        self.alpha_optimizer = adam([{"params": [self.log_alpha]}], lr=cfg.lr)

    @torch.no_grad()
    def act(self, state: Tensor, noise: Tensor | None) -> Tensor:
        """Actions for `noise` ~ N(0, I) [S, B, A]; None: the deterministic ones."""
        return self.actor.mode(state) if noise is None else self.actor.sample(state, noise)[0]

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of temperature, critics and actor each, and one of the slow critics."""
        noise = randn(self.noise, 2, batch.obs.shape[1], self.action_dim)  # [S, 2, B, A]
        action, log_prob = self.actor.sample(batch.obs, noise[:, 0])
        alpha = self.log_alpha.detach().exp()  # before its own step
        if self.cfg.alpha is None:
            losses = temperature_loss(self.log_alpha.squeeze(1), log_prob, -float(self.action_dim))
            self.alpha_optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            self.alpha_optimizer.step()

        with torch.no_grad():
            next_action, next_log_prob = self.actor.sample(batch.next_obs, noise[:, 1])
            next_q = self.target(batch.next_obs, next_action)
            y = critic_target(
                batch.reward, batch.terminated, next_q, next_log_prob, alpha, self.cfg.gamma
            )
        loss = critic_loss(self.critic(batch.obs, batch.action), y)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.critic_optimizer.step()

        with frozen(self.critic):
            q = self.critic(batch.obs, action)
        policy_loss = actor_loss(q, log_prob, alpha)
        self.actor_optimizer.zero_grad(set_to_none=True)
        policy_loss.sum().backward()
        self.actor_optimizer.step()
        polyak(self.target, self.critic, self.cfg.tau)
        return {"loss": loss.detach(), "alpha": alpha.squeeze(1), "target": y.mean(-1)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restores what `state` gave."""
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        for name in ("actor_optimizer", "critic_optimizer", "alpha_optimizer"):
            getattr(self, name).load_state_dict(state[name])
