"""One run: one method on one environment, all training seeds at once.

Environments step seed by seed; everything that is learnt is stacked over the seeds, and each seed
is what it would be alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.errors import UserError
from common.run import Run
from common.sac import ReplayBuffer
from common.stacked import rand, randn, seed_generators
from common.torch_utils import setup
from papers.meow.agent import make_agent
from papers.meow.config import Config, settings_of
from papers.meow.method import EnergyFlow
from papers.meow.methods import METHODS
from papers.meow.task import MujocoReturns, make_environments

LARGEST_BUFFER = 1_000_000  # transitions
LOG_EVERY = 250  # steps
FIXED_BATCH = 256  # states on which determinants are followed


def fixed_batch(seeds: tuple[int, ...], buffer: ReplayBuffer, action_dim: int) -> dict[str, Tensor]:
    """The first states that were seen, and noise: where determinants are followed."""
    n = min(FIXED_BATCH, buffer.size)
    noise = [torch.randn(n, action_dim, generator=g) for g in seed_generators(seeds, 4)]
    return {"state": buffer.data["obs"][:, :n].clone(), "z": torch.stack(noise)}


@torch.no_grad()
def log_determinants(policy: EnergyFlow, fixed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over a fixed batch of log prod_{S_l} |det J| and log prod_{S_n} |det J|, at g^-1(z)."""
    device = next(policy.parameters()).device
    state, z = fixed["state"].to(device), fixed["z"].to(device)
    _, log_det_n = policy.flow(policy.act(state, z), state)
    return {
        "log_det_linear": policy.flow.log_det_constant(state).expand(z.shape[:2]).mean(1),
        "log_det_nonlinear": log_det_n.mean(1),
    }


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    settings, method = settings_of(cfg), METHODS[cfg.method]
    if method.kind == "peer":
        raise UserError(f"{method.name} is trained by python -m papers.meow.reference")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    S = len(cfg.seed)
    envs = make_environments(cfg.task, cfg.seed)
    action_dim = envs.action_dim
    agent = make_agent(cfg, envs.obs_dim, action_dim, device)
    capacity = min(settings.steps, LARGEST_BUFFER)
    buffer = ReplayBuffer(S, capacity, envs.obs_dim, action_dim, device)
    exploration = seed_generators(cfg.seed, 2, device)
    replay = seed_generators(cfg.seed, 3, device)
    evaluate = None
    if settings.evaluate_every:
        evaluate = MujocoReturns(cfg.task, S, settings.episodes)

    def tensor(obs: np.ndarray) -> Tensor:
        return torch.as_tensor(obs, dtype=torch.float32, device=device)

    def followed() -> dict[str, Tensor]:
        return log_determinants(agent.policy, kept.fixed) if method.has_value else {}

    kept = run.keep(
        agent=agent,
        buffer=buffer,
        envs=envs,
        obs=envs.reset(),
        generators=[*exploration, *replay, *agent.noise],
        fixed=None,
    )
    drop = ("buffer", "envs", "obs", "generators")
    for step in run.steps(settings.steps, every=cfg.checkpoint_every, drop=drop):
        # 1. act: uniformly at first
        if step < settings.learning_starts:
            action = 2 * rand(exploration, 1, action_dim) - 1
        else:
            action = agent.act(tensor(kept.obs).unsqueeze(1), randn(exploration, 1, action_dim))
        action = action.squeeze(1)  # [S, A]

        # 2. store
        reached, reward, terminated, after = envs.step(action.cpu().double().numpy())
        buffer.add(
            obs=kept.obs, action=action, reward=reward, next_obs=reached, terminated=terminated
        )
        kept.obs = after

        # 3. and 4. one gradient step on every network, one step of the slow copies
        done = step + 1
        if done == settings.learning_starts:
            kept.fixed = fixed_batch(cfg.seed, buffer, action_dim)
            run.log(done, **followed())
        if done > settings.learning_starts:
            metrics = agent.update(buffer.sample(replay, cfg.batch))
            if done % LOG_EVERY == 0 or done == settings.steps:
                run.log(done, **metrics, **followed())

        if evaluate is not None and done % settings.evaluate_every == 0:
            returns = evaluate(lambda o: agent.act(tensor(o), None).cpu().numpy())
            run.log(done, returns=returns.mean(1))


if __name__ == "__main__":
    run_cli(train, Config)
