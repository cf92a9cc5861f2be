"""One run: one method, one task, all its seeds in stacked networks.

    python -m papers.bn.train --method bn --task g1 --seed 0 1 2 --out DIR

Tasks: g1, g2, g3 (HyperGrids), g4 (sets), rna, qed (strings), tabular (Eq. 2 to the end, without a
network); rna-long and seh, which are too large to be enumerated (sampled.py has their loop).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn.exact import terminating_distribution, uniform_log_pf
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.objectives import loss_per_seed
from common.gfn.rollout import sample_compiled
from common.gfn.rows import part_of, sample_rows, whole
from common.gfn.sampling import Trajectories, masked_log_softmax, sample_from_table, uniforms
from common.run import Run
from common.stacked import adam, generator_states, restore_generators, seed_generators
from common.torch_utils import setup
from papers.bn.baselines import (
    LR_LOG_Z,
    METHODS,
    make_network,
    needed_rows,
    pairs_of,
    policy_layers,
    used_rate,
)
from papers.bn.method import BifurcatedNet, full_batch_loss, log_allocation
from papers.bn.task import SAMPLED_TASKS, TASKS, Problem, grid_problem, problem


@dataclass
class Config:
    """One training run (a stack of seeds)."""

    method: str = "bn"  # bn, bn-flat, fm, db, tb, stb, uniform
    task: str = "g1"  # g1, g2, g3, g4, rna, qed, tabular, rna-long, seh
    seed: tuple[int, ...] = (0,)  # seeds, trained side by side
    seed_offset: int = 0  # added to each seed; the tuning uses 100, the claims 0
    out: Path = Path("runs/scratch")  # run directory
    device: str = "cpu"  # cpu or cuda
    steps: int = 2000  # gradient steps
    batch: int = 16  # trajectories per step and seed [public code: 16 grids, 16-32 strings]
    eval_every: int = 50  # steps between evaluations
    lr: float | None = None  # Adam (default: as tuned for the method and the task)
    lr_log_Z: float = LR_LOG_Z  # of TB's log Z [public code: 0.1 on grids]
    ndim: int | None = None  # grid: D (default: the task's)
    height: int | None = None  # grid: H (default: the task's)
    reward: str | None = None  # grid: reward setting (default: standard-3, i.e. R0 = 1e-3)
    length: int | None = None  # strings: L (default: 8 letters, 4 blocks)
    table_limit: int = 256  # up to this many states, one forward pass over all per step
    uniform_samples: int = 100_000  # rna-long: strings that set the threshold of a mode
    fragments: str = "blocks_PDB_105.json"  # seh: fragment list in $PAPERS_DATA/seh
    proxy: str = "seh_proxy.npz"  # seh: proxy weights in $PAPERS_DATA/seh
    width: int = 256  # of the hidden layers
    max_blocks: int = 8  # seh: fragments per molecule [public code]

    def sizes(self) -> dict[str, Any]:
        """The sizes given on the command line, None where the task's own are kept."""
        return {name: getattr(self, name) for name in ("ndim", "height", "length", "reward")}


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    if cfg.task in SAMPLED_TASKS:
        from papers.bn.sampled import train_sampled

        train_sampled(cfg)
    elif cfg.task == "tabular":
        if cfg.method != "bn":
            raise UserError("--task tabular solves BN's own equation: use --method bn")
        train_tabular(cfg)
    else:
        train_rows(cfg)


def train_tabular(cfg: Config) -> None:
    """Claim bn1: Eq. 2 over all states and terminal copies, one number per factor, float64."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup("cpu", cfg.seed[0])
    dag = grid_problem(cfg.ndim or 2, cfg.height or 8, cfg.reward or "standard-1").dag
    log_flow, logits = tabular_start(cfg.seed, dag.n_states, dag.n_actions)
    # a shorter memory of the squares than Adam's usual 0.999: 1e-6 instead of 1e-4 in these steps
    optimizer = adam([{"params": [log_flow, logits], "betas": (0.9, 0.99)}])
    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        log_flow.data.copy_(state["log_flow"])
        logits.data.copy_(state["logits"])
        optimizer.load_state_dict(state["optimizer"])

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "log_flow": log_flow.data,
            "logits": logits.data,
            "optimizer": optimizer.state_dict(),
        }

    while step < cfg.steps:
        for group in optimizer.param_groups:  # from 0.1 to 1e-4, evenly in the logarithm
            group["lr"] = 0.1 * 1e-3 ** (step / cfg.steps)
        loss = full_batch_loss(dag, log_flow, logits)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            policy = log_allocation(logits.detach(), dag.forward_mask)
            run.log(
                step,
                l1_sum_exact=metrics.l1_sum_exact(dag, policy).tolist(),
                log_Z_error=(log_flow[:, dag.source].detach() - dag.log_Z).abs().tolist(),
                loss=loss.tolist(),
            )
        if run.due(step):
            run.save(step, checkpoint())
    run.finish(checkpoint())


def tabular_start(
    seeds: tuple[int, ...], n_states: int, n_actions: int
) -> tuple[nn.Parameter, nn.Parameter]:
    """Standard normal log F [S, N] and allocation logits [S, N, A], float64."""
    flows, logits = [], []
    for generator in seed_generators(seeds, 0):
        flows.append(torch.randn(n_states, generator=generator, dtype=torch.float64))
        logits.append(torch.randn(n_states, n_actions, generator=generator, dtype=torch.float64))
    return nn.Parameter(torch.stack(flows)), nn.Parameter(torch.stack(logits))


def train_rows(cfg: Config) -> None:
    """On-policy training on an enumerated DAG with exact metrics: every method, every task."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    task = problem(cfg.task, **cfg.sizes()).to(device)
    dag = task.dag
    n_seeds, name = len(cfg.seed), cfg.method
    seeds = tuple(seed + cfg.seed_offset for seed in cfg.seed)
    net = make_network(
        name,
        seed_generators(seeds, 0),
        dag.input_dim,
        dag.n_actions,
        dag.n_backward,
        cfg.width,
    ).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if name == "tb" else None
    lr = used_rate(name, cfg.task, cfg.lr)
    optimizer, parameters = adam_with_log_Z(net, log_Z, lr=lr, lr_log_Z=cfg.lr_log_Z)
    generators = seed_generators(seeds, 1, device)
    found = torch.zeros(n_seeds, task.n_modes, dtype=torch.bool, device=device)
    seen = torch.zeros(n_seeds, dag.n_states, dtype=torch.bool, device=device)
    reward_sum = torch.zeros(n_seeds, dtype=torch.float64, device=device)  # since last evaluation
    in_sum = 0
    as_table = dag.n_states <= cfg.table_limit

    step = 0
    state = run.restore()
    if state:
        step = state["step"]
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        if log_Z is not None:
            log_Z.data.copy_(state["log_Z"])
        restore_generators(generators, state["generators"])
        found, seen = state["found"].to(device), state["seen"].to(device)
        reward_sum, in_sum = state["reward_sum"].to(device), state["in_sum"]

    def checkpoint() -> dict[str, object]:
        return {
            "step": step,
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "log_Z": None if log_Z is None else log_Z.data,
            "generators": generator_states(generators),
            "found": found,
            "seen": seen,
            "reward_sum": reward_sum,
            "in_sum": in_sum,
        }

    log_pf = uniform_log_pf(dag).expand(n_seeds, -1, -1)  # what is not trained
    while step < cfg.steps:
        u = uniforms(generators, (dag.max_length, cfg.batch))
        if name == "uniform":
            traj = sample_rows(dag, lambda rows: torch.zeros(*rows.shape, dag.n_actions), u)
            loss = torch.zeros(n_seeds)
        else:
            if as_table:
                part = whole()
                out = net(dag.encode(torch.arange(dag.n_states, device=device)))
                policy = masked_log_softmax(out[..., : dag.n_actions].detach(), dag.forward_mask)
                traj = sample_from_table(dag, policy, u)
            else:
                traj = sample_batch(net, task, u)
                part = part_of(needed_rows(name, dag, traj))
                out = net.from_active_inputs(dag.active[part.rows])
            loss = loss_per_seed(pairs_of(name, dag, part, out, traj, log_Z))
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()

        found = metrics.mark_regions(found, task.mode[traj.last])
        seen.scatter_(1, traj.last, True)
        reward_sum += dag.log_reward[traj.last].exp().sum(-1)
        in_sum += cfg.batch
        step += 1
        if step % cfg.eval_every == 0 or step == cfg.steps:
            if name != "uniform":
                log_pf = log_pf_of_all_rows(net, dag)
            run.log(
                step,
                l1_sum_exact=metrics.l1_sum_exact(dag, log_pf).tolist(),
                modes=found.sum(-1).tolist(),
                distinct=seen.sum(-1).tolist(),
                mean_reward=(reward_sum / in_sum).tolist(),
                loss=loss.tolist(),
                log_Z=log_partition(name, net, task, log_Z).tolist(),
            )
            reward_sum, in_sum = torch.zeros_like(reward_sum), 0
        if run.due(step):
            run.save(step, checkpoint())

    p_terminal = terminating_distribution(dag, log_pf)
    final = {
        "p_terminal": p_terminal.float().cpu() if task.side else torch.zeros(0),
        "n_parameters": sum(p[0].numel() for p in parameters),
        "log_Z_exact": dag.log_Z,
    }
    run.finish({**checkpoint(), **final})


@torch.no_grad()
def sample_batch(net: BifurcatedNet | StackedMLP, task: Problem, u: Tensor) -> Trajectories:
    """On-policy trajectories of row numbers: compiled on a CPU where that is possible."""
    if task.moves is None or task.index is None or u.device.type != "cpu":
        active, n_actions = task.dag.active, task.dag.n_actions

        def logits(rows: Tensor) -> Tensor:
            return net.from_active_inputs(active[rows])[..., :n_actions]

        return sample_rows(task.dag, logits, u, epsilon=task.epsilon)
    traj = sample_compiled(task.moves, policy_layers(net), u, epsilon=task.epsilon)
    rows = task.index(traj.states)
    return Trajectories(states=rows, actions=traj.actions, mask=traj.mask, last=rows[..., -1])


@torch.no_grad()
def log_pf_of_all_rows(net: BifurcatedNet | StackedMLP, dag, chunk: int = 8192) -> Tensor:
    """The policy in every state that has an action, zero elsewhere. [S, N, A]."""
    parts = []
    acting = dag.forward_mask.any(-1).nonzero().squeeze(-1)
    for rows in acting.split(chunk):
        parts.append(net(dag.encode(rows))[..., : dag.n_actions])
    logits = torch.cat(parts, 1)
    table = logits.new_zeros(len(logits), dag.n_states, dag.n_actions)
    table[:, acting] = masked_log_softmax(logits, dag.forward_mask[acting])
    return table


@torch.no_grad()
def log_partition(
    name: str, net: BifurcatedNet | StackedMLP, task: Problem, log_Z: Tensor | None
) -> Tensor:
    """What the method believes log Z to be. [S]."""
    dag = task.dag
    if log_Z is not None:
        return log_Z
    if name == "uniform":
        return torch.zeros(0)
    out = net(dag.encode(torch.tensor([dag.source])))[:, 0]
    if name == "fm":
        return torch.logsumexp(out[:, dag.forward_mask[dag.source]], -1)
    return out[:, -1]


if __name__ == "__main__":
    run_cli(train, Config)
