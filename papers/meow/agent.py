"""The networks and optimisers of a run: MEow's or SAC's, from the seeds' own generators."""

from __future__ import annotations

from dataclasses import replace

import torch

from common.stacked import seed_generators
from papers.meow.baselines import SAC, SACConfig
from papers.meow.config import Config, settings_of
from papers.meow.method import MEow, MEowConfig
from papers.meow.methods import METHODS

Agent = MEow | SAC


def make_agent(cfg: Config, obs_dim: int, action_dim: int, device: torch.device) -> Agent:
    """The method's networks and optimisers."""
    settings, method = settings_of(cfg), METHODS[cfg.method]
    weights = seed_generators(cfg.seed, 0)
    noise = seed_generators(cfg.seed, 1, device)  # dropout, or the noise of SAC's losses
    changes = {} if cfg.lr is None else {"lr": cfg.lr}
    if method.kind == "sac":
        # multi-goal: at MEow's temperature; MuJoCo: learned, as usual
        fixed = settings.alpha if settings.multigoal else None
        sac = SACConfig(alpha=fixed, gamma=settings.gamma, tau=settings.tau)
        return SAC(weights, noise, obs_dim, action_dim, replace(sac, **changes), device)
    meow = MEowConfig(
        alpha=settings.alpha,
        gamma=settings.gamma,
        tau=settings.tau,
        log_sigma=settings.log_sigma,
    )
    changes |= method.changes
    return MEow(weights, noise, obs_dim, action_dim, replace(meow, **changes), device)
