"""Claim bn1: Eq. 2 solved to the end, one number per factor, without a network."""

from __future__ import annotations

import torch
from torch import nn

from common.gfn import metrics
from common.run import Run
from common.stacked import adam, seed_generators
from common.torch_utils import setup
from papers.bn.config import Config
from papers.bn.method import full_batch_loss, log_allocation
from papers.bn.task import grid_problem


def train_tabular(cfg: Config) -> None:
    """Eq. 2 over all states and terminal copies, one number per factor, float64."""
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    setup("cpu", cfg.seed[0])
    dag = grid_problem(cfg.ndim or 2, cfg.height or 8, cfg.reward or "standard-1").dag
    log_flow, logits = tabular_start(cfg.seed, dag.n_states, dag.n_actions)
    # a shorter memory of the squares than Adam's usual 0.999: 1e-6 instead of 1e-4 in these steps
    optimizer = adam([{"params": [log_flow, logits], "betas": (0.9, 0.99)}])
    run.keep(log_flow=log_flow, logits=logits, optimizer=optimizer)

    for step in run.steps(cfg.steps):
        for group in optimizer.param_groups:  # from 0.1 to 1e-4, evenly in the logarithm
            group["lr"] = 0.1 * 1e-3 ** (step / cfg.steps)
        loss = full_batch_loss(dag, log_flow, logits)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        if (step + 1) % cfg.eval_every == 0 or step + 1 == cfg.steps:
            policy = log_allocation(logits.detach(), dag.forward_mask)
            run.log(
                step + 1,
                l1_sum_exact=metrics.l1_sum_exact(dag, policy).tolist(),
                log_Z_error=(log_flow[:, dag.source].detach() - dag.log_Z).abs().tolist(),
                loss=loss.tolist(),
            )


def tabular_start(
    seeds: tuple[int, ...], n_states: int, n_actions: int
) -> tuple[nn.Parameter, nn.Parameter]:
    """Standard normal log F [S, N] and allocation logits [S, N, A], float64."""
    flows, logits = [], []
    for generator in seed_generators(seeds, 0):
        flows.append(torch.randn(n_states, generator=generator, dtype=torch.float64))
        logits.append(torch.randn(n_states, n_actions, generator=generator, dtype=torch.float64))
    return nn.Parameter(torch.stack(flows)), nn.Parameter(torch.stack(logits))
