"""One run: one method on one task, all training seeds at once.

Every seed has its own environments, network and graph, and is what it would be alone.
"""

from __future__ import annotations

import numpy as np
import torch

from common.cli import run_cli
from common.run import Run
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.commformer.agent import Agent
from papers.commformer.config import Config, settings_of, updates_of
from papers.commformer.methods import METHODS
from papers.commformer.play import judged, roll_out
from papers.commformer.ppo import ValueNorm
from papers.commformer.task import EVAL_SEED, make_env


def env_seed(seed: int) -> int:
    """Of a training seed's environments: far from the evaluation's and from other seeds'."""
    return 7_919 * (seed + 1)


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint; what has no network finishes at once."""
    settings = settings_of(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    if METHODS[cfg.method].policy != "network":
        run.finish()
        return
    device = setup(cfg.device, 0)
    envs = [make_env(cfg.task, settings.n_envs) for _ in cfg.seed]
    judging = [make_env(cfg.task, cfg.episodes) for _ in cfg.seed]
    for env, seed in zip(envs, cfg.seed, strict=True):
        env.reset(env_seed(seed))
    agent = Agent(cfg, envs[0], device)
    norm = ValueNorm(len(cfg.seed), device)
    sampling = seed_generators(cfg.seed, 4, device)
    drawing = seed_generators(cfg.seed, 6, device)
    kept = run.keep(
        agent=agent,
        envs=envs,
        norm=norm,
        generators=[*sampling, *drawing],
        before=agent.exact().cpu(),
    )
    total = updates_of(settings)
    for number in run.steps(total, drop=("envs", "generators")):
        update = number + 1
        # 1. and 2. roll out with the exact graph; advantages
        data, metrics = roll_out(agent, envs, norm, sampling, device)

        # 3. to 6. bi-level: the network's epochs, each fifth the graph's
        for epoch in range(1, settings.epochs + 1):
            metrics |= agent.epoch(data, update, epoch)

        adjacency = agent.exact().cpu()
        switched = (adjacency != kept.before).float().mean((1, 2))
        kept.before = adjacency
        done = update * settings.n_envs * settings.horizon
        run.log(done, **metrics, switched=switched, spread=spread(agent.alpha))
        if update % cfg.evaluate_every == 0 or update == total:
            found = judged(agent, judging, EVAL_SEED, device)
            run.log(done, **{f"eval_{name}": value for name, value in found.items()})
            found = judged(agent, judging, EVAL_SEED, device, drawn=drawing)
            run.log(done, **{f"drawn_{name}": value for name, value in found.items()})
            run.log(done, adjacency=np.asarray(adjacency.int()).tolist())


@torch.no_grad()
def spread(alpha: torch.Tensor) -> torch.Tensor:
    """How far apart the parameters of a row are (Gumbel noise: 1.28), mean over rows. [S]."""
    return (alpha.amax(-1) - alpha.amin(-1)).mean(-1)


if __name__ == "__main__":
    run_cli(train, Config)
