"""One run: one method, one task, all its seeds in stacked networks.

    python -m papers.bn.train --method bn --task g1 --seed 0 1 2 --out DIR

Tasks: g1, g2, g3 (HyperGrids), g4 (sets; g4-small: rewards divided by e^6), rna, qed (strings).
Loops of their own have tabular (Eq. 2 to the end, without a network: tabular.py), and rna-long and
seh, which are too large to be enumerated (sampled.py).
"""

from __future__ import annotations

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
from common.stacked import seed_generators
from common.torch_utils import setup
from papers.bn.baselines import make_network, needed_rows, pairs_of, policy_layers, used_rate
from papers.bn.config import Config
from papers.bn.method import BifurcatedNet
from papers.bn.methods import METHODS
from papers.bn.task import SAMPLED_TASKS, TASKS, Problem, problem


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    METHODS[cfg.method]  # refuses unknown ones
    choose("task", cfg.task, TASKS)
    if cfg.task in SAMPLED_TASKS:
        from papers.bn.sampled import train_sampled

        train_sampled(cfg)
    elif cfg.task == "tabular":
        if cfg.method != "bn":
            raise UserError("--task tabular solves BN's own equation: use --method bn")
        from papers.bn.tabular import train_tabular

        train_tabular(cfg)
    else:
        train_rows(cfg)


def train_rows(cfg: Config) -> None:
    """On-policy training on an enumerated DAG with exact metrics: every method, every task."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    task = problem(cfg.task, **cfg.sizes()).to(device)
    dag = task.dag
    n_seeds, name, kind = len(cfg.seed), cfg.method, METHODS[cfg.method]
    sizes = (dag.input_dim, dag.n_actions, dag.n_backward, cfg.width)
    net = make_network(name, seed_generators(cfg.seed, 0), *sizes).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if kind.own_log_Z else None
    lr = used_rate(name, cfg.task, cfg.lr)
    optimizer, parameters = adam_with_log_Z(net, log_Z, lr=lr, lr_log_Z=cfg.lr_log_Z)
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, task.n_modes, dtype=torch.bool, device=device)
    seen = torch.zeros(n_seeds, dag.n_states, dtype=torch.bool, device=device)
    reward_sum = torch.zeros(n_seeds, dtype=torch.float64, device=device)  # since last evaluation
    as_table = dag.n_states <= cfg.table_limit
    kept = run.keep(
        net=net,
        optimizer=optimizer,
        log_Z=log_Z,
        generators=generators,
        found=found,
        seen=seen,
        reward_sum=reward_sum,
        in_sum=0,
    )

    def log_pf() -> Tensor:
        if kind.objective is None:
            return uniform_log_pf(dag).expand(n_seeds, -1, -1)
        return log_pf_of_all_rows(net, dag)

    def results() -> dict[str, object]:
        p_terminal = terminating_distribution(dag, log_pf())
        return {
            "p_terminal": p_terminal.float().cpu() if task.side else torch.zeros(0),
            "n_parameters": sum(p[0].numel() for p in parameters) if kind.objective else 0,
            "log_Z_exact": dag.log_Z,
        }

    for step in run.steps(cfg.steps, then=results):
        u = uniforms(generators, (dag.max_length, cfg.batch))
        if kind.objective is None:
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

        kept.found = metrics.mark_regions(kept.found, task.mode[traj.last])
        seen.scatter_(1, traj.last, True)
        reward_sum += dag.log_reward[traj.last].exp().sum(-1)
        kept.in_sum += cfg.batch
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            run.log(
                step + 1,
                l1_sum_exact=metrics.l1_sum_exact(dag, log_pf()).tolist(),
                modes=kept.found.sum(-1).tolist(),
                distinct=seen.sum(-1).tolist(),
                mean_reward=(reward_sum / kept.in_sum).tolist(),
                loss=loss.tolist(),
                log_Z=log_partition(name, net, task, log_Z).tolist(),
            )
            reward_sum.zero_()
            kept.in_sum = 0


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
    """What the method believes log Z to be; nothing for one that is not trained. [S]."""
    dag, kind = task.dag, METHODS[name]
    if kind.objective is None:
        return torch.zeros(0)
    if log_Z is not None:
        return log_Z
    out = net(dag.encode(torch.tensor([dag.source])))[:, 0]
    if kind.flow:
        return out[..., -1]
    return torch.logsumexp(out[:, dag.forward_mask[dag.source]], -1)  # of the edge flows


if __name__ == "__main__":
    run_cli(train, Config)
