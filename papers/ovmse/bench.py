"""Milliseconds per gradient update: QMIX, the memory cached or not, CFCQL at once or in a loop.

    python -m papers.ovmse.bench [--json FILE]

Batches of random episodes in the sizes of SMAX-3m. Repeats of all sides are interleaved; the clock
is the process's CPU time, which a busy machine disturbs least, with one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from common import files
from common.cli import run_cli
from common.marl.episodes import Episode, batch_of
from common.marl.targets import masked, masked_mean, taken
from common.torch_utils import setup
from papers.ovmse.config import Config
from papers.ovmse.learning import Q_OFF, Conservative, adam, descend, td_target, update
from papers.ovmse.method import frozen, memory
from papers.ovmse.networks import Values


class Battle:
    """The sizes of SMAX-3m."""

    n_agents, obs_dim, state_dim, n_actions = 3, 75, 60, 8


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    batch: int = 32  # episodes of an update
    steps: int = 25  # of an episode
    repeats: int = 9  # interleaved repeats of each side
    updates: int = 3  # of a repeat


def episodes(n: int, length: int) -> list[Episode]:
    """Random episodes, all of one length and terminated."""
    rng, env = np.random.default_rng(0), Battle
    moments = (length + 1, env.n_agents)
    made: list[Episode] = []
    for _ in range(n):
        made.append(
            {
                "obs": rng.standard_normal((*moments, env.obs_dim), dtype=np.float32),
                "state": rng.standard_normal((length + 1, env.state_dim), dtype=np.float32),
                "avail": np.ones((*moments, env.n_actions), bool),
                "alive": np.ones(moments, bool),
                "agent_type": np.zeros(moments, np.int64),
                "actions": rng.integers(env.n_actions, size=(length, env.n_agents)),
                "reward": rng.random(length, dtype=np.float32),
                "terminated": np.eye(length, dtype=np.float32)[-1],
                "won": np.array(True),
            }
        )
    return made


def bench(cfg: BenchConfig) -> None:
    """Prints milliseconds per update and ratios to plain QMIX."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    learner = Config()
    values = Values(Battle, learner, torch.Generator().manual_seed(0))
    target, offline = frozen(values), frozen(values)
    optimizer, batch = adam(values, learner.lr), batch_of(episodes(cfg.batch, cfg.steps))
    batch.extra[Q_OFF] = memory(offline, batch)

    none = Conservative()

    def plain(weight: float = 0.0, term: Conservative = none) -> None:
        update(values, target, optimizer, batch, learner, 10.0, memory=weight, term=term)

    def recomputed() -> None:
        batch.extra[Q_OFF] = memory(offline, batch)
        plain(0.9)

    def in_a_loop() -> None:
        """CFCQL with one call of the mixer for each agent and action."""
        utilities = values.utilities(batch)
        q, state = utilities[:, :-1], batch.state[:, :-1]
        q_tot = values.mix(taken(q, batch.actions), state)
        y = td_target(utilities, target, batch, learner, 10.0)
        each: list[Tensor] = []
        for i in range(Battle.n_agents):
            others = []
            for a in range(Battle.n_actions):
                joint = batch.actions.clone()
                joint[..., i] = a
                others.append(values.mix(taken(q, joint), state))
            each.append(masked(torch.stack(others, -1), batch.avail[:, :-1, i]).logsumexp(-1))
        penalty = torch.stack(each, -1).mean(-1) - q_tot
        loss = masked_mean(0.5 * (q_tot - y).square() + 2.0 * penalty, batch.filled)
        descend(loss, values, optimizer, learner.clip)

    sides: dict[str, Callable[[], None]] = {
        "QMIX": plain,
        "OVM, memory cached": lambda: plain(0.9),
        "OVM, memory recomputed": recomputed,
        "CFCQL": lambda: plain(0.0, Conservative("cfcql", 2.0)),
        "CFCQL, a mixer call each": in_a_loop,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for _ in range(cfg.repeats):
        for name, call in sides.items():
            began = time.process_time()
            for _ in range(cfg.updates):
                call()
            seconds[name].append((time.process_time() - began) / cfg.updates)
    base = median(seconds["QMIX"])
    result = {}
    for name, values_ in seconds.items():
        mine = median(values_)
        result[name] = {"ms per update": 1e3 * mine, "over QMIX": mine / base}
        low, high = np.percentile(values_, [25, 75]) * 1e3
        print(
            f"{name:26s} {1e3 * mine:6.1f} ms of CPU per update [{low:.1f}, {high:.1f}], "
            f"{mine / base:.2f} x QMIX",
            flush=True,
        )
    if cfg.json:
        files.write_json(cfg.json, result)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
