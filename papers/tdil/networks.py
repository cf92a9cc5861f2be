"""The networks and optimisers of a run, for all its seeds, and test episodes of its policy."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.stacked import adam, seed_generators
from papers.tdil.agents import Agent, ContinuousAgent, DiscreteAgent, StackedAdam
from papers.tdil.baselines import ImitationDiscriminator
from papers.tdil.config import Config, resolve
from papers.tdil.method import TransitionDiscriminator
from papers.tdil.methods import METHODS
from papers.tdil.task import Rollout, Task


@dataclass
class Networks:
    """Everything that is learned, for all seeds; what a method does not use is None."""

    agent: Agent
    discriminator: TransitionDiscriminator | None  # D
    paying: TransitionDiscriminator | None  # its target copy, which pays the reward
    imitation: ImitationDiscriminator | None  # D_g of the GAIL-style reward
    selected: nn.Module | None  # actor of the checkpoint with the highest rho_rel so far

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {k: m.state_dict() for k, m in vars(self).items() if m is not None}

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        for name, values in state.items():
            getattr(self, name).load_state_dict(values)


def make_networks(cfg: Config, task: Task, device: torch.device) -> Networks:
    """Initial networks; a seed's are the same for every method."""
    tdil, seeds = resolve(cfg).tdil, cfg.seed
    layers = (tdil.hidden,) * 3
    kind = DiscreteAgent if task.discrete else ContinuousAgent
    agent = kind(
        seed_generators(seeds, 1), task.obs_dim, task.action_dim, tdil.hidden, cfg.log_alpha
    ).to(device)
    rewarded = METHODS[cfg.method].rewarded
    D = paying = D_g = selected = None
    if rewarded and tdil.beta < 1:
        D = TransitionDiscriminator(seed_generators(seeds, 2), task.obs_dim, layers).to(device)
        paying = copy.deepcopy(D).requires_grad_(False)
        selected = copy.deepcopy(agent.actor).requires_grad_(False)
    if rewarded and tdil.beta > 0:
        init = seed_generators(seeds, 3)
        D_g = ImitationDiscriminator(init, task.obs_dim, task.action_dim, layers).to(device)
    return Networks(agent, D, paying, D_g, selected)


class Optimisers:
    """Adam for everything that is learned.

    Args:
        nets: of the run.
        lr: learning rate of all.
    """

    def __init__(self, nets: Networks, lr: float) -> None:
        self.agent = nets.agent
        self.actor = StackedAdam(list(nets.agent.actor.parameters()), lr)
        self.alpha = StackedAdam([nets.agent.log_alpha], lr)
        learned = {"discriminator": nets.discriminator, "imitation": nets.imitation}
        self.of = {
            name: adam([{"params": list(net.parameters())}], lr=lr)
            for name, net in {"critic": nets.agent.critic, **learned}.items()
            if net is not None
        }

    def descend(self, name: str, loss: Tensor) -> None:
        """One step of the critic, the discriminator or the imitation discriminator. Loss [S]."""
        loss.sum().backward()
        if name == "critic":
            self.agent.clip_critic()
        self.of[name].step()
        self.of[name].zero_grad(set_to_none=True)

    def clone(self, s: Tensor, a: Tensor) -> Tensor:
        """One step of behaviour cloning, by the actor's optimiser; the loss [S]."""
        loss = self.agent.bc_loss(s, a)
        loss.sum().backward()
        self.actor.step()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        others = {name: optimiser.state_dict() for name, optimiser in self.of.items()}
        return {"actor": self.actor.state_dict(), "alpha": self.alpha.state_dict(), **others}

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        self.actor.load_state_dict(state["actor"])
        self.alpha.load_state_dict(state["alpha"])
        for name, optimiser in self.of.items():
            optimiser.load_state_dict(state[name])


@torch.no_grad()
def rollout(agent: Agent, task: Task, n_seeds: int, episodes: int, device: torch.device) -> Rollout:
    """Test episodes of the deterministic policy."""

    def policy(obs: NDArray[np.float32]) -> NDArray:
        return agent.mode(torch.from_numpy(obs).to(device)).cpu().numpy()

    return task.rollout(policy, n_seeds, episodes)
