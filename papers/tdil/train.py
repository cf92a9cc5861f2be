"""One run: one method on one task, all seeds at once.

Environments are stepped per seed; the networks of all seeds are stacked, so an update is a handful
of batched products and each seed is what it would be alone. All methods go through the same loop:
what differs is which reward is paid (R_TDIL, the GAIL-style one, a mix, none) and which of the
agent's additions are on.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import choose
from common.run import Run
from common.sac import ReplayBuffer, polyak
from common.stacked import adam, generator_states, randint, restore_generators, seed_generators
from common.torch_utils import setup
from papers.tdil.agents import Agent, ContinuousAgent, DiscreteAgent, StackedAdam
from papers.tdil.baselines import ImitationDiscriminator, imitation_loss
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
from papers.tdil.task import SETTINGS, Rollout, Setting, Task, make_task

METHODS: dict[str, dict[str, Any]] = {  # what differs from the task's TDIL
    "tdil": {},
    "tdil-no-bc": {"bc": False},
    "tdil-no-filter": {"filtered": False},
    "tdil-no-expert": {"expert_critic": False},
    "tdil-hard": {"hard_negatives": True},
    "tdil-no-hard": {"hard_negatives": False},
    "tdil-irl": {"beta": 0.9, "bc": False},  # the authors' TDIL+IRL
    "gail": {"beta": 1.0, "bc": False},
    "gail-bc": {"beta": 1.0},
    "bc": {"bc": True},
}


@dataclass
class Config:
    """One training run; what is None is the task's own (see task.SETTINGS)."""

    method: str = "tdil"  # see METHODS
    task: str = "grid"  # see task.SETTINGS
    seed: tuple[int, ...] = (0,)  # seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps per seed, the warm-up included
    warm_up: int | None = None  # steps before the first update
    eval_every: int | None = None  # steps between two evaluations
    episodes: int | None = None  # test episodes of an evaluation
    rho: float | None = None  # policy threshold
    filtered: bool | None = None  # whether the policy threshold is used
    kappa: float | None = None  # weight of the positives
    expert_critic: bool | None = None  # second critic step on the demonstration
    expert_states: int | None = None  # expert states per reward; 0: all
    batch: int | None = None  # transitions per update and seed
    hidden: int | None = None  # units per hidden layer
    log_alpha: float | None = None  # fixed temperature; None: learned (discrete: it decays)


def resolve(cfg: Config) -> Setting:
    """The task's setting with the method's changes and then the command line's.

    Raises:
        UserError: for an unknown method or task.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, SETTINGS)
    setting = SETTINGS[cfg.task]
    given = {k: v for k, v in vars(cfg).items() if v is not None}
    tdil = replace(setting.tdil, **METHODS[cfg.method])
    tdil = replace(tdil, **{k: v for k, v in given.items() if k in TDILConfig.__annotations__})
    own = {k: given[k] for k in ("steps", "eval_every", "episodes") if k in given}
    return replace(setting, tdil=tdil, **own)


# -- networks ---------------------------------------------------------------------------------


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
    rewarded = cfg.method != "bc"
    D = paying = D_g = selected = None
    if rewarded and tdil.beta < 1:
        D = TransitionDiscriminator(seed_generators(seeds, 2), task.obs_dim, layers).to(device)
        paying = copy.deepcopy(D).requires_grad_(False)
        selected = copy.deepcopy(agent.actor).requires_grad_(False)
    if rewarded and tdil.beta > 0:
        init = seed_generators(seeds, 3)
        D_g = ImitationDiscriminator(init, task.obs_dim, task.action_dim, layers).to(device)
    return Networks(agent, D, paying, D_g, selected)


# -- tests on the way -------------------------------------------------------------------------


@torch.no_grad()
def rollout(agent: Agent, task: Task, n_seeds: int, episodes: int, device: torch.device) -> Rollout:
    """Test episodes of the deterministic policy."""

    def policy(obs: NDArray[np.float32]) -> NDArray:
        return agent.mode(torch.from_numpy(obs).to(device)).cpu().numpy()

    return task.rollout(policy, n_seeds, episodes)


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


# -- the loop ---------------------------------------------------------------------------------


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    setting = resolve(cfg)
    tdil = setting.tdil
    task = make_task(cfg.task)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    S, T = len(cfg.seed), len(task.demonstration)
    rows = 2_048 if device.type == "cpu" else 262_144  # pairs at once: what fits into a cache
    seeds = torch.arange(S, device=device).unsqueeze(1)

    def stacked(x: NDArray) -> Tensor:
        return torch.from_numpy(x).to(device).expand(S, *x.shape)

    expert = task.demonstration
    expert_s, expert_a = stacked(expert.observations), stacked(expert.actions)
    expert_next = stacked(expert.next_observations)

    nets = make_networks(cfg, task, device)
    agent, D, paying, D_g = nets.agent, nets.discriminator, nets.paying, nets.imitation
    optimise_actor = StackedAdam(list(agent.actor.parameters()), tdil.lr)
    optimise_alpha = StackedAdam([agent.log_alpha], tdil.lr)
    learned = {"critic": agent.critic, "discriminator": D, "imitation": D_g}
    optimisers = {
        name: adam([{"params": list(net.parameters())}], lr=tdil.lr)
        for name, net in learned.items()
        if net is not None
    }
    acting, drawing = (seed_generators(cfg.seed, stream, device) for stream in (4, 5))

    env = task.training(cfg.seed)
    capacity = min(setting.steps, 1_000_000)
    width = 1 if task.discrete else task.action_dim
    buffer = ReplayBuffer(S, capacity, task.obs_dim, width, device)
    best = torch.full((S,), -torch.inf, device=device)  # highest rho_rel so far

    step = 0
    if state := run.restore():
        step, best = state["step"], state["best"]
        nets.load(state["networks"])
        optimise_actor.load_state_dict(state["actor"])
        optimise_alpha.load_state_dict(state["alpha"])
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        env.load(state["env"])
        buffer.load(state["buffer"])
        restore_generators([*acting, *drawing], state["generators"])

    def tree() -> dict[str, Any]:
        return {
            "step": step,
            "best": best,
            "networks": nets.state(),
            "actor": optimise_actor.state_dict(),
            "alpha": optimise_alpha.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in optimisers.items()},
            "env": env.state(),
            "buffer": buffer.state(),
            "generators": generator_states([*acting, *drawing]),
        }

    def descend(name: str, loss: Tensor) -> None:
        loss.sum().backward()
        if name == "critic":
            agent.clip_critic()
        optimisers[name].step()
        optimisers[name].zero_grad(set_to_none=True)

    def sample() -> tuple[Tensor, Tensor, Tensor]:
        """s, a, s' of the agent, i.i.d. from its buffer."""
        batch = buffer.sample(drawing, tdil.batch)
        action = batch.action.squeeze(-1).long() if task.discrete else batch.action
        return batch.obs, action, batch.next_obs

    def behaviour_cloning(s: Tensor, a: Tensor) -> Tensor:
        loss = agent.bc_loss(s, a)
        loss.sum().backward()
        optimise_actor.step()
        return loss.detach()

    while step < setting.steps:
        seen: dict[str, Tensor] = {}  # for the log
        if cfg.method != "bc":
            # 1. act with the stochastic policy; neither the reward nor the end is kept
            obs = env.observation
            with torch.no_grad():
                state_now = torch.from_numpy(obs).to(device).unsqueeze(1)
                action = agent.act(state_now, agent.noise(acting, 1)).squeeze(1).cpu().numpy()
            following, _ = env.step(action)
            stored = action[:, None] if task.discrete else action
            buffer.add(obs=obs, action=stored, reward=np.nan, next_obs=following, terminated=0.0)
        step += 1

        if step > tdil.warm_up:
            index = randint(drawing, T, tdil.batch)  # expert batch, with replacement
            s_e, a_e, next_e = (
                expert_s[seeds, index],
                expert_a[seeds, index],
                expert_next[seeds, index],
            )

        if step > tdil.warm_up and cfg.method == "bc":
            seen["bc_loss"] = behaviour_cloning(s_e, a_e)

        elif step > tdil.warm_up:
            # 2. discriminators, on fresh batches, and the copy that pays
            if D is not None and paying is not None:
                s, _, s_next = sample()
                loss = discriminator_loss(
                    D.logit, s, s_next, kappa=tdil.kappa, hard_negatives=tdil.hard_negatives
                )
                descend("discriminator", loss)
                polyak(paying, D, tdil.tau_n)
                seen["d_loss"] = loss.detach()
            if D_g is not None:
                s, a, _ = sample()
                loss = imitation_loss(
                    D_g, s, agent.action_features(a), s_e, agent.action_features(a_e)
                )
                descend("imitation", loss)
                seen["g_loss"] = loss.detach()

            # 3. rewards of an agent batch and of the expert batch, as they are paid now
            s, a, s_next = sample()
            r_tdil = r_irl = r_tdil_e = r_irl_e = None
            with torch.no_grad():
                if paying is not None:
                    states, scale = expert_subset(expert_next, drawing, tdil.expert_states)
                    # the expert batch repeats the demonstration's states when those are fewer
                    own = expert_next if T <= tdil.batch else next_e
                    both = torch.cat((s_next, own), dim=1)
                    paid = surrogate_reward(paying, both, states, scale=scale, rows=rows)
                    r_tdil, r_tdil_e = paid[:, : tdil.batch], paid[:, tdil.batch :]
                    if T <= tdil.batch:
                        r_tdil_e = r_tdil_e.gather(1, index)
                if D_g is not None:
                    r_irl = D_g(s, agent.action_features(a))
                    r_irl_e = D_g(s_e, agent.action_features(a_e))
                r = total_reward(r_tdil, r_irl, tdil.beta)
                r_e = total_reward(r_tdil_e, r_irl_e, tdil.beta)

            # 4. no state is terminal: the critics' targets always bootstrap
            # 5. actor and temperature, where the reward is below the policy threshold
            kept = below_threshold(r, r_e, tdil.rho) if tdil.filtered else torch.ones_like(r) > 0
            active = kept.any(dim=1)  # a seed without such a state sits this step out
            noise = agent.noise(drawing, tdil.batch)
            if active.any():
                terms, log_prob = agent.actor_terms(s, noise)
                masked_mean(terms, kept).sum().backward()
                optimise_actor.step(active)
                gradient = agent.alpha_gradient(masked_mean(log_prob, kept))
                if gradient is not None:
                    agent.log_alpha.grad = gradient
                    optimise_alpha.step(active)

            # 6. twin critics, on the agent batch and again on the expert batch; 7. cloning
            noise = agent.noise(drawing, tdil.batch)
            descend("critic", agent.critic_loss(s, a, r, s_next, noise, tdil.gamma))
            if tdil.bc and not agent.bc_last:
                seen["bc_loss"] = behaviour_cloning(s_e, a_e)
            if tdil.expert_critic:
                noise = agent.noise(drawing, tdil.batch)
                descend("critic", agent.critic_loss(s_e, a_e, r_e, next_e, noise, tdil.gamma))
            if tdil.bc and agent.bc_last:
                seen["bc_loss"] = behaviour_cloning(s_e, a_e)
            # 8. target critics
            polyak(agent.target, agent.critic, tdil.tau)
            seen |= {"reward": r.mean(1), "expert_reward": r_e.mean(1)}
            seen |= {"kept": kept.float().mean(1), "alpha": agent.alpha.squeeze(1)}

        if step % setting.eval_every == 0 or step == setting.steps:
            tests = rollout(agent, task, S, setting.episodes, device)
            scores: dict[str, Any] = task.scores(tests)
            if D is not None and nets.selected is not None and step > tdil.warm_up:
                rho_rel = blind_score(D, tests.first(setting.episodes), expert_next, rows)
                scores["rho_rel"] = rho_rel
                better = rho_rel > best
                best = torch.where(better, rho_rel, best)
                keep_better(nets.selected, agent.actor, better)
            run.log(step, **scores, **seen)
        if run.due(step):
            run.save(step, tree())
    run.finish({"step": step, "networks": nets.state()})


@torch.no_grad()
def keep_better(selected: nn.Module, actor: nn.Module, better: Tensor) -> None:
    """Blind model selection: the actor of each seed whose rho_rel rose replaces the kept one."""
    for kept, now in zip(selected.parameters(), actor.parameters(), strict=True):
        kept.copy_(torch.where(better.view(-1, *[1] * (now.dim() - 1)), now, kept))


if __name__ == "__main__":
    run_cli(train, Config)
