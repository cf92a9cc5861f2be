"""QMIX on MPE's simple spread: environment steps and updates per second, against TorchRL's.

    python -m papers.mast.bench [--json FILE]

TorchRL is what BenchMARL is made of: its PettingZoo wrapper, its multi-agent network (feed-forward,
as BenchMARL's default), its QMIX loss. Ours are recurrent agents over whole episodes. Both sides
act epsilon-greedily, and learn from batches of as many transitions; repeats are interleaved, the
clock is the process's CPU time with one thread. Also: what a step costs by the number of agents.
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
from torch import nn

from common import files
from common.cli import run_cli
from common.marl.environments import make_env
from common.marl.episodes import EpisodeBuffer, batch_of, collect, outcomes
from common.marl.protocol import uniform_actions
from common.torch_utils import setup
from papers.mast.config import Config
from papers.mast.learning import update
from papers.mast.method import Topology
from papers.mast.methods import METHODS
from papers.mast.networks import copies, make_values, parameters_of
from papers.mast.train import behaviour

TASK, LENGTH = "mpe:spread", 25
EPSILON = 0.3
MAPS = ("smax:3m", "smax:8m", "smax:27m_vs_30m")
Side = tuple[Callable[[], int], Callable[[], None]]  # acts (environment steps), learns


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    envs: int = 16  # environments of ours that are stepped together
    batch: int = 32  # episodes of an update
    repeats: int = 5  # interleaved repeats of each side
    updates: int = 10  # of a repeat
    steps: int = 200  # of the environments, by the number of agents


def ours(cfg: BenchConfig) -> Side:
    """Episodes of all environments, and updates of a dense network."""
    env, rng = make_env(TASK, cfg.envs), np.random.default_rng(0)
    config, generator = Config(share=True, batch=cfg.batch), torch.Generator().manual_seed(0)
    values = make_values(config, env, "dense", generator)
    networks = [network for v in values for network in v.networks]
    topology = Topology(networks, 0.0, "none", generator)
    targets, optimizer = copies(values), torch.optim.Adam(parameters_of(values), 1e-3, fused=True)
    buffer = EpisodeBuffer(4 * cfg.batch)

    def act() -> int:
        episodes = collect(env, behaviour(values[0], env, EPSILON, rng), int(rng.integers(2**31)))
        buffer.add(episodes)
        return int(outcomes(episodes).lengths.sum())

    def learn() -> None:
        batch = batch_of(buffer.draw(cfg.batch, rng))
        given = (METHODS["dense"], config, values, targets, topology, optimizer, batch)
        update(*given, step=0, number=1)

    while len(buffer) < cfg.batch:
        act()
    return act, learn


def torchrl(cfg: BenchConfig) -> Side:
    """One episode of the wrapped environment, and updates of TorchRL's QMIX."""
    from mpe2 import simple_spread_v3
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.envs.libs.pettingzoo import PettingZooWrapper
    from torchrl.modules import EGreedyModule, MultiAgentMLP, QMixer, QValueModule
    from torchrl.objectives import ValueEstimators
    from torchrl.objectives.multiagent import QMixerLoss

    options = {"use_mask": False, "categorical_actions": True, "return_state": True}
    env: Any = PettingZooWrapper(simple_spread_v3.parallel_env(), **options)
    (group, agents), *_ = env.group_map.items()
    action, chosen = (group, "action"), (group, "chosen_action_value")
    values = (group, "action_value")
    sizes = [env.observation_spec[key].shape[-1] for key in ((group, "observation"), "state")]
    shape = {"centralised": False, "share_params": True, "depth": 2, "num_cells": 64}
    network = MultiAgentMLP(sizes[0], 5, len(agents), **shape)
    policy = TensorDictSequential(
        TensorDictModule(network, [(group, "observation")], [values]),
        QValueModule(
            action_value_key=values,
            action_space="categorical",
            out_keys=[action, values, chosen],
        ),
    )
    explore = EGreedyModule(
        spec=env.full_action_spec[action], eps_init=EPSILON, eps_end=EPSILON, action_key=action
    )
    acting = TensorDictSequential(policy, explore)
    mixer = TensorDictModule(
        QMixer((sizes[1],), 32, len(agents), "cpu"),
        [chosen, "state"],
        ["chosen_action_value"],
    )
    loss = QMixerLoss(policy, mixer, delay_value=True, action_space="categorical")
    loss.set_keys(
        action_value=values, local_value=chosen, global_value="chosen_action_value", action=action
    )
    loss.make_value_estimator(ValueEstimators.TD0, gamma=0.99)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    played: list[Any] = []

    def act() -> int:
        with torch.no_grad():
            played.append(env.rollout(LENGTH, acting))
        return len(played[-1])

    def learn() -> None:
        batch = torch.cat([played[i % len(played)] for i in range(cfg.batch)])
        batch["next", "reward"] = batch["next", group, "reward"].sum(-2)
        optimizer.zero_grad()
        loss(batch)["loss"].backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 10.0)
        optimizer.step()

    act()
    return act, learn


def compare(cfg: BenchConfig) -> dict[str, dict[str, float]]:
    """Both sides, repeat by repeat; prints rates and ratios."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = {"TorchRL": torchrl(cfg), "ours": ours(cfg)}
        rates: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
        for _, learn in sides.values():
            learn()
        for _ in range(cfg.repeats):
            for name, (act, learn) in sides.items():
                began, steps = time.process_time(), 0
                while steps < cfg.envs * LENGTH:
                    steps += act()
                acted = time.process_time()
                for _ in range(cfg.updates):
                    learn()
                learned = time.process_time()
                step, one = (acted - began) / steps, (learned - acted) / cfg.updates
                # the ratio of the experiments: 4 updates for 16 episodes
                rates[name].append((1 / step, 1 / one, 1 / (step + one * 4 / (16 * LENGTH))))
    names = ("environment steps per second, acting", "updates per second", "steps per second, both")
    found = {
        side: {n: median(r[i] for r in rates[side]) for i, n in enumerate(names)} for side in sides
    }
    for name in names:
        mine, theirs = found["ours"][name], found["TorchRL"][name]
        print(
            f"{name:40s} {mine:8.0f} ours {theirs:8.0f} TorchRL {mine / theirs:6.2f} x", flush=True
        )
    return found


def by_agents(cfg: BenchConfig) -> dict[str, float]:
    """Milliseconds per step of all environments with random actions, by map."""
    found = {}
    for name in MAPS:
        env, rng = make_env(name, cfg.envs), np.random.default_rng(0)
        seen = env.reset(0)
        over = np.zeros(cfg.envs, bool)
        began = time.process_time()
        for _ in range(cfg.steps):
            step = env.step(uniform_actions(seen, rng))
            over = step.terminated | step.truncated
            seen = env.reset_where(over) if over.any() else step.seen
        found[name] = 1e3 * (time.process_time() - began) / cfg.steps
        text = f"{env.n_agents:2d} agents: {found[name]:6.2f} ms for a step of {cfg.envs} battles"
        print(f"{name:16s} {text}", flush=True)
    return found


def bench(cfg: BenchConfig) -> None:
    """Prints both comparisons."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # as the peer would run
    result: dict[str, Any] = {"spread": compare(cfg), "agents": by_agents(cfg)}
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
