"""A run directory -> rows of metrics.

python -m papers.bn.eval --run DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cli import run_cli
from common.gfn.dag import EnumeratedDAG
from common.gfn.nets import StackedMLP
from common.run import Run
from papers.bn.baselines import used_rate
from papers.bn.config import Config
from papers.bn.method import BifurcatedNet, log_allocation, split_streams
from papers.bn.methods import METHODS
from papers.bn.task import ROW_TASKS, SAMPLED_TASKS, Problem, problem
from papers.bn.trained import restore_network

LAST = 5  # final L1 = mean of the last evaluations
TOP_K = 100  # objects whose diversity is measured
CURVES = ("l1_sum_exact", "modes", "distinct", "mean_reward")


@dataclass
class EvalConfig:
    """Evaluate one finished run."""

    run: Path  # run directory
    device: str = "cpu"  # unused: the curves were measured exactly while training


def evaluate(cfg: EvalConfig) -> None:
    """Writes eval.json: one curve or number per seed."""
    run = Run.load(cfg.run)
    config = run.config(Config)
    final, lines = run.final(), run.metrics()
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    method, task = config.method, config.task
    kind = METHODS[method]
    steps = [line["step"] for line in lines]
    labels = {"lr": used_rate(method, task, config.lr)}

    def add(seed: int, metric: str, value: Any, **more: Any) -> None:
        row = {"method": method, "task": task, "seed": seed, "metric": metric, "value": value}
        rows.append({**row, **labels, **more})

    def extra(name: str, data: Any) -> None:
        extras.append(
            {"name": name, "method": method, "task": task, "seed": config.seed[0], "data": data}
        )

    def curve(i: int, key: str) -> list[float]:
        return [line[key][i] for line in lines]

    if task == "tabular":
        for i, seed in enumerate(config.seed):
            for key in ("l1_sum_exact", "log_Z_error", "loss"):
                add(seed, key, curve(i, key), step=steps)
            add(seed, "l1_end", lines[-1]["l1_sum_exact"][i])
            add(seed, "log_Z_error_end", lines[-1]["log_Z_error"][i])
    if task in ROW_TASKS:
        where = problem(task, **config.sizes())
        for i, seed in enumerate(config.seed):
            for key in CURVES:
                add(seed, key, curve(i, key), step=steps)
            l1 = curve(i, "l1_sum_exact")
            add(seed, "area", float(np.mean(l1)))
            add(seed, "l1_final", float(np.mean(l1[-LAST:])))
            add(seed, "modes_found", curve(i, "modes")[-1])
            add(seed, "modes_area", float(np.mean(curve(i, "modes"))))
            add(seed, "distinct_objects", curve(i, "distinct")[-1])
            if kind.objective:
                add(seed, "log_Z_error", abs(curve(i, "log_Z")[-1] - final["log_Z_exact"]))
            for key, value in best_objects(where, final["seen"][i], task).items():
                add(seed, key, value)
        first = config.seed[0]
        add(first, "n_modes", where.n_modes)
        add(first, "reward_calls", config.steps * config.batch)
        add(first, "parameters", final["n_parameters"])
        if where.side:
            extra("p_terminal", rounded(final["p_terminal"].mean(0).view(where.side, -1)))
            extra("target", rounded(where.dag.target().view(where.side, -1)))
        if kind.factorised and task in ("g1", "rna", "qed"):
            shares = stream_saliency(restore_network(config, where.dag, final), where.dag)
            gap = 0.5 * (shares[0] - shares[1]).abs().sum(-1).mean(-1)  # [S]
            for i, seed in enumerate(config.seed):
                add(seed, "saliency_gap", float(gap[i]))
            extra("saliency", rounded(shares.mean((1, 2))))
    if task in SAMPLED_TASKS:
        seed = config.seed[0]
        for key in ("mean_score", "top_score", "reward_calls", "loss"):
            add(seed, key, [line[key] for line in lines], step=steps)
        add(seed, "modes_found" if task == "rna-long" else "similarity", final["summary"])
    run.write_eval(rows, extras)


def rounded(values: Tensor) -> list[list[float]]:
    """Three significant digits, for a figure."""
    return [[float(f"{v:.3g}") for v in row] for row in values.tolist()]


def best_objects(where: Problem, seen: Tensor, task: str) -> dict[str, float]:
    """Mean reward of the best distinct objects met, and for molecules their mean distance."""
    rewards = where.dag.log_reward.masked_fill(~seen, -torch.inf)
    top = rewards.topk(min(TOP_K, int(seen.sum())))
    result = {"top_reward": float(top.values.exp().mean())}
    if task == "qed":
        from common.gfn.molecule_strings import BLOCKS, mean_pairwise_distance

        assert where.dag.active is not None
        width = len(BLOCKS) + 1  # the letters of a complete string, from the network's input
        result["top_distance"] = mean_pairwise_distance(
            (where.dag.active[top.indices] % width).tolist()
        )
    return result


def stream_saliency(
    net: BifurcatedNet | StackedMLP, dag: EnumeratedDAG, n_states: int = 512
) -> Tensor:
    """Which places of the input the two outputs of BN look at: [2, S, n, places], sums to one.

    Row 0: |d log F / d x_p|; row 1: the norm over allowed actions of d log A / d x_p, at the input
    x_p that is one at place p. States with a choice, at most ``n_states`` of them, drawn evenly.
    """
    assert dag.active is not None
    acting = (dag.forward_mask.sum(-1) > 1).nonzero().squeeze(-1)
    rng = torch.Generator().manual_seed(0)
    rows = acting[torch.randperm(len(acting), generator=rng)[:n_states].sort().values]
    x = dag.encode(rows).expand(len(next(net.parameters())), -1, -1).clone().requires_grad_()
    logits, log_flow = split_streams(net(x))
    mask = dag.forward_mask[rows]
    log_alloc = log_allocation(logits, mask)
    places = dag.active[rows].expand(len(x), -1, -1)

    def by_place(output: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
        return grad.gather(-1, places)

    of_flow = by_place(log_flow).abs()
    per_action = [by_place(log_alloc[..., a] * mask[:, a]) for a in range(dag.n_actions)]
    of_alloc = torch.stack(per_action).square().sum(0).sqrt()
    both = torch.stack([of_flow, of_alloc])
    return both / both.sum(-1, keepdim=True).clamp(min=1e-12)


if __name__ == "__main__":
    run_cli(evaluate, EvalConfig)
