"""The host of the discrete tasks: QMIX with double Q-learning, the same for every method."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.marl.episodes import Act, Batch, Episode, play
from common.marl.mixers import QMix
from common.marl.protocol import BatchEnv, Ints, Seen
from common.marl.recurrent import agent_inputs, input_width
from common.marl.targets import epsilon_greedy, greedy, masked_mean, one_step, taken, td_lambda
from papers.kaleidoscope.agents import Acting, Agents, Clustered
from papers.kaleidoscope.config import Config
from papers.kaleidoscope.methods import Learner
from papers.kaleidoscope.task import Task

EVALUATION_SEED = 1_000_003  # of episodes; training counts on from the seed's own million


class Team(nn.Module):
    """The agents and their mixer."""

    def __init__(self, agents: nn.Module, mixer: QMix) -> None:
        super().__init__()
        self.agents, self.mixer = agents, mixer


def make_team(
    cfg: Config, method: Learner, task: Task, env: BatchEnv, groups: Sequence[Sequence[int]]
) -> Team:
    """Networks from the run's seed.

    Args:
        groups: the agents of each cluster (SePS); else not looked at.
    """
    generator = torch.Generator().manual_seed(cfg.seed)
    widths = (env.obs_dim, env.n_actions, env.n_agents)
    n_in = input_width(*widths, last=task.last, ids=method.ids)

    def agents(n: int) -> Agents:
        sizes = (n, env.n_types, n_in, env.n_actions, cfg.hidden, cfg.pruned)
        return Agents(method, *sizes, generator=generator)

    clustered = method.sharing == "clusters"
    made = Clustered(groups, agents) if clustered else agents(env.n_agents)
    mixer = QMix(env.n_agents, env.state_dim, cfg.embed, cfg.hypernet, generator=generator)
    return Team(made, mixer)


def slow_copy(team: Team) -> Team:
    """Target networks: a copy of everything, thresholds included."""
    return copy.deepcopy(team).requires_grad_(False)


class RewardScale:
    """Mean and deviation of the rewards in all batches so far."""

    def __init__(self) -> None:
        self.count, self.mean, self.square = 1e-4, 0.0, 1e-4

    def update(self, reward: Tensor, filled: Tensor) -> None:
        """Take in the rewards [B, T] of the steps that happened."""
        values = reward[filled > 0].double()
        n = values.numel()
        delta = float(values.mean()) - self.mean
        total = self.count + n
        self.square += float((values - values.mean()).square().sum())
        self.square += delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    def __call__(self, reward: Tensor) -> Tensor:
        """Standardised."""
        return (reward - self.mean) / (self.square / self.count) ** 0.5

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(vars(self))

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` gave."""
        vars(self).update(state)


def last_steps(filled: Tensor) -> Tensor:
    """1 at the last step of each episode that happened. [B, T]."""
    return filled * (1 - torch.cat([filled[:, 1:], torch.zeros_like(filled[:, :1])], 1))


def td_loss(
    team: Team, target: Team, batch: Batch, reward: Tensor, task: Task, gamma: float, ids: bool
) -> Tensor:
    """Squared TD error of Q_tot, with the online agents' best next action. [].

    Args:
        team, target: online and slow.
        batch: of episodes.
        reward: what stands for ``batch.reward`` (standardised). [B, T].
        task: lambda, scale of the loss, last actions.
        gamma: discount.
        ids: agents see their number.
    """
    n_actions = batch.avail.shape[-1]
    inputs = agent_inputs(batch.obs, batch.actions, n_actions, last=task.last, ids=ids)
    q = team.agents(inputs, batch.agent_type)  # [B, T + 1, N, A]
    with torch.no_grad():
        best = greedy(q[:, 1:], batch.avail[:, 1:])
        slow = target.agents(inputs, batch.agent_type)[:, 1:]
        following = target.mixer(taken(slow, best), batch.state[:, 1:])
        ends = last_steps(batch.filled) if task.finite else batch.terminated
        if task.lam:
            y = td_lambda(reward, ends, batch.filled, following, gamma, task.lam)
        else:
            y = one_step(reward, ends, following, gamma)
    q_tot = team.mixer(taken(q[:, :-1], batch.actions), batch.state[:, :-1])
    return task.loss_scale * masked_mean((q_tot - y).square(), batch.filled)


def behaviour(
    agents: nn.Module, env: BatchEnv, task: Task, method: Learner, epsilon: float, rng: Any
) -> Act:
    """Epsilon-greedy actions of the agents, from an empty memory."""
    acting = Acting(agents, env.n_envs, env.n_actions, last=task.last, ids=method.ids)

    def act(seen: Seen, t: int) -> Ints:
        actions = epsilon_greedy(acting.values(seen), seen.avail, epsilon, rng)
        acting.acted(actions)
        return actions

    return act


def greedy_episodes(
    agents: nn.Module, env: BatchEnv, task: Task, method: Learner, cfg: Config
) -> list[Episode]:
    """The evaluation's episodes; they begin alike for every method and at every evaluation."""
    rng = np.random.default_rng(0)  # nothing is drawn from it
    return play(
        env,
        lambda: behaviour(agents, env, task, method, 0.0, rng),
        cfg.episodes,
        EVALUATION_SEED * (cfg.seed + 1),
    )
