"""One run: one loss (``--method``), one experiment (``--task``), all its seeds in stacked networks.

    python -m papers.gfn_losses.train --method linex1 --task grid-tb --seed 0 1 2 --out DIR

Tasks: grid-* and control-* (HyperGrid, the loop below), theory (below), bits-* (train_bits.py),
mols-stb (molecules.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn import metrics
from common.gfn.coordinates import sample_states, visit_distinct, visit_states
from common.gfn.dag import EnumeratedDAG
from common.gfn.exact import terminating_distribution
from common.gfn.hypergrid import HyperGrid
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.rollout import CompiledTrajectories
from common.gfn.rows import visit, whole
from common.gfn.sampling import masked_log_softmax, sample_from_table, uniforms
from common.run import Run
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.gfn_losses.config import Config
from papers.gfn_losses.grid import grid_loss, l1_mean_empirical, log_pf_of_all_states
from papers.gfn_losses.method import SLOPE_CLIP
from papers.gfn_losses.methods import METHODS
from papers.gfn_losses.task import (
    BIT_TASKS,
    GRID_TASKS,
    MOLECULE_TASKS,
    TASKS,
    grid_spec,
    theory_errors,
)
from papers.gfn_losses.train_bits import train_bits

ALL = "all"  # --method of the task theory, which checks every loss of the table


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("task", cfg.task, TASKS)
    choose("method", cfg.method, (*METHODS, ALL))
    if (cfg.method == ALL) != (cfg.task == "theory"):
        raise UserError("--method all goes with --task theory, and no other method does")
    if cfg.task in MOLECULE_TASKS:
        from papers.gfn_losses.molecules import train_molecules  # needs RDKit

        train_molecules(cfg)
    elif cfg.task in BIT_TASKS:
        train_bits(cfg)
    elif cfg.task in GRID_TASKS:
        train_grid(cfg)
    else:
        train_theory(cfg)


def train_theory(cfg: Config) -> None:
    """Experiment C: relative gradient errors of Theorem 1 in float64."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    errors = {
        name: [[dag, part, error] for dag, part, error in theory_errors(method.loss)]
        for name, method in METHODS.items()
    }
    run.finish(errors=errors)


def train_grid(cfg: Config) -> None:
    """Experiment A and its control: on-policy training on a HyperGrid, exact metrics."""
    loss = METHODS[cfg.method].loss
    name = cfg.task.split("-", 1)[1]
    clip = SLOPE_CLIP if cfg.slope_clip is None else cfg.slope_clip
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, cfg.seed[0])
    spec = grid_spec(cfg.task, cfg.ndim, cfg.height, cfg.reward)
    env = spec.env(device)
    dag = env.dag().to(device)
    n_seeds, n_states = len(cfg.seed), env.n_states
    all_states = env.all_states()
    encoded = env.encode(all_states) if n_states <= cfg.table_limit else None
    regions = env.region(all_states)

    # one torso with the heads P_F, P_B (learned) and F; FM: edge flows instead of P_F, no P_B
    n_out = env.n_actions + env.n_backward + 1
    init = seed_generators(cfg.seed, 0)
    net = StackedMLP(init, (env.input_dim, spec.hidden, spec.hidden, n_out)).to(device)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device)) if name == "tb" else None
    lr, grad_clip = cfg.lr or spec.lr, cfg.grad_clip or spec.grad_clip(name)
    optimizer, parameters = adam_with_log_Z(net, log_Z, lr=lr, lr_log_Z=spec.lr_log_Z)
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, 2**env.ndim, dtype=torch.bool, device=device)
    recent = torch.zeros(n_seeds, 500 * cfg.batch, dtype=torch.long, device=device)  # row numbers

    kept = run.keep(
        net=net,
        optimizer=optimizer,
        log_Z=log_Z,
        generators=generators,
        found=found,
        recent=recent,
    )

    for step in run.steps(cfg.steps, then=lambda: results(net, env, dag, recent, cfg)):
        u = uniforms(generators, (env.max_length, cfg.batch))
        if encoded is not None:
            out = net(encoded)  # [S, N, out]
            policy = masked_log_softmax(out[..., : env.n_actions].detach(), dag.forward_mask)
            traj = sample_from_table(dag, policy, u)
            visited = visit(dag, whole(), out, traj, fm=name == "fm")
            objects = traj.last
        else:
            traj = sample_states(net, env, u)
            if cfg.reuse and isinstance(traj, CompiledTrajectories) and name != "fm":
                visited = visit_distinct(net, env, traj, flow=name != "tb")
            else:
                of_states = name.startswith(("fl-", "modified-"))
                visited = visit_states(net, env, traj, fm=name == "fm", reward_of_states=of_states)
            objects = env.index(traj.last)
        surrogate, logged = grid_loss(name, visited, traj, env.stop, log_Z, spec.lam, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        norms = clip_grad_norm_per_seed(parameters, grad_clip)
        optimizer.step()

        kept.found = metrics.mark_regions(kept.found, regions[objects])
        metrics.remember(recent, objects, step)
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            l1 = metrics.l1_sum_exact(dag, log_pf_of_all_states(net, env, dag))
            run.log(
                step + 1,
                l1_sum_exact=l1.tolist(),
                regions=kept.found.sum(-1).tolist(),
                loss=logged.tolist(),
                grad_norm=norms.tolist(),
                log_Z=[] if log_Z is None else log_Z.tolist(),
            )


def results(
    net: StackedMLP, env: HyperGrid, dag: EnumeratedDAG, recent: Tensor, cfg: Config
) -> dict[str, Any]:
    """What is measured once at the end: empirical L1, and the distribution of a small grid."""
    seen = min(cfg.steps * cfg.batch, recent.shape[1])
    p_terminal = terminating_distribution(dag, log_pf_of_all_states(net, env, dag))
    target = dag.target().cpu()
    small = env.n_states <= 1024
    return {
        "l1_mean_empirical": l1_mean_empirical(recent[:, :seen].cpu(), target).tolist(),
        "p_terminal": p_terminal.float().cpu() if small else torch.zeros(0),
        "target": target.float() if small else torch.zeros(0),
        "n_regions": 2**env.ndim,
        "ndim": env.ndim,
        "height": env.height,
    }


if __name__ == "__main__":
    run_cli(train, Config)
