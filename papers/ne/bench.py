"""TD3's updates per CPU second: all seeds stacked, dense and growing, against stable-baselines3's.

    python -m papers.ne.bench [--json FILE]

The same networks, batches and optimiser on the dimensions of HalfCheetah, from buffers that are
filled with random transitions; one thread, repeats interleaved, medians compared. An update is one
of the critics, and every second time of the actor and the targets.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from common import files
from common.cli import run_cli
from common.sac import ReplayBuffer
from common.stacked import randn, seed_generators
from common.td3 import polyak
from common.torch_utils import setup
from papers.ne.agent import make_agent
from papers.ne.config import POLICY_DELAY, Config
from papers.ne.task import Task
from papers.ne.train import improve_actor, improve_critics

STORED = 2_000  # transitions in the buffers
Update = Callable[[int], None]  # the t-th


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    seeds: int = 5  # stacked
    batch: int = 128  # transitions of an update and seed
    hidden: int = 256  # units of the two hidden layers
    updates: int = 200  # of a repeat, one of them a change of NE's topology
    repeats: int = 3  # interleaved; medians are compared


def ours(cfg: BenchConfig, method: str) -> Update:
    """Updates of all seeds of one method."""
    seeds, task = tuple(range(cfg.seeds)), Task("halfcheetah")
    config = Config(method, "halfcheetah", seeds, hidden=cfg.hidden, interval=200, lr=1e-3)
    agent = make_agent(config, task, seed_generators(seeds, 6), torch.device("cpu"))
    buffer = ReplayBuffer(cfg.seeds, STORED, task.obs_dim, task.action_dim)
    drawing = seed_generators(seeds, 4)
    for name, store in buffer.data.items():
        store.copy_(randn(drawing, *store.shape[1:]) if name != "terminated" else 0 * store)
    buffer.size = STORED

    def update(t: int) -> None:
        batch = buffer.sample(drawing, cfg.batch)
        noise = randn(drawing, cfg.batch, task.action_dim)
        improve_critics(agent, batch, noise, t, config)
        if t % POLICY_DELAY == 0:
            improve_actor(agent, batch, t)
            for part in (agent.critic, agent.actor):
                polyak(part.slow, part.net, config.tau)

    return update


def peer(cfg: BenchConfig) -> Update:
    """Updates of stable-baselines3's TD3, one seed."""
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.logger import configure

    model = stable_baselines3.TD3(
        *("MlpPolicy", gymnasium.make("HalfCheetah-v5")),
        policy_kwargs={"net_arch": [cfg.hidden, cfg.hidden]},
        **{"buffer_size": STORED, "batch_size": cfg.batch, "device": "cpu", "seed": 0},
    )
    model.set_logger(configure(None, []))
    rng, space = np.random.default_rng(0), model.observation_space
    for _ in range(STORED):
        obs, following = (rng.normal(size=(1, *(space.shape or ()))) for _ in range(2))
        action, reward = rng.uniform(-1, 1, (1, 6)), rng.normal(size=1)
        model.replay_buffer.add(obs, following, action, reward, np.zeros(1), [{}])
    return lambda t: model.train(gradient_steps=1, batch_size=cfg.batch)


def bench(cfg: BenchConfig) -> None:
    """Print updates of a seed per CPU second, and their ratios to the peer's."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # as the peer would run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides: dict[str, tuple[Update, int]] = {
            "stable-baselines3": (peer(cfg), 1),
            "dense, stacked": (ours(cfg, "dense"), cfg.seeds),
            "NE, stacked": (ours(cfg, "ne"), cfg.seeds),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        done = 0
        for repeat in range(cfg.repeats + 1):
            for name, (update, seeds) in sides.items():
                began = time.process_time()
                for t in range(done + 1, done + cfg.updates + 1):
                    update(t)
                if repeat:  # the first one warms up
                    rates[name].append(seeds * cfg.updates / (time.process_time() - began))
            done += cfg.updates
    found: dict[str, Any] = {name: median(values) for name, values in rates.items()}
    print(f"{cfg.seeds} seeds, batch {cfg.batch}, two layers of {cfg.hidden}, one thread")
    for name, rate in found.items():
        ratio = rate / found["stable-baselines3"]
        print(f"  {name:18s} {rate:7.0f} updates of a seed per CPU second  {ratio:5.2f} x")
    if cfg.json is not None:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
