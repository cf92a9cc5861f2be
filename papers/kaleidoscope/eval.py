"""A run directory -> rows: returns, what tells agents apart, what masks cost; by kind of run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import files
from common.cli import run_cli
from common.marl.episodes import Batch, batch_of
from common.marl.recurrent import agent_inputs
from common.marl.targets import greedy
from common.run import Run
from common.torch_utils import setup
from papers.kaleidoscope import probe
from papers.kaleidoscope.agents import Agents, Clustered
from papers.kaleidoscope.config import Config, MATD3Config, resolved
from papers.kaleidoscope.method import overlap
from papers.kaleidoscope.methods import METHODS, Learner
from papers.kaleidoscope.qmix import greedy_episodes, make_team
from papers.kaleidoscope.task import TASKS, Task, chased, make

LAST = 3  # evaluations that the final value is the mean of
SHOWN = 16  # episodes whose observations all agents are given
CURVES = {"return", "win_rate", "covered", "mask_distance", "sparsity", "beta", "alpha"} | {
    *("critic_mask_distance", "critic_sparsity", "critic_spread")
}
Rows = list[dict[str, Any]]


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def logged(run: Run) -> Rows:
    """Curves as they were logged, and what they come to.

    ``final_NAME`` is the mean of the last three evaluations, ``auc`` that of all after training
    began; distances of masks are summed over the layers.
    """
    lines, rows = run.metrics(), []
    for name in sorted(CURVES):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if not points:
            continue
        steps = [step for step, _ in points]
        values = [float(np.sum(v)) for _, v in points]
        rows.append({"metric": name, "step": steps, "value": values})
        if name in ("return", "win_rate", "covered"):
            rows.append({"metric": f"final_{name}", "value": float(np.mean(values[-LAST:]))})
            rows.append({"metric": f"auc_{name}", "value": float(np.mean(values[1:] or values))})
        else:
            rows.append({"metric": f"{name}_at_first", "value": values[0]})
            rows.append({"metric": f"final_{name}", "value": values[-1]})
    for layer, value in enumerate(lines[-1].get("mask_distance", ()), 1):
        rows.append({"metric": "layer_distance", "layer": layer, "value": value})
    for name in ("redrawn", "updates"):
        if found := [line[name] for line in lines if name in line]:
            rows.append({"metric": name, "value": found[-1]})
    return rows


# -- what tells agents apart ----------------------------------------------------------------------


@torch.no_grad()
def disagreement(
    agents: Agents | Clustered, batch: Batch, method: Learner, task: Task, number: int | None = None
) -> float:
    """How often two agents act otherwise on the same history of observations.

    Each agent's episodes are given to all agents, who answer with their best available action.

    Args:
        agents: their networks.
        batch: episodes, the last moment of which is left out.
        method: whether agents see their number.
        task: whether they see their last action.
        number: all are told this one (what then differs is networks alone); None: their own.

    Returns:
        share of the pairs of agents, over the steps at which the agent whose episodes these are is
        alive, and over these agents.
    """
    N, n_actions = batch.obs.shape[2], batch.avail.shape[-1]
    types = torch.zeros_like(batch.agent_type)
    if isinstance(agents, Agents) and agents.by_type:  # kinds of units instead of agents
        types = types + torch.arange(N, device=types.device) % agents.n_masks
    shares = []
    for source in range(N):
        obs = batch.obs[:, :-1, source : source + 1].expand(-1, -1, N, -1)
        actions = batch.actions[:, :, source : source + 1].expand(-1, -1, N)
        inputs = agent_inputs(obs, actions, n_actions, last=task.last, ids=False)
        if method.ids:
            told = torch.eye(N, device=obs.device)
            told = told if number is None else told[number].expand(N, N)
            inputs = torch.cat([inputs, told.expand(*obs.shape[:2], N, N)], -1)
        q = agents(inputs, types[:, :-1])
        avail = batch.avail[:, :-1, source : source + 1].expand(-1, -1, N, -1)
        best = greedy(q, avail)
        counted = batch.filled * batch.alive[:, :-1, source]
        apart = [(best[..., i] != best[..., j]).float() for i, j in combinations(range(N), 2)]
        shares.append(float((torch.stack(apart).mean(0) * counted).sum() / counted.sum()))
    return float(np.mean(shares))


def same_masks(agents: Agents) -> Agents:
    """The agents with everybody's mask replaced by the first one's."""
    made = copy.deepcopy(agents)
    for layer in made.masked:
        layer.thresholds.data[:] = layer.thresholds.data[:1].clone()
    return made


@torch.no_grad()
def weight_distance(weights: Sequence[tuple[Tensor, Tensor]]) -> float:
    """mean_{m < m'} ||W_m - W_m'||_1 over all layers, in units of the mean ||W_m||_1."""
    G = max(len(w) for w, _ in weights)
    if G < 2:
        return 0.0
    full = [w.expand(G, -1, -1).flatten(1) for w, _ in weights]
    flat = torch.cat(full, 1)
    pairs = [(flat[i] - flat[j]).abs().sum() for i, j in combinations(range(G), 2)]
    return float(torch.stack(pairs).mean() / flat.abs().sum(1).mean())


def told_apart(
    run_cfg: Config, method: Learner, task: Task, agents: Any, first: Any, batch: Batch
) -> Rows:
    """Disagreement and distances, at the end and at first (on the same observations)."""
    rows: Rows = []

    def add(name: str, value: float) -> None:
        rows.append({"metric": name, "value": value})

    add("disagreement", disagreement(agents, batch, method, task))
    add("disagreement_at_first", disagreement(first, batch, method, task))
    if isinstance(agents, Agents):
        masks = agents.by_type or method.sharing != "full"
        number = 0 if method.ids else None
        add("network_disagreement", disagreement(agents, batch, method, task, number))
        add("network_disagreement_at_first", disagreement(first, batch, method, task, number))
        if masks:
            add("weight_distance", weight_distance(agents.effective()))
            add("weight_distance_at_first", weight_distance(first.effective()))
        if method.sharing == "masks" and method.ids:
            add("number_disagreement", disagreement(same_masks(agents), batch, method, task))
    return rows


def cost(agents: Any) -> Rows:
    """Multiplications of one agent's step in the layers that masks cut, and without any mask."""
    if not agents.masked:
        return []
    full = sum(layer.weight.numel() for layer in agents.masked)
    kept = sum(float(layer.masks().sum()) / len(layer.thresholds) for layer in agents.masked)
    gru = agents.gru.input.weight[0].numel() + agents.gru.hidden.weight[0].numel()
    return [
        {"metric": "macs", "value": kept},
        {"metric": "macs_without_masks", "value": full},
        {"metric": "macs_gru", "value": gru},
    ]


# -- kinds of runs --------------------------------------------------------------------------------


def of_qmix(run: Run, device: torch.device) -> tuple[Rows, Rows, Any]:
    """Rows and extras of a run of train.py."""
    cfg, task = resolved(run.config(Config))
    method = METHODS[cfg.method]
    rows, extras = logged(run), []
    if method.sharing == "script":
        return rows, extras, cfg
    final = run.final()
    env = make(task, cfg.envs)
    team = make_team(cfg, method, task, env, final["groups"]).to(device)
    first = copy.deepcopy(team.agents)
    team.load_state_dict(final["team"])
    episodes = greedy_episodes(team.agents, env, task, method, cfg)
    batch = batch_of(episodes[:SHOWN], device)
    rows += told_apart(cfg, method, task, team.agents, first, batch) + cost(team.agents)
    if task.preys:
        shares = chased(episodes)
        rows.append(
            {"metric": "fixed_prey", "value": float(np.abs(shares[:, 0] - shares[:, 1]).mean())}
        )
        extras.append({"name": "chased", "data": np.round(shares, 3).tolist()})
    extras += [
        {"name": f"overlap_{i}", "data": np.round(overlap(layer).cpu().numpy(), 4).tolist()}
        for i, layer in enumerate(team.agents.masked, 1)
    ]
    return rows, extras, cfg


def of_matd3(run: Run, device: torch.device) -> tuple[Rows, Rows, Any]:
    """Rows of a run of train_matd3.py."""
    return logged(run), [], run.config(MATD3Config)


def of_probe(run: Run, device: torch.device) -> tuple[Rows, Rows, Any]:
    """Rows of a run of probe.py: with ``solved_at``, from which evaluation on it stays solved."""
    cfg = run.config(probe.ProbeConfig)
    rows = logged(run)
    net = probe.Net(METHODS[cfg.method], cfg, torch.Generator().manual_seed(cfg.seed))
    net.load_state_dict(run.final()["net"])
    weights = [layer.effective() for layer in net.layers]  # type: ignore[operator]
    rows.append({"metric": "weight_distance", "value": weight_distance(weights)})
    points = [(line["step"], line["return"]) for line in run.metrics() if "return" in line]
    unsolved = [i for i, (_, value) in enumerate(points) if value < 1]
    since = unsolved[-1] + 1 if unsolved else 0
    if since < len(points):
        rows.append({"metric": "solved_at", "value": points[since][0]})
    rows.append({"metric": "last_return", "value": points[-1][1]})
    return rows, [], cfg


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    device = setup(cfg.device, 0)
    task = files.read_json(Path(cfg.run) / "config.json")["task"]
    kind = of_qmix
    if task == probe.TASK:
        kind = of_probe
    elif task not in TASKS:
        kind = of_matd3
    rows, extras, run_cfg = kind(run, device)
    label = {"method": run_cfg.method, "task": run_cfg.task, "seed": run_cfg.seed}
    if isinstance(run_cfg, Config):
        label["lr"] = run_cfg.lr
    run.write_eval([{**label, **row} for row in rows], [{**label, **e} for e in extras])


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
