"""One run: one method on one task, all seeds at once.

Environments are stepped per seed; the networks of all seeds are stacked, so an update is a handful
of batched products and each seed is what it would be alone. All methods go through the same loop:
what differs is which reward is paid (R_TDIL, the GAIL-style one, a mix, none) and which of the
agent's additions are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.cli import run_cli
from common.run import Run
from common.sac import ReplayBuffer, polyak
from common.stacked import randint, seed_generators
from common.torch_utils import setup
from papers.tdil.agents import Agent
from papers.tdil.baselines import imitation_loss
from papers.tdil.config import Config, resolve
from papers.tdil.method import (
    TDILConfig,
    TransitionDiscriminator,
    below_threshold,
    discriminator_loss,
    expert_subset,
    masked_mean,
    relative_reward,
    surrogate_reward,
    total_reward,
)
from papers.tdil.methods import METHODS
from papers.tdil.networks import Networks, Optimisers, make_networks, rollout
from papers.tdil.task import Environment, Rollout, Task, make_task

Generators = Sequence[torch.Generator]


class Expert(NamedTuple):
    """The demonstration, or a batch of it: s*, a*, s*' of every seed."""

    s: Tensor  # [S, T, d]
    a: Tensor  # [S, T, A], discrete [S, T]
    s_next: Tensor  # [S, T, d]
    index: Tensor  # [S, B] which of the T steps a batch holds; of the demonstration all

    def draw(self, generators: Generators, batch: int) -> Expert:
        """A batch, with replacement."""
        seeds = torch.arange(len(self.s), device=self.s.device).unsqueeze(1)
        index = randint(generators, self.s.shape[1], batch)
        return Expert(self.s[seeds, index], self.a[seeds, index], self.s_next[seeds, index], index)


class Batch(NamedTuple):
    """Transitions of the agent, i.i.d. from its buffer."""

    s: Tensor  # [S, B, d]
    a: Tensor  # [S, B, A], discrete [S, B]
    s_next: Tensor  # [S, B, d]


@dataclass(frozen=True)
class Parts:
    """What the updates of a run work with."""

    tdil: TDILConfig
    nets: Networks
    optimisers: Optimisers
    expert: Expert
    buffer: ReplayBuffer
    drawing: Generators
    discrete: bool
    pairs: int  # of states that the discriminator sees at once: what fits into a cache

    def sample(self) -> Batch:
        """A fresh batch of the agent's."""
        batch = self.buffer.sample(self.drawing, self.tdil.batch)
        action = batch.action.squeeze(-1).long() if self.discrete else batch.action
        return Batch(batch.obs, action, batch.next_obs)


# -- the loop ---------------------------------------------------------------------------------


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    setting, method = resolve(cfg), METHODS[cfg.method]
    tdil, task = setting.tdil, make_task(cfg.task)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    S, expert = len(cfg.seed), demonstrated(task, len(cfg.seed), device)
    nets = make_networks(cfg, task, device)
    optimisers = Optimisers(nets, tdil.lr)
    acting, drawing = (seed_generators(cfg.seed, stream, device) for stream in (4, 5))
    env = task.training(cfg.seed)
    width = 1 if task.discrete else task.action_dim
    buffer = ReplayBuffer(S, min(setting.steps, 1_000_000), task.obs_dim, width, device)
    best = torch.full((S,), -torch.inf, device=device)  # highest rho_rel so far
    pairs = 2_048 if device.type == "cpu" else 262_144
    parts = Parts(tdil, nets, optimisers, expert, buffer, drawing, task.discrete, pairs)
    aside = {"optimisers": optimisers, "env": env, "buffer": buffer, "best": best}
    aside |= {"acting": acting, "drawing": drawing}
    run.keep(networks=nets, **aside)

    for step in run.steps(setting.steps, every=setting.save_every, drop=tuple(aside)):
        seen: dict[str, Any] = {}  # for the log
        if method.rewarded:
            # 1. act with the stochastic policy
            act(nets.agent, env, buffer, acting, device)
        if step >= tdil.warm_up:
            batch = expert.draw(drawing, tdil.batch)
            if not method.rewarded:
                seen["bc_loss"] = optimisers.clone(batch.s, batch.a)
            else:
                # 2. discriminators, on fresh batches, and the copy that pays
                seen |= discriminate(parts, batch)
                # 3. to 8. rewards, actor, critics, cloning
                seen |= improve(parts, batch)
        if (step + 1) % setting.eval_every == 0 or step + 1 == setting.steps:
            tests = rollout(nets.agent, task, S, setting.episodes, device)
            scores: dict[str, Any] = task.scores(tests)
            if nets.discriminator is not None and step >= tdil.warm_up:
                few = tests.first(setting.episodes)
                rho_rel = blind_score(nets.discriminator, few, expert.s_next, pairs)
                select(nets, best, rho_rel)
                scores["rho_rel"] = rho_rel
            run.log(step + 1, **scores, **seen)


def demonstrated(task: Task, n_seeds: int, device: torch.device) -> Expert:
    """The whole demonstration, the same for every seed."""

    def stacked(x: NDArray) -> Tensor:
        return torch.from_numpy(x).to(device).expand(n_seeds, *x.shape)

    shown = task.demonstration
    s, a, s_next = map(stacked, (shown.observations, shown.actions, shown.next_observations))
    return Expert(s, a, s_next, torch.arange(len(shown), device=device).expand(n_seeds, -1))


def act(
    agent: Agent,
    env: Environment,
    buffer: ReplayBuffer,
    acting: Generators,
    device: torch.device,
) -> None:
    """One step of every environment; neither its reward nor its end is kept."""
    obs = env.observation
    with torch.no_grad():
        here = torch.from_numpy(obs).to(device).unsqueeze(1)
        action = agent.act(here, agent.noise(acting, 1)).squeeze(1).cpu().numpy()
    following, _ = env.step(action)
    stored = action[:, None] if action.ndim == 1 else action
    buffer.add(obs=obs, action=stored, reward=np.nan, next_obs=following, terminated=0.0)


# -- updates ----------------------------------------------------------------------------------


def discriminate(parts: Parts, expert: Expert) -> dict[str, Tensor]:
    """One step of D and of its copy, and of D_g, where the method has them; their losses."""
    tdil, nets, seen = parts.tdil, parts.nets, {}
    if nets.discriminator is not None and nets.paying is not None:
        s, _, s_next = parts.sample()
        loss = discriminator_loss(
            nets.discriminator.logit,
            s,
            s_next,
            kappa=tdil.kappa,
            hard_negatives=tdil.hard_negatives,
        )
        parts.optimisers.descend("discriminator", loss)
        polyak(nets.paying, nets.discriminator, tdil.tau_n)
        seen["d_loss"] = loss.detach()
    if nets.imitation is not None:
        s, a, _ = parts.sample()
        features = nets.agent.action_features
        loss = imitation_loss(nets.imitation, s, features(a), expert.s, features(expert.a))
        parts.optimisers.descend("imitation", loss)
        seen["g_loss"] = loss.detach()
    return seen


@torch.no_grad()
def pay(parts: Parts, batch: Batch, expert: Expert) -> tuple[Tensor, Tensor]:
    """Rewards of an agent batch and of an expert batch, as they are paid now. 2 x [S, B]."""
    tdil, nets, features = parts.tdil, parts.nets, parts.nets.agent.action_features
    r_tdil = r_irl = r_tdil_e = r_irl_e = None
    if nets.paying is not None:
        shown = parts.expert.s_next
        states, scale = expert_subset(shown, parts.drawing, tdil.expert_states)
        # the expert batch repeats the demonstration's states when those are fewer
        few = shown.shape[1] <= tdil.batch
        both = torch.cat((batch.s_next, shown if few else expert.s_next), dim=1)
        paid = surrogate_reward(nets.paying, both, states, scale=scale, rows=parts.pairs)
        r_tdil, r_tdil_e = paid[:, : tdil.batch], paid[:, tdil.batch :]
        if few:
            r_tdil_e = r_tdil_e.gather(1, expert.index)
    if nets.imitation is not None:
        r_irl = nets.imitation(batch.s, features(batch.a))
        r_irl_e = nets.imitation(expert.s, features(expert.a))
    return total_reward(r_tdil, r_irl, tdil.beta), total_reward(r_tdil_e, r_irl_e, tdil.beta)


def improve(parts: Parts, expert: Expert) -> dict[str, Tensor]:
    """Steps 3 to 8: one update of actor, temperature, critics and clone; numbers for the log."""
    tdil, agent, optimisers = parts.tdil, parts.nets.agent, parts.optimisers
    batch, seen = parts.sample(), {}
    s, a, s_next = batch
    # 3. both batches are paid anew
    r, r_e = pay(parts, batch, expert)

    # 4. no state is terminal: the critics' targets always bootstrap
    # 5. actor and temperature, where the reward is below the policy threshold
    kept = below_threshold(r, r_e, tdil.rho) if tdil.filtered else torch.ones_like(r) > 0
    active = kept.any(dim=1)  # a seed without such a state sits this step out
    noise = agent.noise(parts.drawing, tdil.batch)
    if active.any():
        terms, log_prob = agent.actor_terms(s, noise)
        masked_mean(terms, kept).sum().backward()
        optimisers.actor.step(active)
        gradient = agent.alpha_gradient(masked_mean(log_prob, kept))
        if gradient is not None:
            agent.log_alpha.grad = gradient
            optimisers.alpha.step(active)

    # 6. twin critics, on the agent batch and again on the expert batch; 7. cloning
    noise = agent.noise(parts.drawing, tdil.batch)
    optimisers.descend("critic", agent.critic_loss(s, a, r, s_next, noise, tdil.gamma))
    if tdil.bc and not agent.bc_last:
        seen["bc_loss"] = optimisers.clone(expert.s, expert.a)
    if tdil.expert_critic:
        noise = agent.noise(parts.drawing, tdil.batch)
        loss = agent.critic_loss(expert.s, expert.a, r_e, expert.s_next, noise, tdil.gamma)
        optimisers.descend("critic", loss)
    if tdil.bc and agent.bc_last:
        seen["bc_loss"] = optimisers.clone(expert.s, expert.a)

    # 8. target critics
    polyak(agent.target, agent.critic, tdil.tau)
    seen |= {"reward": r.mean(1), "expert_reward": r_e.mean(1)}
    return seen | {"kept": kept.float().mean(1), "alpha": agent.alpha.squeeze(1)}


# -- blind model selection --------------------------------------------------------------------


@torch.no_grad()
def blind_score(
    D: TransitionDiscriminator, tests: Rollout, expert_next: Tensor, rows: int
) -> Tensor:
    """rho_rel of test episodes under D itself, [S]."""
    S, E, L, d = tests.next_obs.shape
    reached = torch.from_numpy(tests.next_obs).to(expert_next.device).reshape(S, E * L, d)
    alive = torch.from_numpy(tests.alive).to(expert_next.device)
    agent = surrogate_reward(D, reached, expert_next, rows=rows).view(S, E, L) * alive
    return relative_reward(agent, surrogate_reward(D, expert_next, expert_next, rows=rows))


def select(nets: Networks, best: Tensor, rho_rel: Tensor) -> None:
    """The actor of each seed whose rho_rel rose above its best so far replaces the kept one."""
    assert nets.selected is not None
    better = rho_rel > best
    best.copy_(torch.where(better, rho_rel, best))
    keep_better(nets.selected, nets.agent.actor, better)


@torch.no_grad()
def keep_better(selected: nn.Module, actor: nn.Module, better: Tensor) -> None:
    """The parameters of the better seeds."""
    for kept, now in zip(selected.parameters(), actor.parameters(), strict=True):
        kept.copy_(torch.where(better.view(-1, *[1] * (now.dim() - 1)), now, kept))


if __name__ == "__main__":
    run_cli(train, Config)
