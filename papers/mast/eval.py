"""A run directory -> rows: learning curves, what the networks cost, and how far values are off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.cli import run_cli
from common.marl.episodes import batch_of, play
from common.marl.protocol import BatchEnv
from common.marl.targets import discounted_returns
from common.run import Run
from common.torch_utils import setup
from papers.mast.config import Config
from papers.mast.cost import cost_of
from papers.mast.learning import following_value
from papers.mast.method import Topology, rows
from papers.mast.methods import METHODS
from papers.mast.networks import Values, copies, make_values
from papers.mast.probe import TASKS, ProbeConfig
from papers.mast.task import make, reward_scale, task_name
from papers.mast.train import behaviour

LAST = 3  # evaluations that the final result is the mean of
BIAS_SEED = 7_000_003  # of the episodes on which values are compared with returns


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


@dataclass
class Settings:
    """What the configurations of both kinds of run have."""

    task: str


def of_probe(run: Run, cfg: ProbeConfig) -> list[dict[str, Any]]:
    """How far each fitted value network is off."""
    labels = {"method": cfg.method, "task": cfg.task, "seed": cfg.seed}
    return [
        {**labels, "metric": metric, "value": entry[metric], **{k: entry[k] for k in by}}
        for entry in run.final()["found"]
        for by in [("density", "target")]
        for metric in ("fit_bias", "fit_error")
    ]


def built(
    cfg: Config, env: BatchEnv, device: torch.device
) -> tuple[list[Values], list[Values], Topology]:
    """Networks, targets and masks as training began with them."""
    method = METHODS[cfg.method]
    generator = torch.Generator().manual_seed(cfg.seed)
    values = [v.to(device) for v in make_values(cfg, env, method.size, generator)]
    sparsity = cfg.sparsity if method.size == "sparse" else 0.0
    networks = [network for v in values for network in v.networks]
    topology = Topology(networks, sparsity, method.growth, generator, pool=cfg.pool)
    return values, copies(values), topology


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    if run.config(Settings).task in TASKS:
        run.write_eval(of_probe(run, run.config(ProbeConfig)), [])
        return
    run_cfg = run.config(Config)
    device = setup(cfg.device, 0)
    env = make(run_cfg.task, run_cfg.envs)
    values, targets, topology = built(run_cfg, env, device)
    saved = run.final()
    before = topology.counts()
    for modules, states in ((values, saved["values"]), (targets, saved["targets"])):
        for module, state in zip(modules, states, strict=True):
            module.load_state_dict(state)
    topology.load_state_dict(saved["topology"])
    labels = {"method": run_cfg.method, "task": task_name(run_cfg), "seed": run_cfg.seed}
    found: list[dict[str, Any]] = []

    def add(metric: str, value: float | list[float], **more: Any) -> None:
        found.append({**labels, "metric": metric, "value": value, **more})

    add_curves(run, run_cfg, add)
    [final] = (row for row in found if row["metric"] == "final_win_rate")
    add("tuned", final["value"], lr=run_cfg.lr)
    add("env_steps", float(saved["env_steps"]))
    add("updates", float(saved["updates"]))
    add_costs(run_cfg, env, values, topology, before, add)
    bias = value_bias(run_cfg, env, values, targets)
    add("bias", bias)
    add("absolute_bias", abs(bias))
    run.write_eval(found, [])


def add_curves(run: Run, cfg: Config, add: Any) -> None:
    """Win rate and return against environment steps, with their summaries.

    Evaluation k is due at k steps / evaluations, and made after the round that reaches it.
    """
    lines = [line for line in run.metrics() if "win_rate" in line]
    steps = [line["evaluation"] * cfg.steps / cfg.evaluations for line in lines]
    for metric in ("win_rate", "return"):
        curve = [float(line[metric]) for line in lines]
        add(metric, curve, step=steps)
        add(f"final_{metric}", float(np.mean(curve[-LAST:])))
        add(f"mean_{metric}", float(np.mean(curve)))
    connections = [line["connections"] for line in lines]
    add("connections_changed", float(max(connections) - min(connections)))


def add_costs(
    cfg: Config,
    env: BatchEnv,
    values: list[Values],
    topology: Topology,
    before: list[list[int]],
    add: Any,
) -> None:
    """Size and operations, absolute and of a dense network of the full width; where masks agree."""
    cost = cost_of(values, topology, cfg.rewire_every)
    full = make_values(cfg, env, "dense", torch.Generator())
    none = Topology([], 0.0, "none", torch.Generator())
    dense = cost_of(full, none, cfg.rewire_every)
    for name in ("act", "train", "size"):
        add(name, float(getattr(cost, name)))
        add(f"{name}_ratio", getattr(cost, name) / getattr(dense, name))
    counts = topology.counts()
    if cfg.pool:  # connections may move between agents
        counts, before = ([[sum(layer)] for layer in c] for c in (counts, before))
    add("layers_changed", float(counts != before))
    stacks = [mask.sum(1) for mask in topology.masks if len(mask) > 1]
    if stacks:
        of_agent = torch.stack(stacks).sum(0)
        add("most_connections", float(of_agent.max() / of_agent.mean()))
    overlaps = [pairwise_overlap(mask) for mask in topology.masks if mask.shape[0] > 1]
    if overlaps:
        add("overlap", float(np.mean([found for found, _ in overlaps])))
        add("overlap_of_chance", float(np.mean([chance for _, chance in overlaps])))
    dead = sum(int((rows(w).abs().sum(1) == 0).sum()) for w in topology.layers)
    add("empty_layers", float(dead))


def pairwise_overlap(mask: torch.Tensor) -> tuple[float, float]:
    """Share of a network's connections that another has too, and the density. [G, P]."""
    shared = mask @ mask.T
    n = mask.sum(1)
    others = ~torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    return float((shared / n[:, None])[others].mean()), float(mask.mean())


@torch.no_grad()
def value_bias(cfg: Config, env: BatchEnv, values: list[Values], targets: list[Values]) -> float:
    """Mean of V(s_{t+1}) - discounted return from t + 1 over greedy episodes, in reward units."""
    rng = np.random.default_rng(0)
    seed = BIAS_SEED + cfg.seed
    episodes = play(env, lambda: behaviour(values[0], env, 0.0, rng), cfg.episodes, seed)
    batch = batch_of(episodes, next(values[0].parameters()).device)
    utilities = values[0].utilities(batch)
    operator = METHODS[cfg.method].operator
    following = following_value(cfg, operator, values, targets, batch, utilities)
    following = following / reward_scale(cfg.task)
    returns = discounted_returns(batch.reward, cfg.gamma)
    # V(s_{t+1}) belongs to the return from t + 1; the last step has none
    real = batch.filled[:, 1:]
    return float(((following[:, :-1] - returns[:, 1:]) * real).sum() / real.sum())


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
