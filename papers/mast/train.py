"""One run: one method in one host algorithm on one task, one seed."""

from __future__ import annotations

import numpy as np
import torch

from common.cli import run_cli
from common.marl.episodes import Act, batch_of, collect, outcomes, play
from common.marl.protocol import BatchEnv, Ints, Seen
from common.marl.recurrent import Acting
from common.marl.targets import epsilon_greedy, linear
from common.run import Run
from common.torch_utils import setup
from papers.mast.baselines import forget
from papers.mast.config import Config
from papers.mast.learning import update
from papers.mast.method import DualBuffer, Topology
from papers.mast.methods import METHODS
from papers.mast.networks import Values, copies, copy_into, make_values, parameters_of
from papers.mast.task import make

EVALUATION_SEED = 1_000_003  # of episodes; training counts on from the seed's own million
LOG_EVERY = 50  # updates


def behaviour(values: Values, env: BatchEnv, epsilon: float, generator: np.random.Generator) -> Act:
    """Epsilon-greedy actions of the agents, from an empty memory."""
    acting = Acting(values.agents, env.n_envs, env.n_actions)

    def act(seen: Seen, t: int) -> Ints:
        actions = epsilon_greedy(acting.values(seen), seen.avail, epsilon, generator)
        acting.acted(actions)
        return actions

    return act


def evaluated(values: Values, env: BatchEnv, cfg: Config) -> dict[str, float]:
    """Win rate and return of greedy episodes, the same ones each time."""
    rng = np.random.default_rng(0)  # nothing is drawn from it
    made = play(
        env,
        lambda: behaviour(values, env, 0.0, rng),
        cfg.episodes,
        EVALUATION_SEED * (cfg.seed + 1),
    )
    ended = outcomes(made)
    return {"win_rate": float(ended.won.mean()), "return": float(ended.returns.mean())}


def train(cfg: Config) -> None:
    """Train, or go on from the last checkpoint."""
    method = METHODS[cfg.method]
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed)
    env = make(cfg.task, cfg.envs)
    generator = torch.Generator().manual_seed(cfg.seed)
    values = [v.to(device) for v in make_values(cfg, env, method.size, generator)]
    sparsity = cfg.sparsity if method.size == "sparse" else 0.0
    networks = [network for v in values for network in v.networks]
    topology = Topology(networks, sparsity, method.growth, generator, pool=cfg.pool)
    targets = copies(values)
    optimizer = torch.optim.Adam(parameters_of(values), cfg.lr, eps=1e-5, fused=True)
    share = 3 / 8 if method.dual else 0.0
    kept = run.keep(
        values=values,
        targets=targets,
        optimizer=optimizer,
        topology=topology,
        buffer=DualBuffer(cfg.buffer, cfg.latest, share),
        generator=np.random.default_rng(cfg.seed),
        env_steps=0,
        rounds=0,
        updates=0,
    )
    buffer, rng = kept.buffer, kept.generator
    for part in run.steps(cfg.evaluations, drop=("buffer",)):
        while kept.env_steps * cfg.evaluations < (part + 1) * cfg.steps:
            # 1. one episode in every environment
            epsilon = linear(1.0, cfg.epsilon, cfg.anneal, kept.env_steps)
            act = behaviour(values[0], env, epsilon, rng)
            episodes = collect(env, act, cfg.seed * 1_000_000 + kept.rounds)
            buffer.add(episodes)
            kept.rounds += 1
            kept.env_steps += int(outcomes(episodes).lengths.sum())

            # 2. gradient updates, of weights or of the topology
            for _ in range(cfg.updates if len(buffer) >= cfg.batch else 0):
                kept.updates += 1
                metrics = update(
                    *(method, cfg, values, targets, topology, optimizer),
                    batch_of(buffer.draw(cfg.batch, rng), device),
                    step=kept.env_steps,
                    number=kept.updates,
                )
                if method.dynamic and kept.updates % cfg.rewire_every == 0:
                    metrics["distance"] = forget(values[0], buffer.past)
                if kept.updates % LOG_EVERY == 0:
                    run.log(kept.env_steps, updates=kept.updates, **metrics)

            # 3. target networks
            played = kept.rounds * cfg.envs
            if played // cfg.copy_every > (played - cfg.envs) // cfg.copy_every:
                copy_into(targets, values)

        # 4. greedy episodes
        found = evaluated(values[0], env, cfg)
        connections = sum(map(sum, topology.counts()))
        run.log(kept.env_steps, evaluation=part + 1, connections=connections, **found)


if __name__ == "__main__":
    run_cli(train, Config)
