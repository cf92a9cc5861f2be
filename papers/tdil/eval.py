"""A run directory -> rows: curves, final and blindly selected scores, looks of the rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import NDArray

from common.cli import run_cli
from common.run import Run
from common.torch_utils import setup
from papers.tdil import mazes
from papers.tdil.config import SWEPT, Config, resolve
from papers.tdil.method import TDILConfig, TransitionDiscriminator, surrogate_reward
from papers.tdil.networks import Networks, make_networks, rollout
from papers.tdil.task import GridTask, Rollout, SimulatorTask, Task, make_task

CURVES = ("rho_rel", "reward", "expert_reward", "kept", "alpha")
DENSE = 0.1  # a pair is paid if its reward exceeds this share of the maximum
DRAWN = 12  # paths of a figure


@dataclass
class EvalConfig:
    """Evaluate a finished run."""

    run: Path  # run directory
    device: str = "cpu"  # cpu or cuda


def paid_share(reward: NDArray) -> NDArray:
    """Share of (cell, action) pairs that are paid more than a tenth of the maximum. [S, 400]."""
    return (reward > DENSE * reward.max(axis=1, keepdims=True)).mean(axis=1)


@torch.no_grad()
def grid_tables(nets: Networks, task: Task) -> dict[str, NDArray]:
    """D over all pairs of cells [S, 100, 100], and the rewards of all (cell, action) [S, 400]."""
    S, device = len(nets.agent.log_alpha), nets.agent.log_alpha.device
    states = torch.from_numpy(mazes.scaled(mazes.CELLS)).to(device)
    tables = {}
    if nets.discriminator is not None and nets.paying is not None:
        first, second = states.repeat_interleave(100, 0), states.repeat(100, 1)
        every = (x.expand(S, *x.shape) for x in (first, second))
        tables["D"] = nets.discriminator(*every).view(S, 100, 100).cpu().numpy()
        expert = torch.from_numpy(task.demonstration.next_observations).to(device)
        cells = states.expand(S, *states.shape)
        paid = surrogate_reward(nets.paying, cells, expert.expand(S, *expert.shape)).cpu().numpy()
        tables["cell_reward"] = paid  # of arriving in a cell, [S, 100]
        tables["tdil_reward"] = paid[:, mazes.SUCCESSORS].reshape(S, -1)
    if nets.imitation is not None:
        here = states.repeat_interleave(4, 0)
        action = torch.eye(4, device=device).repeat(100, 1)
        paid = nets.imitation(here.expand(S, *here.shape), action.expand(S, *action.shape))
        tables["irl_reward"] = paid.cpu().numpy()
    return tables


def grid_rows(tables: dict[str, NDArray], tdil: TDILConfig) -> dict[str, NDArray]:
    """What D and the rewards are like on the grid, [S] each.

    The error of D is that against the optimum of the loss it was trained with, for a uniform
    random policy.

    Args:
        tables: of `grid_tables`.
        tdil: kappa, and whether reversed pairs are negatives.
    """
    found = {}
    if "D" in tables:
        D, true = tables["D"], mazes.one_step_pairs()
        exact = mazes.exact_discriminator(tdil.kappa, tdil.hard_negatives)
        adjacent = mazes.neighbours(walled=False)
        found["auc"] = np.array([auc(d[true], d[~true]) for d in D])
        found["d_open"] = D[:, adjacent].mean(axis=1)
        found["d_open_optimum"] = np.full(len(D), exact[adjacent].mean())
        found["d_walled"] = D[:, mazes.neighbours(walled=True)].mean(axis=1)
        found["d_own_error"] = np.abs(D - exact).mean(axis=(1, 2))
        found["d_own_error_true"] = np.abs(D - exact)[:, true].mean(axis=1)
        found["paid_share_tdil"] = paid_share(tables["tdil_reward"])
    if "irl_reward" in tables:
        found["paid_share_irl"] = paid_share(tables["irl_reward"])
    return found


def auc(positive: NDArray, negative: NDArray) -> float:
    """Share of (positive, negative) pairs in the right order, ties for one half."""
    statistic = scipy.stats.mannwhitneyu(positive, negative).statistic
    return float(statistic / (len(positive) * len(negative)))


@torch.no_grad()
def time_gap(D: TransitionDiscriminator, tests: Rollout) -> NDArray:
    """Mean D(s, s') - D(s', s) over the transitions of test episodes. [S]."""
    S, E, L, d = tests.obs.shape
    s, s_next = (torch.from_numpy(x).reshape(S, E * L, d) for x in (tests.obs, tests.next_obs))
    s, s_next = s.to(next(D.parameters()).device), s_next.to(next(D.parameters()).device)
    gap = (D(s, s_next) - D(s_next, s)).view(S, E, L).cpu().numpy()
    return (gap * tests.alive).sum(axis=(1, 2)) / tests.alive.sum(axis=(1, 2))


def rank_correlation(x: NDArray, y: NDArray) -> float | None:
    """Spearman's, None where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(scipy.stats.spearmanr(x, y).statistic)


def curves(
    lines: Sequence[Mapping[str, Any]], task: Task, seeds: Sequence[int], label: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of what training saw on the way, at most 50 points each."""
    rows = []
    for name in (task.score, *CURVES):
        kept = [line for line in lines if name in line]
        kept = kept[:: max(1, len(kept) // 50)]
        steps = [line["step"] for line in kept]
        for i, seed in enumerate(seeds if kept else ()):
            values = [line[name][i] for line in kept]
            found = {"seed": seed, "metric": f"{name}_curve", "step": steps, "value": values}
            rows.append({**label, **found})
    return rows


def evaluate(cfg: EvalConfig) -> None:
    """Write eval.json of a run."""
    run = Run.load(cfg.run)
    trained = run.config(Config)
    device = setup(cfg.device, 0)
    setting, task = resolve(trained), make_task(trained.task)
    seeds = trained.seed
    nets = make_networks(trained, task, device)
    nets.load(run.final()["networks"])
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    given = {name: getattr(trained, name) for name in SWEPT}
    label: dict[str, Any] = {"method": trained.method, "task": trained.task}
    label |= {name: value for name, value in given.items() if value is not None}

    def add(metric: str, values: Any, **labels: object) -> None:
        for seed, value in zip(seeds, values, strict=True):
            value = None if value is None or not np.isfinite(value) else float(value)
            rows.append({**label, "seed": seed, "metric": metric, "value": value, **labels})

    lines = run.metrics()
    rows += curves(lines, task, seeds, label)
    score = np.array([line[task.score] for line in lines], dtype=float)  # [K, S]

    # the last policy, and the one that blind selection kept
    tests = rollout(nets.agent, task, len(seeds), setting.episodes, device)
    for metric, values in task.scores(tests).items():
        add(metric, values)
    if nets.discriminator is not None and nets.selected is not None:
        blind = np.array(
            [line.get("rho_rel", [-np.inf] * len(seeds)) for line in lines], dtype=float
        )
        after = np.isfinite(blind).all(axis=1)  # checkpoints after the warm-up
        add(
            "spearman",
            [rank_correlation(blind[after, i], score[after, i]) for i in range(len(seeds))],
        )
        oracle = score[after].max(axis=0)
        nets.agent.actor.load_state_dict(nets.selected.state_dict())
        selected = rollout(nets.agent, task, len(seeds), setting.episodes, device)
        add(f"{task.score}_blind", task.scores(selected)[task.score])
        add(f"{task.score}_oracle", oracle)
        add("time_gap", time_gap(nets.discriminator, tests))

    # what there is to see
    if isinstance(task, GridTask):
        tables = grid_tables(nets, task)
        for metric, values in grid_rows(tables, setting.tdil).items():
            add(metric, values)
        for name in ("cell_reward", "irl_reward"):
            if name in tables:
                table = tables[name][0].reshape(-1, 100 if name == "cell_reward" else 4)
                data = np.round(table.reshape(10, 10, -1).max(axis=-1), 3).tolist()
                extras.append({"name": name, **label, "seed": seeds[0], "data": data})
    if isinstance(task, SimulatorTask):
        add("expert_return", [float(task.demonstration.rewards.sum())] * len(seeds))
    else:
        track = np.concatenate((tests.obs[0, :, :1], tests.next_obs[0]), axis=1)
        paths = np.round(track[:DRAWN] * 10 + 5, 2).tolist()
        extras.append({"name": "paths", **label, "seed": seeds[0], "data": paths})
    run.write_eval(rows, extras)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
