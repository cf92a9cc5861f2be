"""One run of TD3: one method on one control task, all seeds at once.

All methods go through the same loop. What differs: the topologies (dense, static, growing), where
batches come from (review), and what is done to a dense network now and then (ReDo, resets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from common.cli import run_cli
from common.run import Run
from common.stacked import rand, randn, seed_generators
from common.td3 import (
    Batch,
    ReplayBuffer,
    actor_loss,
    critic_loss,
    critic_target,
    first_q,
    frozen,
    noisy,
    polyak,
)
from common.torch_utils import setup
from papers.ne.agent import Agent, make_agent
from papers.ne.baselines import redo, reset
from papers.ne.config import POLICY_DELAY, Config, resolve
from papers.ne.learning import changed, descend, is_dormant, per_seed
from papers.ne.method import Change, Generators, fau, inactive, share_of
from papers.ne.methods import METHODS
from papers.ne.review import review_threshold, reviewing, sample
from papers.ne.task import Setting, Task, direction_of

EXPLORATION, TARGET_NOISE, TARGET_CLIP = 0.1, 0.2, 0.5
LOOKED_AT = 1_024  # transitions on which neurons are looked at


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    setting, ne = resolve(cfg)
    method, task = METHODS[cfg.method], Task(cfg.task)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device, S = setup(cfg.device, 0), len(cfg.seed)
    acting, drawing, gating, moving = (seed_generators(cfg.seed, k, device) for k in range(3, 7))
    renewing = seed_generators(cfg.seed, 7)  # on the CPU, as initialisation
    agent = make_agent(cfg, task, moving, device)
    buffer = ReplayBuffer(
        S, min(setting.capacity, setting.steps), task.obs_dim, task.action_dim, device
    )
    env = task.training(cfg.seed, setting.limit)
    kept = run.keep(
        **{"actor": agent.actor.kept(), "critic": agent.critic.kept()},
        **{"buffer": buffer, "env": env, "acting": acting, "drawing": drawing},
        **{"gating": gating, "moving": moving, "renewing": renewing},
        ratios=torch.zeros(0, S, device=device),  # dormant ratios at all checks, [K, S]
        threshold=torch.ones(S, device=device),  # of the review, after the last check
        tally=torch.zeros(3, S, device=device),  # updates; reviewed; in another direction
    )

    for step in run.steps(setting.steps, every=setting.save_every, drop=("buffer", "env")):
        # 1. act: at random in the warm-up, then with noise
        env.direction = direction_of(step, setting)
        act(agent, env, buffer, acting, warm=step < setting.warm_up)
        t = step + 1 - setting.warm_up  # number of this gradient step
        if t < 1:
            continue
        if t == 1:
            run.log(step, **floors(task, agent, buffer, setting))

        # 2. a batch, from the oldest share of the buffer where a seed reviews
        looked = partial(activated, agent, buffer, gating, setting.batch)
        reviewed = reviewing(method.review, kept.threshold, gating, looked)
        batch = sample(buffer, drawing, setting.batch, reviewed, cfg.early)
        count(kept.tally, batch, reviewed, env.direction if task.flips else None)

        # 3. a check of dormancy, by which the review's threshold falls
        if checked := t % ne.interval == 0:
            ratio = dormant_ratio(agent, buffer, gating, setting.batch)
            kept.ratios = torch.cat((kept.ratios, ratio[None]))
            kept.threshold = review_threshold(kept.ratios, floor=cfg.floor)

        # 4. critics, or their topology in a step's place
        noise = randn(drawing, setting.batch, task.action_dim)
        loss, change = improve_critics(agent, batch, noise, t, cfg)
        changes = {"critic": change}

        # 5. every second time the actor, or its topology, and all targets
        if t % POLICY_DELAY == 0:
            changes["actor"] = improve_actor(agent, batch, t)
            for part in (agent.critic, agent.actor):
                polyak(part.slow, part.net, cfg.tau)

        # 6. dense networks that are mended
        if method.remedy == "redo" and t % setting.redo_every == 0:
            recycle(agent, batch, renewing)
        if method.remedy == "reset" and t == (setting.steps - setting.warm_up) // 2:
            for part in (agent.critic, agent.actor):
                reset(part.layers, part.slow_layers, part.optimizer, renewing)

        # 7. look at everything, log
        if checked:
            run.log(step + 1, threshold=kept.threshold, **changed(changes, S))
        if t % setting.eval_every == 0 or step + 1 == setting.steps:
            found = looked_at(agent, buffer, cfg.seed)
            returns = task.returns(policy_of(agent), S, setting.episodes, setting.limit)
            found |= {"forward": returns[0], "backward": returns[-1], "critic_loss": loss}
            found |= dict(zip(("updates", "reviewed", "review_other"), kept.tally, strict=True))
            run.log(step + 1, direction=env.direction, **found)
            kept.tally = torch.zeros_like(kept.tally)


# -- acting -----------------------------------------------------------------------------------


def act(agent: Agent, env: Any, buffer: ReplayBuffer, acting: Generators, warm: bool) -> None:
    """One step of every environment, into the buffer."""
    obs, device = env.observation, buffer.rows.device
    if warm:
        action = 2 * rand(acting, agent.actor.layers[-1].weight.shape[2]) - 1
    else:
        with torch.no_grad():
            found = agent.actor.net(torch.from_numpy(obs).to(device).unsqueeze(1))
        action = noisy(found, randn(acting, *found.shape[1:]), EXPLORATION).squeeze(1)
    moves = action.cpu().numpy()
    following, reward, terminated = env.step(moves)
    buffer.add(obs=obs, action=action, reward=reward, next_obs=following, terminated=terminated)


def policy_of(agent: Agent) -> Callable[..., Any]:
    """The deterministic policy on NumPy arrays. [S, E, d] -> [S, E, A]."""
    device = agent.actor.layers[0].weight.device

    def policy(obs: Any) -> Any:
        with torch.no_grad():
            return agent.actor.net(torch.from_numpy(obs).to(device)).cpu().numpy()

    return policy


# -- updates ----------------------------------------------------------------------------------


def activated(agent: Agent, buffer: ReplayBuffer, gating: Generators, batch: int) -> Tensor:
    """The critics' FAU on a uniform batch. [S]."""
    looked = buffer.sample(gating, batch)
    return per_seed(fau(agent.critic_hidden(looked.obs, looked.action)), len(gating))


def dormant_ratio(agent: Agent, buffer: ReplayBuffer, gating: Generators, batch: int) -> Tensor:
    """The critics' on a uniform batch: on reviewed ones it would change because they are. [S]."""
    looked = buffer.sample(gating, batch)
    hidden = agent.critic_hidden(looked.obs, looked.action)
    return per_seed(share_of(is_dormant, hidden), len(gating))


def count(tally: Tensor, batch: Batch, reviewed: Tensor | None, direction: float | None) -> None:
    """Updates, reviewed ones, and what share of these is of another direction, in place."""
    tally[0] += 1
    if reviewed is not None:
        tally[1] += reviewed
    if reviewed is not None and direction is not None:
        tally[2] += reviewed * (batch.obs[..., -1] != direction).float().mean(1)


def improve_critics(
    agent: Agent, batch: Batch, noise: Tensor, t: int, cfg: Config
) -> tuple[Tensor, Change | None]:
    """Clipped double Q-learning with smoothed target actions; losses [S]."""
    critic = agent.critic
    with torch.no_grad():
        following = noisy(agent.actor.slow(batch.next_obs), noise, TARGET_NOISE, TARGET_CLIP)
        next_q = critic.slow(batch.next_obs, following)
        y = critic_target(batch.reward, batch.terminated, next_q, cfg.gamma)
    loss = critic_loss(critic.net(batch.obs, batch.action), y)
    change = descend(
        *(loss, critic.topology, critic.optimizer, t),
        lambda: agent.critic_hidden(batch.obs, batch.action),
    )
    if change is not None:
        critic.topology.mask(critic.slow_layers)
    return loss.detach(), change


def improve_actor(agent: Agent, batch: Batch, t: int) -> Change | None:
    """The deterministic policy gradient through Q_1."""
    actor = agent.actor
    with frozen(agent.critic.net):
        loss = actor_loss(first_q(agent.critic.net, batch.obs, actor.net(batch.obs)))
        change = descend(
            *(loss, actor.topology, actor.optimizer, t), lambda: agent.actor_hidden(batch.obs)
        )
    if change is not None:
        actor.topology.mask(actor.slow_layers)
    return change


def recycle(agent: Agent, batch: Batch, renewing: Generators) -> None:
    """ReDo on both networks."""
    for part, hidden in (
        (agent.critic, agent.critic_hidden(batch.obs, batch.action)),
        (agent.actor, agent.actor_hidden(batch.obs)),
    ):
        redo(part.layers, hidden, part.optimizer, renewing)


# -- what is seen -----------------------------------------------------------------------------


def floors(task: Task, agent: Agent, buffer: ReplayBuffer, setting: Setting) -> dict[str, Any]:
    """Returns forwards that take no learning: of random actions (the warm-up's mean reward times
    the steps of an episode) and of the network as it begins. [S] each."""
    S, seen = len(buffer.rows), buffer.data["reward"][:, : buffer.size]
    returns = task.returns(policy_of(agent), S, setting.episodes, setting.limit)
    return {"random": seen.mean(1) * setting.limit, "untrained": returns[0]}


@torch.no_grad()
def looked_at(agent: Agent, buffer: ReplayBuffer, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Shares of inactive and dormant neurons, FAU and density of both networks. [S] each."""
    drawn = seed_generators(seeds, 8, buffer.rows.device)  # anew: training draws from others
    looked = buffer.sample(drawn, LOOKED_AT)
    found = {}
    for name, part, hidden in (
        ("critic", agent.critic, agent.critic_hidden(looked.obs, looked.action)),
        ("actor", agent.actor, agent.actor_hidden(looked.obs)),
    ):
        each = {"inactive": share_of(inactive, hidden), "dormant": share_of(is_dormant, hidden)}
        each |= {"fau": fau(hidden), "density": part.topology.density}
        found |= {f"{name}_{key}": per_seed(x, len(seeds)) for key, x in each.items()}
    return found


if __name__ == "__main__":
    run_cli(train, Config)
