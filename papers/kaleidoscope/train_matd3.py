"""One run: one method with MATD3 on one task with continuous actions, one seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError
from common.marl.environments import make_env
from common.marl.episodes import Act, outcomes, play
from common.marl.protocol import BatchEnv, Seen
from common.run import Run
from common.sac import frozen, polyak
from common.torch_utils import setup
from papers.kaleidoscope.config import MATD3Config
from papers.kaleidoscope.matd3 import (
    Actors,
    Critics,
    Replay,
    critic_loss,
    critic_target,
    slow_copy,
    with_own,
)
from papers.kaleidoscope.method import (
    Coefficient,
    diversity,
    due,
    ensemble_value,
    mask_distances,
    reset,
    reset_mask,
    sparsity,
)
from papers.kaleidoscope.methods import Learner, entry

EVALUATION_SEED = 1_000_003
LOG_EVERY = 500  # updates


def make_networks(cfg: MATD3Config, method: Learner, env: BatchEnv) -> tuple[Actors, Critics]:
    """Actors and critics from the run's seed."""
    generator = torch.Generator().manual_seed(cfg.seed)
    N, d = env.n_agents, env.action_dim
    actors = Actors(method, N, env.obs_dim, d, cfg.hidden, generator=generator)
    n_critics = cfg.critics if method.critics else 2
    sizes = (n_critics, env.state_dim, N * d, cfg.hidden)
    return actors, Critics(method.critics, *sizes, generator=generator)


def deterministic(actors: nn.Module) -> Act:
    """The policies without noise."""
    device = next(actors.parameters()).device

    @torch.no_grad()
    def act(seen: Seen, t: int) -> Any:
        return actors(torch.from_numpy(seen.obs).to(device)).cpu().numpy()

    return act


def critic_step(
    cfg: MATD3Config, method: Learner, kept: Any, batch: Any, noise: Tensor
) -> dict[str, float]:
    """One step of all critics."""
    y = critic_target(kept.slow_actors, kept.slow_critics, batch, noise, cfg.smoothing_limit)
    q = kept.critics(batch.state, batch.actions)
    loss = total = critic_loss(q, y)
    found = {"loss": float(loss.detach()), "critic_spread": float(q.detach().std(0).mean())}
    if method.critics and method.diversity:
        J = diversity(kept.critics.masked, cfg.layer_weights)
        found["alpha"] = kept.alpha(loss, J)
        total = loss + found["alpha"] * J
    kept.critic_optimizer.zero_grad(set_to_none=True)
    total.backward()
    kept.critic_optimizer.step()
    return found


def actor_steps(cfg: MATD3Config, method: Learner, kept: Any, batch: Any) -> dict[str, float]:
    """A step for each agent in turn, each on the shared network; then the slow copies."""
    found = {}
    with frozen(kept.critics):
        for agent in range(kept.actors.n_agents):
            own = kept.actors(batch.obs)[:, agent]
            q = kept.critics(batch.state, with_own(batch.actions, own, agent))
            # two critics of their own: the actor climbs the first (TD3)
            loss = total = -(ensemble_value(q) if method.critics else q[0]).mean()
            if method.sharing == "masks" and method.diversity:
                J = diversity(kept.actors.masked, cfg.layer_weights)
                found["beta"] = kept.beta(loss, J)
                total = loss + found["beta"] * J
            kept.actor_optimizer.zero_grad(set_to_none=True)
            total.backward()
            kept.actor_optimizer.step()
            found["actor_loss"] = float(loss.detach())
    polyak(kept.slow_actors, kept.actors, cfg.tau)
    polyak(kept.slow_critics, kept.critics, cfg.tau)
    return found


def resets(cfg: MATD3Config, method: Learner, kept: Any, env_steps: int) -> None:
    """Weights that no agent uses, and one critic's mask after the other."""
    if not method.resets:
        return
    if method.sharing == "masks" and due(
        env_steps, kept.last_reset, cfg.steps // cfg.resets, cfg.steps
    ):
        kept.redrawn += reset(kept.actors.masked, cfg.rho, kept.generator)
        kept.last_reset = env_steps
    interval = int(cfg.steps * cfg.critic_reset)
    if method.critics and env_steps // interval > kept.critic_resets:
        reset_mask(kept.critics.masked, kept.critic_resets % cfg.critics, kept.generator)
        kept.critic_resets += 1


def follow(run: Run, env: BatchEnv, cfg: MATD3Config, kept: Any, env_steps: int) -> None:
    """Episodes without noise and the masks, logged."""
    act = deterministic(kept.actors)
    made = play(env, lambda: act, cfg.episodes, EVALUATION_SEED * (cfg.seed + 1))
    found: dict[str, Any] = {"return": float(outcomes(made).returns.mean())}
    for name, layers in (("", kept.actors.masked), ("critic_", kept.critics.masked)):
        if layers:
            found[f"{name}mask_distance"] = mask_distances(layers)
            found[f"{name}sparsity"] = sparsity(layers)
    run.log(env_steps, updates=kept.updates, redrawn=kept.redrawn, **found)


def train(cfg: MATD3Config) -> None:
    """Train, or go on from the last checkpoint."""
    method = entry(cfg.method, "matd3")
    if cfg.steps <= cfg.warm_up:
        raise UserError(f"--steps {cfg.steps} must exceed --warm-up {cfg.warm_up}")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    env, judge = (make_env(f"mamujoco:{cfg.task}", n) for n in (cfg.envs, cfg.episodes))
    nets = [net.to(device) for net in make_networks(cfg, method, env)]
    N, d = env.n_agents, env.action_dim
    shapes = {"obs": (N, env.obs_dim), "state": (env.state_dim,), "actions": (N, d)}
    rng = np.random.default_rng(cfg.seed)
    env.reset(cfg.seed * 1_000_000)
    kept = run.keep(
        **dict(zip(("actors", "critics"), nets, strict=True)),
        **dict(zip(("slow_actors", "slow_critics"), map(slow_copy, nets), strict=True)),
        actor_optimizer=torch.optim.Adam(nets[0].parameters(), cfg.actor_lr, fused=True),
        critic_optimizer=torch.optim.Adam(nets[1].parameters(), cfg.critic_lr, fused=True),
        alpha=Coefficient(cfg.alpha_0),
        beta=Coefficient(cfg.beta_0, memory=100 * N),
        replay=Replay(min(cfg.buffer, cfg.steps) // cfg.envs, cfg.envs, shapes),
        env=env,
        rng=rng,
        generator=torch.Generator().manual_seed(cfg.seed + 1),  # of resets
        updates=0,
        last_reset=0,
        critic_resets=0,
        redrawn=0,
    )
    rounds, every = cfg.steps // cfg.envs, max(1, cfg.steps // cfg.envs // cfg.evaluations)
    seen = env.reset_where(np.zeros(cfg.envs, bool))  # where the episodes stand
    for step in run.steps(rounds, drop=("replay", "env")):
        if step == 0:
            follow(run, judge, cfg, kept, 0)
        # 1. act: uniformly at first
        if step * cfg.envs < cfg.warm_up:
            actions = rng.uniform(-1, 1, (cfg.envs, N, d)).astype(np.float32)
        else:
            noise = cfg.noise * rng.standard_normal((cfg.envs, N, d), dtype=np.float32)
            actions = np.clip(deterministic(nets[0])(seen, step) + noise, -1, 1)
        outcome = env.step(actions)
        kept.replay.add(seen, actions, outcome)
        seen = env.reset_where(outcome.terminated | outcome.truncated)

        # 2. gradient steps: critics, and every so often actors and slow copies
        env_steps = (step + 1) * cfg.envs
        due_now = env_steps // cfg.update_every - step * cfg.envs // cfg.update_every
        for _ in range(due_now if env_steps > cfg.warm_up else 0):
            batch = kept.replay.sample(cfg.batch, cfg.n_steps, cfg.gamma, rng, device)
            smoothing = cfg.smoothing * rng.standard_normal((cfg.batch, N, d), dtype=np.float32)
            noise_now = torch.from_numpy(smoothing).to(device)
            found = critic_step(cfg, method, kept, batch, noise_now)
            kept.updates += 1
            if kept.updates % cfg.policy_freq == 0:
                found |= actor_steps(cfg, method, kept, batch)
            if kept.updates % LOG_EVERY == 0:
                run.log(env_steps, **found)

        # 3. resets, and episodes without noise
        resets(cfg, method, kept, env_steps)
        if (step + 1) % every == 0:
            follow(run, judge, cfg, kept, env_steps)


if __name__ == "__main__":
    run_cli(train, MATD3Config)
