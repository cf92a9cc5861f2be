"""Experiment B, bit sequences: the loop of ``train.py``'s tasks ``bits-*``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.gfn import metrics
from common.gfn.nets import adam_with_log_Z
from common.gfn.sampling import sample, uniforms
from common.run import Run
from common.stacked import clip_grad_norm_per_seed, seed_generators
from common.torch_utils import GlobalRandom, setup
from papers.gfn_losses.bits import (
    BitSequences,
    SlotPolicy,
    bits_loss,
    correlation_on_test_set,
    distinct_fraction,
    mark_modes,
)
from papers.gfn_losses.config import Config
from papers.gfn_losses.method import SLOPE_CLIP
from papers.gfn_losses.methods import METHODS
from papers.gfn_losses.task import BitSpec


def train_bits(cfg: Config) -> None:
    """Experiment B: bit sequences, slots filled in any order."""
    loss = METHODS[cfg.method].loss
    name = cfg.task.split("-", 1)[1]
    clip = SLOPE_CLIP if cfg.slope_clip is None else cfg.slope_clip
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, cfg.seed[0])
    spec = BitSpec(cfg.n_bits, cfg.word_bits, cfg.n_modes, cfg.delta, net=cfg.net)
    modes = spec.modes(device)
    env = modes.env("slots")
    n_seeds = len(cfg.seed)
    policy = SlotPolicy(spec.net, seed_generators(cfg.seed, 0), env, spec.hidden).to(device)
    log_Z_parts = nn.Parameter(torch.zeros(n_seeds, 64, device=device))  # log Z is their sum
    optimizer, parameters = adam_with_log_Z(
        policy,
        log_Z_parts if name == "tb" else None,
        lr=spec.lr,
        lr_log_Z=spec.lr_log_Z,
        weight_decay=spec.weight_decay,
    )
    generators = seed_generators(cfg.seed, 1, device)
    found = torch.zeros(n_seeds, spec.n_modes, dtype=torch.bool, device=device)
    recent = torch.zeros(
        n_seeds, 1000 // cfg.batch * cfg.batch, env.length, dtype=torch.long, device=device
    )

    kept = run.keep(
        policy=policy,
        optimizer=optimizer,
        log_Z_parts=log_Z_parts,
        generators=generators,
        dropout=GlobalRandom(),
        found=found,
        recent=recent,
    )

    policy.train()  # dropout stays on while sampling, as in the authors' code
    for step in run.steps(
        cfg.steps, then=lambda: results(policy, modes, recent, cfg, spec.n_modes)
    ):
        u = uniforms(generators, (env.length, cfg.batch))
        traj = sample(env, lambda s: policy(s)[0], u, epsilon=spec.epsilon)
        log_Z = log_Z_parts.sum(-1)
        surrogate, logged = bits_loss(name, policy, env, traj, log_Z, spec.lam, loss, clip)
        optimizer.zero_grad()
        surrogate.sum().backward()
        clip_grad_norm_per_seed(parameters, spec.grad_clip)
        optimizer.step()

        distances = modes.distances(traj.last)  # [S, B, M]
        kept.found = mark_modes(kept.found, distances, spec.delta)
        metrics.remember(recent, traj.last, step)
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            run.log(
                step + 1,
                modes=kept.found.sum(-1).tolist(),
                distance=distances.min(-1).values.mean(-1).tolist(),
                loss=logged.tolist(),
                log_Z=log_Z.tolist(),
            )


def results(
    policy: SlotPolicy, modes: BitSequences, recent: Tensor, cfg: Config, n_modes: int
) -> dict[str, Any]:
    """What is measured once at the end: rank correlation, and whether a seed has collapsed."""
    policy.eval()
    n_seeds = len(cfg.seed)
    rng = torch.Generator().manual_seed(0)  # the same backward samples for every loss
    finite = [
        all(bool(torch.isfinite(p[s]).all()) for p in policy.parameters()) for s in range(n_seeds)
    ]
    seen = min(cfg.steps * cfg.batch, recent.shape[1])
    distinct = [distinct_fraction(recent[s, :seen]) for s in range(n_seeds)]
    return {
        "spearman": correlation_on_test_set(policy, modes.env("slots"), modes, n_seeds, rng),
        "distinct": distinct,
        "collapsed": [bool(d < 0.05) or not f for d, f in zip(distinct, finite, strict=True)],
        "n_modes": n_modes,
    }
