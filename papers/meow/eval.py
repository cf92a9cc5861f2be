"""A run directory -> rows: goals reached, exactness of V, curves of returns and determinants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.cli import run_cli
from common.run import Run
from common.stacked import randn, seed_generators
from common.torch_utils import setup
from papers.meow.agent import make_agent
from papers.meow.config import Config, settings_of
from papers.meow.method import EnergyFlow
from papers.meow.methods import METHODS
from papers.meow.multigoal import GOALS, MultiGoal, soft_value_iteration
from papers.meow.soft_value import (
    fitted_gaussian_v,
    quadrature_v,
    unclipped,
    uniform_estimates,
)
from papers.meow.task import multigoal_paths

EPISODES = 100  # of multi-goal, stochastic actions
DRAWN = 20  # paths per run in the figure
STATES = ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (-3.0, 1.0), (4.5, -4.5))  # V against quadrature
MC_STATES = STATES[:3]  # V against Monte Carlo
MC_SIZES = {10: 100, 100: 100, 1_000: 100, 10_000: 100, 100_000: 10}  # M -> repeats
QUICK_SIZES = {10: 20, 100: 20, 1_000: 20, 10_000: 2}
MAP_SPACING = 0.5  # of the value map


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def goal_entropy(goal: NDArray[np.int64]) -> float:
    """Entropy in nats of the goals among the episodes that reached one; 0 if none did."""
    counts = np.bincount(goal[goal >= 0], minlength=len(GOALS))
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum())


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    run_cfg = run.config(Config)
    device = setup(cfg.device, 0)
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    name = {"method": run_cfg.method, "task": run_cfg.task}

    def add(metric: str, values: Any, **labels: Any) -> None:
        for s, value in zip(run_cfg.seed, values, strict=True):
            value = value if isinstance(value, list) else float(value)
            rows.append({**name, "seed": s, "metric": metric, "value": value, **labels})

    add_curves(run, add)
    if settings_of(run_cfg).multigoal:
        agent = make_agent(run_cfg, MultiGoal.obs_dim, MultiGoal.action_dim, device)
        agent.load(run.final()["agent"])
        paths(run_cfg, agent, add, name, extras, device)
        if METHODS[run_cfg.method].has_value:
            exactness(run_cfg, agent.policy.cpu(), add)
            value_map(run_cfg, agent.policy.cpu(), add, name, extras)
    run.write_eval(rows, extras)


def add_curves(run: Run, add: Any) -> None:
    """Returns and determinants as they were logged, with their summaries."""
    lines = run.metrics()
    for metric in ("returns", "log_det_linear", "log_det_nonlinear", "alpha"):
        points = [(line["step"], line[metric]) for line in lines if metric in line]
        if not points:
            continue
        if metric == "returns":
            values = np.array([v for _, v in points])  # [T, S]
            add("final_return", values[-1])
            add("auc", values.mean(0))
        if metric == "log_det_linear":
            values = np.array([v for _, v in points])
            add("log_det_drift", np.abs(values[-1] - values[0]))
        keep = range(0, len(points), max(1, len(points) // 40))
        steps = [points[i][0] for i in keep]
        curves = np.array([points[i][1] for i in keep]).T  # [S, T]
        add(metric, [list(map(float, c)) for c in curves], step=steps)


def paths(
    cfg: Config, agent: Any, add: Any, name: dict[str, Any], extras: list[Any], device: torch.device
) -> None:
    """Stochastic episodes of multi-goal: which goals, how much reward."""
    S = len(cfg.seed)
    noise = seed_generators(cfg.seed, 5, device)

    def act(obs: NDArray[np.float32]) -> NDArray[np.float32]:
        z = randn(noise, obs.shape[1], MultiGoal.action_dim)
        return agent.act(torch.from_numpy(obs).to(device), z).cpu().numpy()

    found = multigoal_paths(act, S, EPISODES)
    for g in range(len(GOALS)):
        add("goal_share", (found.goal == g).mean(1), goal=g)
    add("reached", (found.goal >= 0).mean(1))
    add("rarest_goal", np.stack([(found.goal == g).mean(1) for g in range(len(GOALS))]).min(0))
    add("goal_entropy", [goal_entropy(g) for g in found.goal])
    add("return", found.returns.mean(1))
    for s, seed in enumerate(cfg.seed[:2]):
        drawn = []
        for e in range(DRAWN):
            path = found.positions[s, e]
            moves = int(np.any(np.diff(path, axis=0) != 0, axis=1).sum())
            drawn.append(np.round(path[: min(moves, 120) + 1], 2).tolist())
        extras.append({**name, "name": "paths", "seed": seed, "data": drawn})


def exactness(cfg: Config, policy: EnergyFlow, add: Any) -> None:
    """V against quadrature, and Monte-Carlo estimates of it against V."""
    exact = unclipped(policy)
    generators = seed_generators(cfg.seed, 6)
    ratios = []
    for x, y in STATES:
        state = torch.tensor([x, y])
        labels = {"state": f"{x:g} {y:g}"}
        S = len(cfg.seed)
        v = exact.v_clip(state.double().expand(S, 1, 2)).squeeze(1)
        error = quadrature_v(exact, state, points=160 if cfg.quick else 320) - v
        add("exact_v", v, **labels)
        add("quadrature_error", error, **labels)
        ratios.append(error.abs() / (1 + v.abs()))
        if (x, y) in MC_STATES and cfg.task == "multigoal":
            sizes = QUICK_SIZES if cfg.quick else MC_SIZES
            estimates = uniform_estimates(policy, state, generators, sizes)
            for m, values in estimates.items():
                median = (values - v[:, None]).abs().median(dim=1).values
                add("mc_error", median, samples=m, **labels)
            add("sac_error", fitted_gaussian_v(policy, state, generators) - v, **labels)
    add("exactness", torch.stack(ratios).amax(0))


def value_map(
    cfg: Config, policy: EnergyFlow, add: Any, name: dict[str, Any], extras: list[Any]
) -> None:
    """V on a grid against exact soft value iteration."""
    settings = settings_of(cfg)
    optimal = soft_value_iteration(settings.gamma, settings.alpha)
    axis = np.arange(-6.5, 6.5 + MAP_SPACING / 2, MAP_SPACING)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    state = torch.as_tensor(grid.reshape(-1, 2), dtype=torch.float32)
    with torch.no_grad():
        v = policy.v_clip(state.expand(len(cfg.seed), -1, -1)).numpy()
    star = optimal.v(grid).reshape(-1)
    inside = np.linalg.norm(grid.reshape(-1, 1, 2) - GOALS, axis=-1).min(1) >= 1  # live states
    add("map_error", np.abs(v - star)[:, inside].mean(1))
    add("map_correlation", [np.corrcoef(x[inside], star[inside])[0, 1] for x in v])
    shape = (len(axis), len(axis))
    for label, values in (("V", v[0]), ("V*", star)):
        data = np.round(values.reshape(shape), 1).tolist()
        extras.append({**name, "name": label, "seed": cfg.seed[0], "data": data})


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
