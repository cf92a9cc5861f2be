"""The value function of QMIX: recurrent agents that share one network, and a mixer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from common.marl.episodes import Batch
from common.marl.mixers import QMix
from common.marl.recurrent import RecurrentAgents, agent_inputs, input_width
from papers.ovmse.config import Learning


class Sizes(Protocol):
    """As much of an environment as networks need."""

    n_agents: int
    obs_dim: int
    state_dim: int
    n_actions: int


class Values(nn.Module):
    """Agents and a mixer: Q_tot of episodes.

    Args:
        env: for its sizes.
        cfg: for the widths.
        generator: of the initial weights.
    """

    def __init__(self, env: Sizes, cfg: Learning, generator: torch.Generator) -> None:
        super().__init__()
        N, A = env.n_agents, env.n_actions
        self.n_actions = A
        n_in = input_width(env.obs_dim, A, N, last=True, ids=True)
        self.agents = RecurrentAgents(N, n_in, A, cfg.hidden, generator=generator)
        self.mixer = QMix(N, env.state_dim, cfg.embed, cfg.hypernet, generator=generator)

    def utilities(self, batch: Batch) -> Tensor:
        """q_i of every moment of episodes. [B, T + 1, N, A]."""
        out: Tensor = self.agents(agent_inputs(batch.obs, batch.actions, self.n_actions))
        return out

    def mix(self, q: Tensor, state: Tensor) -> Tensor:
        """Q_tot of a joint action. [..., N], [..., S] -> [...]."""
        out: Tensor = self.mixer(q, state)
        return out

    def mix_each(self, q: Tensor, state: Tensor) -> Tensor:
        """Q_tot of many joint actions of each state. [..., K, N], [..., S] -> [..., K]."""
        return self.mixer.each(q, state)


__all__ = ["Sizes", "Values"]
