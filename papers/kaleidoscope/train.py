"""One run: one method with QMIX on one task with discrete actions, one seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from common.cli import run_cli
from common.marl.episodes import Episode, EpisodeBuffer, batch_of, collect, outcomes, play
from common.marl.protocol import BatchEnv
from common.marl.targets import linear
from common.run import Run
from common.torch_utils import setup
from papers.kaleidoscope.baselines import clusters, describe
from papers.kaleidoscope.config import Config, resolved
from papers.kaleidoscope.method import (
    Coefficient,
    diversity,
    due,
    mask_distances,
    reset,
    sparsity,
)
from papers.kaleidoscope.methods import Learner, entry
from papers.kaleidoscope.qmix import (
    EVALUATION_SEED,
    RewardScale,
    Team,
    behaviour,
    greedy_episodes,
    make_team,
    slow_copy,
    td_loss,
)
from papers.kaleidoscope.task import Task, make, measured, script

LOG_EVERY = 100  # updates
SEPS_ROUNDS = 10  # of random play, an episode in every environment each


def written_by_hand(cfg: Config, task: Task) -> None:
    """A policy without anything to learn: its evaluation alone."""
    run = Run.open(cfg.out, cfg)
    run.keep()
    act, first = script(cfg.method, cfg.seed), EVALUATION_SEED * (cfg.seed + 1)
    for _ in run.steps(1):
        made = play(make(task, cfg.envs), lambda: act, cfg.episodes, first)
        run.log(0, **measured(task, made))


def random_play(cfg: Config, env: BatchEnv) -> list[Episode]:
    """Episodes that SePS tells agents apart by; they count as environment steps."""
    act = script("random", cfg.seed)
    return [e for i in range(SEPS_ROUNDS) for e in collect(env, act, 500_000 + cfg.seed + i)]


def update(
    method: Learner, cfg: Config, task: Task, team: Team, target: Team, kept: Any, device: Any
) -> dict[str, float]:
    """One gradient step on L_TD + beta_t J_div."""
    batch = batch_of(kept.buffer.draw(cfg.batch, kept.rng), device)
    reward = batch.reward
    if task.standardise:
        kept.scale.update(batch.reward, batch.filled)
        reward = kept.scale(batch.reward)
    loss = total = td_loss(team, target, batch, reward, task, cfg.gamma, method.ids)
    found = {"loss": float(loss.detach())}
    if method.diversity:
        J = diversity(team.agents.masked, cfg.layer_weights)
        found["beta"] = kept.beta(loss, J)
        total = loss + found["beta"] * J
    kept.optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_(team.parameters(), cfg.clip)
    kept.optimizer.step()
    return {**found, "gradient_norm": float(norm)}


def follow(
    run: Run, env: BatchEnv, method: Learner, cfg: Config, task: Task, team: Team, kept: Any
) -> None:
    """Greedy episodes and the masks, logged."""
    found: dict[str, Any] = measured(task, greedy_episodes(team.agents, env, task, method, cfg))
    if layers := team.agents.masked:
        found["mask_distance"] = mask_distances(layers)
        found["sparsity"] = sparsity(layers)
        found["redrawn"] = kept.redrawn
    run.log(kept.env_steps, updates=kept.updates, **found)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    method = entry(cfg.method, "qmix")
    cfg, task = resolved(cfg)
    assert cfg.steps is not None and cfg.beta_0 is not None and cfg.rho is not None
    if method.sharing == "script":
        return written_by_hand(cfg, task)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return None
    device = setup(cfg.device, cfg.seed)
    env = make(task, cfg.envs)
    before, groups = [], [list(range(env.n_agents))]
    if method.sharing == "clusters":
        before = random_play(cfg, env)
        latents = describe(before, env.n_actions, cfg.seed, cfg.describing)
        groups = clusters(latents, cfg.clusters, cfg.seed)
    team = make_team(cfg, method, task, env, groups).to(device)
    target = slow_copy(team)
    buffer = EpisodeBuffer(cfg.buffer)
    buffer.add(before)
    kept = run.keep(
        team=team,
        target=target,
        optimizer=torch.optim.Adam(team.parameters(), cfg.lr, fused=True),
        buffer=buffer,
        scale=RewardScale(),
        beta=Coefficient(cfg.beta_0),
        rng=np.random.default_rng(cfg.seed),
        generator=torch.Generator().manual_seed(cfg.seed + 1),  # of resets
        groups=groups,
        env_steps=buffer.n_steps,
        updates=0,
        evaluations=0,
        last_reset=0,
        redrawn=0,
    )
    interval = cfg.steps // cfg.resets
    # battles may be short: of so many rounds fewer will do, see the end of the loop
    rounds = cfg.steps if task.battle else -(-cfg.steps // (cfg.envs * env.episode_limit))
    for step in run.steps(rounds, drop=("buffer",)):
        if step == 0:
            follow(run, env, method, cfg, task, team, kept)
        # 1. an episode in every environment
        epsilon = linear(1.0, cfg.epsilon, cfg.anneal, kept.env_steps)
        act = behaviour(team.agents, env, task, method, epsilon, kept.rng)
        episodes = collect(env, act, cfg.seed * 1_000_000 + step)
        buffer.add(episodes)
        kept.env_steps += int(outcomes(episodes).lengths.sum())

        # 2. weights that nobody uses are drawn anew; the first layer is left out
        if method.resets and due(kept.env_steps, kept.last_reset, interval, cfg.steps):
            kept.redrawn += reset(team.agents.masked[1:], cfg.rho, kept.generator)
            kept.last_reset = kept.env_steps

        # 3. gradient steps
        for _ in range(cfg.updates if len(buffer) >= cfg.batch else 0):
            found = update(method, cfg, task, team, target, kept, device)
            kept.updates += 1
            if kept.updates % LOG_EVERY == 0:
                run.log(kept.env_steps, **found)

        # 4. target networks
        if (step + 1) * cfg.envs // cfg.copy_every > step * cfg.envs // cfg.copy_every:
            target.load_state_dict(team.state_dict())

        # 5. greedy episodes, so many times in all
        if kept.env_steps * cfg.evaluations >= (kept.evaluations + 1) * cfg.steps:
            kept.evaluations = kept.env_steps * cfg.evaluations // cfg.steps
            follow(run, env, method, cfg, task, team, kept)
        if kept.env_steps >= cfg.steps:
            run.finish(buffer=None)
            break


if __name__ == "__main__":
    run_cli(train, Config)
