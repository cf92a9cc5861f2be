"""Behaviour, then critic, of one data set: what all methods of its tasks begin with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.cli import run_cli
from common.control.iql import Transitions, critic_target, value_loss
from common.run import Run
from common.sac import critic_loss, polyak
from common.stacked import adam, randint, randn, seed_generators
from common.torch_utils import setup
from papers.aepo.baselines import support_value
from papers.aepo.config import PriorConfig, resolve_prior
from papers.aepo.prior import (
    SCHEDULE,
    Advantage,
    Behaviour,
    Data,
    Generators,
    Labels,
    Prior,
    load_data,
    make_critic,
    variance_table,
)

LOG_EVERY = 500


def train(cfg: PriorConfig) -> None:
    """Train, or go on from the last checkpoint."""
    task, setting = resolve_prior(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    data, table, _ = load_data(task, cfg.seed, device)
    generators = seed_generators(cfg.seed, 1)
    sizes = (data.obs.shape[-1], data.action.shape[-1], setting.hidden)
    behaviour = Behaviour(generators, *sizes).to(device)
    critic = make_critic(task, generators, *sizes).to(device)
    trained = [p for net in (behaviour, critic) for p in net.parameters() if p.requires_grad]
    optimizer = adam([{"params": trained}], lr=setting.lr)  # who has no gradient sits a step out
    drawing = seed_generators(cfg.seed, 2, device)
    run.keep(
        **{"behaviour": behaviour, "critic": critic, "optimizer": optimizer, "drawing": drawing},
    )
    next_actions: Callable[[], Tensor] = _once(
        lambda: _supports(cfg, Prior(task, data, behaviour, critic, data.variance, None), table)
    )

    def measured() -> dict[str, Any]:
        looking = seed_generators(cfg.seed, 5, device)
        if isinstance(critic, Advantage):
            critic.rescale(data, looking)
        by_loss, by_norm = variance_table(behaviour, data, looking)
        return {"variance": by_loss, "variance_by_norm": by_norm, "critic": critic.state_dict()}

    for step in run.steps(
        setting.behaviour_steps + setting.critic_steps,
        then=measured,
        drop=("optimizer",),
    ):
        if step < setting.behaviour_steps:  # 1. the behaviour's diffusion
            anneal(optimizer, setting.lr, step / setting.behaviour_steps)
            loss = behaviour_loss(behaviour, data, drawing, setting.batch)
            descend(loss, optimizer)
        elif isinstance(critic, Labels):  # 2. a critic: fitted to labels,
            anneal(optimizer, setting.lr, 0.0)
            picked = data.picked(randint(drawing, data.action.shape[1], setting.batch))
            loss = (critic(picked[0], picked[1]) - picked[2]).square().mean(1)
            descend(loss, optimizer)
        elif isinstance(critic, Advantage) and table is not None:  # or to rewards; or it is known
            anneal(optimizer, setting.lr, 0.0)
            actions = next_actions() if cfg.critic == "support" else None
            loss = critic_step(critic, optimizer, table, drawing, cfg, actions)
        if (step + 1) % LOG_EVERY == 0:
            run.log(step + 1, loss=loss)


def behaviour_loss(behaviour: Behaviour, data: Data, generators: Generators, batch: int) -> Tensor:
    """On fresh noise at uniform steps. [S]."""
    obs, clean = data.sample(generators, batch)
    n = randint(generators, len(SCHEDULE), batch)
    return behaviour.loss(clean, randn(generators, *clean.shape[1:]), n, obs)


def critic_step(
    critic: Advantage,
    optimizer: torch.optim.Optimizer,
    table: Transitions,
    generators: Generators,
    cfg: PriorConfig,
    next_actions: Tensor | None,
) -> Tensor:
    """One update of V and the twin Q, then of the target critics; the critics' loss [S].

    Args:
        critic: V, Q and their targets.
        optimizer: of V and Q.
        table: all transitions.
        generators: one per seed.
        cfg: expectile, discount, step of the targets.
        next_actions: actions of the behaviour at every next state [S, N, M], over which V(s') is
            a soft maximum (QGPO); None: V(s') of implicit Q-learning.
    """
    _, setting = resolve_prior(cfg)
    index = randint(generators, len(table.reward), setting.batch)  # [S, B]
    obs, action, following = table.obs[index], table.action[index], table.next_obs[index]
    with torch.no_grad():
        target_q = critic.target(obs, action)
        if next_actions is None:
            next_v = critic.value(following)
        else:
            rows = torch.arange(len(index), device=index.device).unsqueeze(1)
            several = next_actions[rows, index]  # [S, B, M, d]
            repeated = following.unsqueeze(2).expand(*several.shape[:3], -1)
            q = critic.target(repeated.flatten(1, 2), several.flatten(1, 2)).amin(1)
            next_v = support_value(q.unflatten(1, several.shape[1:3]), setting.beta)
        y = critic_target(table.reward[index], table.terminated[index], next_v, cfg.gamma)
    tau = cfg.tau if next_actions is None else 0.5
    loss = critic_loss(critic.critic(obs, action), y)
    descend(loss + value_loss(critic.value(obs), target_q, tau), optimizer)
    polyak(critic.target, critic.critic, cfg.polyak)
    return loss.detach()


def anneal(optimizer: torch.optim.Optimizer, lr: float, progress: float) -> None:
    """Half a cosine from ``lr`` at 0 to nothing at 1."""
    for group in optimizer.param_groups:
        group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * progress))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of every seed."""
    optimizer.zero_grad()
    loss.sum().backward()
    optimizer.step()


def _supports(cfg: PriorConfig, prior: Prior, table: Transitions | None) -> Tensor:
    """Actions of the behaviour at every next state. [S, N, M, d]."""
    assert table is not None
    _, setting = resolve_prior(cfg)
    following = table.next_obs.repeat_interleave(setting.support, 0)
    drawn = prior.drawn(
        following.expand(len(cfg.seed), -1, -1),
        seed_generators(cfg.seed, 4, following.device),
        setting.solver_steps,
    )
    return drawn.unflatten(1, (-1, setting.support))


def _once(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``make`` on the first call, what it made afterwards."""
    made: list[Tensor] = []

    def get() -> Tensor:
        if not made:
            made.append(make())
        return made[0]

    return get


if __name__ == "__main__":
    run_cli(train, PriorConfig)
