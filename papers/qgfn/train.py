"""One run: one method, one task, all its seeds in stacked networks.

    python -m papers.qgfn.train --method p-of-max --task bits --seed 0 1 2 --out DIR

Tasks: bits, rna, qed, qm9str (below); seh has its own loop in molecules.py.
"""

from __future__ import annotations

import torch
from torch import nn

from common.cli import run_cli
from common.errors import UserError, choose
from common.gfn.nets import adam_with_log_Z
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import setup
from papers.qgfn.config import Config, exponent, make_networks, make_task, rates
from papers.qgfn.learning import Tally, behaviour, decay, learn
from papers.qgfn.method import ramp, update_lagged
from papers.qgfn.methods import METHODS
from papers.qgfn.task import TASKS


def train(cfg: Config) -> None:
    """Trains and finishes the run directory; goes on from its last checkpoint."""
    choose("method", cfg.method, METHODS)
    choose("task", cfg.task, TASKS)
    choose("objective", cfg.objective, ("tb", "stb"))
    if not all(0 <= p <= 1 for p in (*cfg.sweep, cfg.p or 0.0)):
        raise UserError("--p and --sweep are greedinesses: numbers from 0 to 1")
    if cfg.task == "seh":
        from papers.qgfn.molecules import train_molecules  # needs RDKit

        train_molecules(cfg)
    else:
        train_strings(cfg)


def train_strings(cfg: Config) -> None:
    """All methods on strings: sample from mu, learn P_F on R^beta and Q on R."""
    method = METHODS[cfg.method]
    task = make_task(cfg)
    env = task.env
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, cfg.seed[0])
    env.device = device
    n_seeds, beta = len(cfg.seed), exponent(cfg, task.beta)
    greediness = method.p if cfg.p is None else cfg.p
    ramp_steps = round(cfg.ramp_share * cfg.steps) if method.ramps else 0
    n = cfg.n or method.n or env.length  # the length: Monte Carlo, no bootstrap, no lagged Q

    nets = lagged = follower = optimizer = None
    log_Z = nn.Parameter(torch.zeros(n_seeds, device=device))
    if method.learns_pf or method.learns_q:
        nets = make_networks(cfg, task).to(device)
        if cfg.sampling_tau > 0:
            follower = make_networks(cfg, task).to(device)
        if method.learns_q and n < env.length:
            lagged = make_networks(cfg, task, policy=False).to(device)
        optimizer, _ = adam_with_log_Z(
            nets,
            log_Z if method.learns_pf and cfg.objective == "tb" else None,
            lr=rates(cfg)[0][0],
            lr_log_Z=cfg.lr_log_Z,
            weight_decay=cfg.weight_decay,
        )
    generators = seed_generators(cfg.seed, 1, device)
    tally = Tally(n_seeds, task, cfg.eval_every * cfg.batch, device)
    run.keep(
        nets=nets,
        lagged=lagged,
        follower=follower,
        optimizer=optimizer,
        log_Z=log_Z,
        generators=generators,
        tally=tally,
    )

    for step in run.steps(cfg.steps):
        p = ramp(greediness, step, ramp_steps)
        u = uniforms(generators, (env.length, cfg.batch))
        mu = behaviour(follower or nets, env, method.mixture, p)
        traj = sample(env, mu, u, epsilon=method.epsilon)
        reward, hits = task.score(traj.last)  # raw R [S, B]
        tally.add(traj.last, reward, hits, step)

        learned = None
        if nets is not None and optimizer is not None:
            learned = learn(
                *(nets, lagged, env, traj),
                reward=reward,
                log_reward=task.log_reward(reward, beta),
                log_Z=log_Z,
                n=n,
                objective=cfg.objective,
                lam=cfg.lam,
            )
            optimizer.zero_grad()
            learned.total().backward()
            clip_grad_norm_per_seed(list(nets.parameters()), cfg.grad_clip)
            decay(optimizer, rates(cfg), step)
            optimizer.step()
            if lagged is not None:
                update_lagged(lagged.values(), nets.values(), cfg.tau_q)
            if follower is not None:
                update_lagged(follower.parameters(), nets.parameters(), cfg.sampling_tau)

        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            n_steps = step % cfg.eval_every + 1
            line = tally.close_window(n_steps * cfg.batch, n_steps)
            more = {}
            if learned is not None:
                more = learned.logged(log_Z, method.mixture if method.ramps else None, p)
            run.log(step + 1, **line, p=p, **more)


if __name__ == "__main__":
    run_cli(train, Config)
