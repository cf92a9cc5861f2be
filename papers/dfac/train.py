"""One run of a battle: one method, one map, one seed. (Matrix games: train_games.py.)"""

from __future__ import annotations

import numpy as np
import torch

from common.cli import run_cli
from common.marl.environments import make_env
from common.marl.episodes import EpisodeBuffer, collect, outcomes
from common.marl.protocol import BatchEnv
from common.marl.targets import linear
from common.run import Run
from common.torch_utils import setup
from papers.dfac.config import Config, battle_learning, battle_sizes, check_battle
from papers.dfac.learner import Learner, Net
from papers.dfac.method import DFACConfig, midpoints
from papers.dfac.play import Agents, batch_of, behaviour, greedy_episodes
from papers.dfac.task import battle_task

EVALUATION_SEED = 900_000_000  # of episodes; training counts on from the seed's own million
NOT_AT_LAST = ("buffer",)  # what the last checkpoint does without


def evaluated(net: Net, env: BatchEnv, episodes: int) -> dict[str, float]:
    """Greedy episodes with fixed quantile fractions, the same episodes each time."""
    made = greedy_episodes(net, env, episodes, EVALUATION_SEED, midpoints(DFACConfig.acting))
    ended = outcomes(made)
    return {
        "win_rate": float(ended.won.mean()),
        "return": float(ended.returns.mean()),
        "length": float(ended.lengths.mean()),
    }


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    task = battle_task(cfg.task)
    check_battle(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    env = make_env(task.env, cfg.envs, **task.options)
    total = cfg.steps or task.steps
    learner = Learner(cfg.method, battle_learning(cfg), battle_sizes(cfg, env), (cfg.seed,), device)
    exploring = torch.Generator(device).manual_seed(cfg.seed)
    kept = run.keep(
        learner=learner,
        buffer=EpisodeBuffer(cfg.buffer),
        rng=np.random.default_rng(cfg.seed),
        exploring=exploring,
        rounds=0,
        env_steps=0,
        losses={},
    )
    buffer, rng = kept.buffer, kept.rng
    agents = Agents(learner.net, env.n_agents, DFACConfig.acting, exploring)
    for point in run.steps(cfg.evaluations, drop=NOT_AT_LAST):
        while kept.env_steps < (point + 1) * total / cfg.evaluations:
            # 1. one episode in every environment, epsilon-greedy
            epsilon = linear(1.0, cfg.epsilon, cfg.anneal or total / 4, kept.env_steps)
            act = behaviour(agents, env, epsilon, rng)
            played = collect(env, act, cfg.seed * 1_000_000 + kept.rounds)
            buffer.add(played)
            kept.rounds += 1
            kept.env_steps += int(outcomes(played).lengths.sum())

            # 2. as many updates as environment steps ask for
            while learner.updates * cfg.steps_per_update < kept.env_steps:
                chosen = buffer.draw(cfg.batch, rng)
                batch = batch_of(chosen, env.n_actions, task.reward_scale, device)
                metrics = learner.update(batch)
                kept.losses = {name: value.item() for name, value in metrics.items()}

        # 3. greedy episodes
        found = evaluated(learner.net, env, cfg.episodes)
        run.log(kept.env_steps, point=point + 1, updates=learner.updates, **kept.losses, **found)


if __name__ == "__main__":
    run_cli(train, Config)
