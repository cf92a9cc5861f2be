"""One run: one learner (``--method``) on one task, all its seeds in stacked networks.

    python -m papers.rpe.train --method rpe --task rna1-dag --seed 0 1 2 --out DIR

``--method exact`` runs the tables of a task: policy evaluation, flow iteration, path factors.
The loop is the same for all learners: roll out, loss, Adam step, now and then the policy learned.
Tasks are tables (enumerated.py) or, at paper scale, strings of 14 letters (large.py).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn.nets import StackedMLP, adam_with_log_Z
from common.gfn.sampling import uniforms
from common.run import Run
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.rpe import method
from papers.rpe.config import Config
from papers.rpe.enumerated import EnumeratedTask
from papers.rpe.large import LargeStrings
from papers.rpe.learners import dqn_loss, gflownet_loss
from papers.rpe.methods import METHODS
from papers.rpe.tabular import exact_results
from papers.rpe.task import ENUMERATED, GRID, LARGE, TASKS, make_dag


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    learner = METHODS[cfg.method]
    choose("task", cfg.task, TASKS)
    if learner.kind == "tables":
        return tabulate(cfg)
    if cfg.task == GRID:
        raise UserError("the grid has path-dependent factors; only --method exact goes with it")
    if cfg.task in LARGE and len(cfg.seed) > 1:
        raise UserError(f"{cfg.task} takes one seed per run")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device, n_seeds = setup(cfg.device, cfg.seed[0]), len(cfg.seed)
    world: EnumeratedTask | LargeStrings
    if cfg.task in LARGE:
        world = LargeStrings(cfg.task, device, n_reference=cfg.reference)
    else:
        world = EnumeratedTask(cfg.task, cfg.sizes, device)

    n_outputs = learner.n_outputs(world.n_actions, world.n_backward)
    sizes = (world.input_dim, cfg.hidden, cfg.hidden, n_outputs)
    net = StackedMLP(seed_generators(cfg.seed, 0), sizes).to(device)
    target_net = deepcopy(net).requires_grad_(False)
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device))
    optimizer, parameters = adam_with_log_Z(
        net, log_Z if learner.own_log_Z else None, lr=cfg.lr, lr_log_Z=cfg.lr_log_Z
    )
    generators = seed_generators(cfg.seed, 1, device)
    eval_generators = seed_generators(cfg.seed, 2, device)
    log_c = torch.zeros(n_seeds, dtype=torch.float64, device=device)  # RPE's unit of V
    if learner.kind == "rpe":  # set by a batch of its own
        u = uniforms(generators, (world.max_length, cfg.batch))
        traj, dag = world.rollout(net, learner, u)
        log_c = method.log_scale(method.log_terminal_targets(dag, traj, learner.rectified))
        net.layers[-1].bias.data.zero_()
    kept = run.keep(
        net=net,
        target_net=target_net,
        optimizer=optimizer,
        log_Z=log_Z,
        log_c=log_c,
        generators=generators,
        eval_generators=eval_generators,
        found=world.no_modes(n_seeds),
        reward_calls=cfg.batch if learner.kind == "rpe" else 0,
    )

    for step in run.steps(cfg.steps, then=lambda: world.results(net, learner, log_c)):
        u = uniforms(generators, (world.max_length, cfg.batch))
        traj, dag = world.rollout(net, learner, u)
        kept.reward_calls += cfg.batch
        if learner.kind == "rpe":
            rectified, space = learner.rectified, learner.loss_space
            loss = method.rpe_loss(net, dag, traj, log_c, rectified=rectified, space=space)
        elif learner.kind == "dqn":
            loss = dqn_loss(net, target_net, dag, traj, learner, cfg.leaf_coefficient)
        else:
            loss = gflownet_loss(net, dag, traj, learner, log_Z, cfg.lam)
        optimizer.zero_grad()
        loss.sum().backward()
        clip_grad_norm_per_seed(parameters, cfg.grad_clip)
        optimizer.step()
        if learner.kind == "dqn" and (step + 1) % cfg.target_every == 0:
            with torch.no_grad():
                for slow, fast in zip(target_net.parameters(), net.parameters(), strict=True):
                    slow.lerp_(fast, cfg.target_rate)

        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            n = cfg.eval_samples * (step % cfg.eval_every + 1)
            u = uniforms(eval_generators, (world.max_length, n))
            values, kept.found = world.evaluate(net, learner, u, kept.found, log_Z, log_c)
            run.log(
                step + 1,
                loss=loss.detach().tolist(),
                reward_calls=kept.reward_calls,
                **{name: value.tolist() for name, value in values.items()},
            )


def tabulate(cfg: Config) -> None:
    """The exact results of an enumerated task."""
    if cfg.task not in (*ENUMERATED, GRID):
        raise UserError(f"{cfg.task} is too large for tables")
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup(cfg.device, cfg.seed[0])
    run.finish(exact=exact_results(make_dag(cfg.task, cfg.sizes)))


if __name__ == "__main__":
    run_cli(train, Config)
