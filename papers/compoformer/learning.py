"""What training and evaluation share: tasks on a device, pools of windows, losses, roll-outs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.control.decision_rollout import Outcomes, rollout
from common.control.sequences import (
    SequenceData,
    Windows,
    action_loss,
    sequence_data,
    windows_at,
)
from common.control.trajectories import best, joined
from common.control.windows import Standardizer
from papers.compoformer.config import Config
from papers.compoformer.network import Continual, acting
from papers.compoformer.task import (
    ACTION_DIM,
    STREAMS,
    Demonstrations,
    demonstrations,
    goal_batch,
    sentence_vectors,
)

POOLING, REMEMBERING, DRAWING, RECALLING, NOISE = range(1, 6)  # streams of random numbers
AT_ONCE = 500  # windows of a forward pass without gradient


def stream(seed: int, use: int, task: int = 0) -> torch.Generator:
    """A generator of a run, on the CPU."""
    return torch.Generator().manual_seed(1_000_003 * use + 10_007 * task + seed)


@dataclass(frozen=True)
class Task:
    """A task on a device, seen by the statistics of its own data."""

    name: str
    data: SequenceData
    standardizer: Standardizer
    reward: float  # the data's highest return: returns-to-go are divided by it, the target is 1
    source: Demonstrations


@dataclass(frozen=True)
class World:
    """The tasks of a stream, in order."""

    tasks: list[Task]
    cfg: Config

    def pool(self, task: int) -> Tensor:
        """First steps of the windows that updates on a task draw from. [pool]"""
        cfg, n = self.cfg, len(self.tasks[task].data.ends)
        if not cfg.pool:
            return torch.arange(n)
        return torch.randint(n, (cfg.pool,), generator=stream(cfg.seed, POOLING, task))

    def windows(self, task: int, first: Tensor) -> Windows:
        """The windows of a task that begin at these steps."""
        return windows_at(self.tasks[task].data, first, self.cfg.window)

    def memory(self, task: int, share: float) -> Tensor:
        """First steps of the windows of a share of the task's episodes, at least one. [m]"""
        data = self.tasks[task].data
        n = len(data.starts)
        kept = torch.randperm(n, generator=stream(self.cfg.seed, REMEMBERING, task))
        kept = kept[: max(1, round(share * n))]
        ends = data.ends.cpu()[data.starts[kept]]
        pairs = zip(data.starts[kept].tolist(), ends.tolist(), strict=True)
        return torch.cat([torch.arange(a, b) for a, b in pairs])


def make_task(cfg: Config, name: str, source: Demonstrations, device: torch.device) -> Task:
    """One task on a device."""
    standardizer = Standardizer.fit(np.concatenate([e.observations for e in source.train]))
    reward = float(best(source.train, 1)[0].rewards.sum(dtype=np.float64))
    data = on_device(source.train, standardizer, reward, device)
    return Task(name, data, standardizer, reward, source)


def on_device(
    episodes: Sequence, standardizer: Standardizer, reward: float, device: torch.device
) -> SequenceData:
    """Episodes as a policy of their task sees them."""
    return sequence_data(
        joined(episodes), return_scale=reward, standardizer=standardizer, device=device
    )


def make_world(cfg: Config, device: torch.device) -> World:
    """The tasks of the run's stream; one that comes again is the same."""
    found = STREAMS[cfg.task]
    sources = {
        name: demonstrations(found, name, cfg.first_goal, cfg.goals, cfg.episodes)
        for name in dict.fromkeys(found.tasks)
    }
    made = {name: make_task(cfg, name, source, device) for name, source in sources.items()}
    return World([made[name] for name in found.tasks], cfg)


def make_net(cfg: Config) -> Continual:
    """What has been learned before the first task; on the CPU."""
    return Continual(cfg, torch.from_numpy(sentence_vectors(STREAMS[cfg.task], cfg.encoder)))


# -- what sources say about a task's windows ------------------------------------------------------


@dataclass
class Sources:
    """Features and actions of a task's sources on its pool: they are frozen, so once is enough.

    Attributes:
        task: they were computed for; -1: for none.
        features: [S, pool, T, d], or None: computed for each batch.
        actions: [S, pool, T, a].
    """

    task: int = -1
    features: Tensor | None = None
    actions: Tensor | None = None

    def prepare(self, net: Continual, world: World, task: int, pool: Tensor) -> None:
        """Compute them for a task; not where the pool is all there is (``--pool 0``)."""
        self.task, self.features, self.actions = task, None, None
        if not world.cfg.pool:
            return
        parts = [net.of_sources(task, world.windows(task, at)) for at in pool.split(AT_ONCE)]
        self.features = torch.cat([f for f, _ in parts], 1)
        self.actions = torch.cat([a for _, a in parts], 1)

    def of(self, net: Continual, windows: Windows, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Features [S, B, T, d] and actions [S, B, T, a] of the windows drawn from the pool."""
        if self.features is None or self.actions is None:
            return net.of_sources(self.task, windows)
        drawn = drawn.to(self.features.device)
        return self.features[:, drawn], self.actions[:, drawn]


# -- evaluation -----------------------------------------------------------------------------------


def outcomes(net: Continual, world: World, task: int, first_goal: int) -> Outcomes:
    """Episodes of a task's policy, as it is now, on goals that no data hold."""
    cfg, of = world.cfg, world.tasks[task]
    return rollout(
        goal_batch(of.name, first_goal, cfg.goals),
        acting(net, task),
        action_dim=ACTION_DIM,
        context=cfg.window,
        limit=STREAMS[cfg.task].limit,
        target_return=of.reward,
        return_scale=of.reward,
        standardize=of.standardizer,
        device=of.data.states.device,
    )


def held_out(world: World, task: int) -> tuple[Windows, Windows]:
    """A task's held-out episodes cut into windows, and the same with the wanted actions."""
    of, cfg = world.tasks[task], world.cfg
    trajectories = joined(of.source.held_out)
    data = on_device(of.source.held_out, of.standardizer, of.reward, of.data.states.device)
    wanted = torch.from_numpy(np.concatenate(of.source.wanted)).to(data.actions.device)
    first = torch.from_numpy(np.flatnonzero(trajectories.timesteps % cfg.window == 0))
    windows = windows_at(data, first, cfg.window)
    return windows, windows_at(replace(data, actions=wanted), first, cfg.window)


@torch.no_grad()
def held_out_actions(net: Continual, world: World, task: int) -> tuple[Tensor, float]:
    """Executed actions of a task's policy on held-out windows [N, T, a], and their action error.

    The error is the mean square of the distance to the behaviour's mean action.
    """
    net.eval()
    windows, aims = held_out(world, task)
    found = net.act(task, windows).clamp(-1, 1) * windows.real.unsqueeze(-1)
    return found, float(action_loss(found, aims))
