"""What a step of guidance and an action cost, analytic beside contrastive.

    python -m papers.aepo.bench [--json FILE]

Untrained networks of the default's sizes on HalfCheetah's dimensions, one seed, one thread; turns
are interleaved and medians of CPU time compared. Support actions are made once per run: their cost
is shown by state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common import files
from common.cli import run_cli
from common.stacked import adam, seed_generators
from common.timing import alternately
from common.torch_utils import setup
from papers.aepo.config import SETTINGS, Config, Setting
from papers.aepo.method import BETA
from papers.aepo.methods import METHODS, Learns
from papers.aepo.pretrain import descend
from papers.aepo.prior import SCHEDULE, Advantage, Behaviour, Data, Prior
from papers.aepo.task import task_of
from papers.aepo.train import contrastive, energy, make_network, make_supports
from papers.aepo.trained import Policy

TASK, OBS, ACTION = "halfcheetah-replay", 17, 6
STATES = 256  # with support actions


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    hidden: int = SETTINGS["control"].hidden  # width of all networks
    episodes: int = 20  # states of an action
    repeats: int = 15


def prior_of(hidden: int) -> Prior:
    """Untrained networks and data of noise."""
    generators = seed_generators((0,), 1)
    drawn = torch.Generator().manual_seed(0)
    obs = torch.randn(1, 4_096, OBS, generator=drawn)
    action = 2 * torch.rand(1, 4_096, ACTION, generator=drawn) - 1
    behaviour = Behaviour(generators, OBS, ACTION, hidden)
    critic = Advantage(generators, OBS, ACTION, hidden)
    for net in (behaviour, critic):
        net.requires_grad_(False)
    variance = torch.full((1, len(SCHEDULE)), 0.1)
    data = Data(obs, action, torch.zeros(1, 4_096), 1.0)
    return Prior(task_of(TASK), data, behaviour, critic, variance, None)


def step_of(learns: Learns, prior: Prior, setting: Setting) -> Callable[[], None]:
    """One update of E_Theta."""
    net = make_network(learns, prior, (0,), setting)
    optimizer = adam([{"params": list(net.parameters())}], lr=setting.lr)
    drawing = seed_generators((0,), 3)
    if learns != "contrast":
        return lambda: descend(energy(learns, net, prior, drawing, setting), optimizer)
    supports = make_supports(prior, setting, seed_generators((0,), 4))
    return lambda: descend(contrastive(net, prior, supports, drawing, setting), optimizer)


def bench(cfg: BenchConfig) -> None:
    """Print milliseconds."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    base = SETTINGS["control"]
    setting = Setting(
        *(base.behaviour_steps, base.critic_steps, base.steps, cfg.hidden, base.layers),
        **{"support_states": STATES, "beta": BETA},
    )
    prior = prior_of(cfg.hidden)
    names: tuple[Learns, ...] = ("analytic", "local", "mean", "clean", "contrast")
    sides = {f"update, {name}": step_of(name, prior, setting) for name in names}
    sides[f"support actions of {STATES} states"] = lambda: make_supports(
        prior, setting, seed_generators((0,), 4)
    )
    states = np.zeros((1, cfg.episodes, OBS), np.float32)
    for name in ("aepo", "naive", "bc"):
        net = make_network(METHODS[name].learns, prior, (0,), setting)
        policy = Policy(Config(method=name, task=TASK), setting, prior, net)
        sides[f"act in {cfg.episodes} states, {name}"] = lambda p=policy: p.actions(  # type: ignore[misc]
            states, seed_generators((0,), 5)
        )
    found = alternately(sides, cfg.repeats)
    print(f"width {cfg.hidden}, batch {setting.batch}, {setting.solver_steps} solver steps")
    for name, milliseconds in found.items():
        print(f"  {name:34s} {milliseconds:8.2f} ms of CPU time")
    if cfg.json is not None:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
