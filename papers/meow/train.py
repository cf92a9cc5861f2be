"""One run: one method on one environment, all training seeds at once.

Environments step seed by seed; everything that is learnt is stacked over the seeds, and each seed
is what it would be alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.errors import UserError, choose
from common.run import Run
from common.sac import ReplayBuffer
from common.stacked import generator_states, rand, randn, restore_generators, seed_generators
from common.torch_utils import setup
from papers.meow.baselines import SAC, SACConfig
from papers.meow.method import EnergyFlow, MEow, MEowConfig
from papers.meow.task import TASKS, MujocoReturns, Settings, make_environments

# What each variant of MEow changes; without LRS there is nothing that SCDQ could clip.
VARIANTS: dict[str, dict[str, object]] = {
    "meow": {},  # LRS and SCDQ
    "meow-lrs": {"shifts": 1},  # LRS alone
    "meow-vanilla": {"shifts": 0},  # neither
    "meow-affine": {"coupling": "affine"},  # Fig. A1's ablation
    "meow-vanilla-affine": {"shifts": 0, "coupling": "affine"},
}
METHODS = (*VARIANTS, "sac", "sb3-sac")  # the last is trained by reference.py
LARGEST_BUFFER = 1_000_000  # transitions
LOG_EVERY = 250  # steps
FIXED_BATCH = 256  # states on which determinants are followed


@dataclass
class Config:
    """One training run. What is left at None is the environment's (task.TASKS, baselines)."""

    method: str = "meow"  # meow, a variant of it (see VARIANTS), or sac
    task: str = "multigoal"  # environment (see task.TASKS)
    seed: tuple[int, ...] = (0,)  # training seeds, trained together
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int | None = None  # environment steps
    learning_starts: int | None = None  # steps with uniform actions and no update
    batch: int = 256  # transitions per update
    lr: float | None = None  # Adam's learning rate (MEow 1e-3, SAC 3e-4)
    tau: float | None = None  # step of the slow copy (MEow per environment, SAC 0.005)
    alpha: float | None = None  # MEow's temperature (per environment)
    evaluate_every: int | None = None  # steps between evaluations (MuJoCo)
    episodes: int | None = None  # episodes of an evaluation (MuJoCo)
    quick: bool = False  # a coarse evaluation of multi-goal (smoke)
    checkpoint_every: int = 1  # a checkpoint falls on a multiple of it (buffers can be large)


def settings_of(cfg: Config) -> Settings:
    """The environment's settings with the configuration's changes.

    Raises:
        UserError: for an unknown method or task, or a run that would learn nothing.
    """
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    names = ("steps", "learning_starts", "tau", "alpha", "evaluate_every", "episodes")
    changes = {n: getattr(cfg, n) for n in names if getattr(cfg, n) is not None}
    settings = replace(TASKS[cfg.task], **changes)
    if settings.learning_starts >= settings.steps:
        raise UserError(
            f"--steps {settings.steps} must exceed --learning-starts {settings.learning_starts}"
        )
    return settings


def make_agent(cfg: Config, obs_dim: int, action_dim: int, device: torch.device) -> MEow | SAC:
    """The method's networks and optimisers, from the seeds' own generators."""
    settings = settings_of(cfg)
    weights = seed_generators(cfg.seed, 0)
    noise = seed_generators(cfg.seed, 1, device)  # dropout, or the noise of SAC's losses
    changes = {} if cfg.lr is None else {"lr": cfg.lr}
    if cfg.method == "sac":
        # multi-goal: at MEow's temperature; MuJoCo: learned, as usual
        fixed = settings.alpha if cfg.task.startswith("multigoal") else None
        sac = SACConfig(alpha=fixed, gamma=settings.gamma, tau=cfg.tau or SACConfig.tau)
        return SAC(weights, noise, obs_dim, action_dim, replace(sac, **changes), device)
    meow = MEowConfig(
        alpha=settings.alpha,
        gamma=settings.gamma,
        tau=settings.tau,
        log_sigma=settings.log_sigma,
    )
    changes |= VARIANTS[cfg.method]
    return MEow(weights, noise, obs_dim, action_dim, replace(meow, **changes), device)


@torch.no_grad()
def log_determinants(policy: EnergyFlow, state: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Means over a fixed batch of log prod_{S_l} |det J| and log prod_{S_n} |det J|, at g^-1(z)."""
    _, log_det_n = policy.flow(policy.act(state, z), state)
    return {
        "log_det_linear": policy.flow.log_det_constant(state).expand(z.shape[:2]).mean(1),
        "log_det_nonlinear": log_det_n.mean(1),
    }


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    settings = settings_of(cfg)
    if cfg.method == "sb3-sac":
        raise UserError("sb3-sac is trained by python -m papers.meow.reference")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    S = len(cfg.seed)
    envs = make_environments(cfg.task, cfg.seed)
    obs_dim, action_dim = envs.obs_dim, envs.action_dim
    agent = make_agent(cfg, obs_dim, action_dim, device)
    capacity = min(settings.steps, LARGEST_BUFFER)
    buffer = ReplayBuffer(S, capacity, obs_dim, action_dim, device)
    exploration = seed_generators(cfg.seed, 2, device)
    replay = seed_generators(cfg.seed, 3, device)
    evaluate = None
    if settings.evaluate_every:
        evaluate = MujocoReturns(cfg.task, S, settings.episodes)

    def tensor(obs: np.ndarray) -> Tensor:
        return torch.as_tensor(obs, dtype=torch.float32, device=device)

    if state := run.restore():
        step = state["step"]
        agent.load(state["agent"])
        buffer.load(state["buffer"])
        obs = envs.load(state["envs"])
        generators = (*exploration, *replay, *agent.noise)
        restore_generators(generators, state["generators"])
        fixed = state["fixed"]
    else:
        step, obs, fixed = 0, envs.reset(), None

    def tree() -> dict[str, object]:
        return {
            "step": step,
            "agent": agent.state(),
            "buffer": buffer.state(),
            "envs": envs.state(),
            "generators": generator_states((*exploration, *replay, *agent.noise)),
            "fixed": fixed,
        }

    def followed() -> dict[str, Tensor]:
        """Determinants on the fixed batch: the first states that were seen."""
        if isinstance(agent, SAC) or fixed is None:
            return {}
        return log_determinants(agent.policy, fixed["state"].to(device), fixed["z"].to(device))

    while step < settings.steps:
        # 1. act: uniformly at first
        if step < settings.learning_starts:
            action = 2 * rand(exploration, 1, action_dim) - 1
        else:
            action = agent.act(tensor(obs).unsqueeze(1), randn(exploration, 1, action_dim))
        action = action.squeeze(1)  # [S, A]

        # 2. store
        reached, reward, terminated, after = envs.step(action.cpu().double().numpy())
        buffer.add(obs=obs, action=action, reward=reward, next_obs=reached, terminated=terminated)
        obs = after
        step += 1

        # 3. and 4. one gradient step on every network, one step of the slow copies
        if step == settings.learning_starts:
            first = slice(0, min(FIXED_BATCH, buffer.size))
            fixed = {
                "state": buffer.data["obs"][:, first].clone(),
                "z": torch.stack(
                    [
                        torch.randn(first.stop, action_dim, generator=g)
                        for g in seed_generators(cfg.seed, 4)
                    ]
                ),
            }
            run.log(step, **followed())
        if step > settings.learning_starts:
            metrics = agent.update(buffer.sample(replay, cfg.batch))
            if step % LOG_EVERY == 0 or step == settings.steps:
                run.log(step, **metrics, **followed())

        if evaluate is not None and step % settings.evaluate_every == 0:
            returns = evaluate(lambda o: agent.act(tensor(o), None).cpu().numpy())
            run.log(step, returns=returns.mean(1))
        if step % cfg.checkpoint_every == 0 and run.due(step):
            run.save(step, tree())
    run.finish({"step": step, "agent": agent.state(), "fixed": fixed})


if __name__ == "__main__":
    run_cli(train, Config)
