"""One run: a score model on a data set, all seeds and all weights of the regulariser stacked.

Members of the stack that share a seed share initial weights, data, noise and sign vectors; they
differ in lambda alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.cli import run_cli
from common.ema import Ema
from common.errors import UserError
from common.run import Run
from common.score import noise_level
from common.stacked import (
    adam,
    clip_grad_norm_per_seed,
    rademacher,
    rand,
    randn,
    seed_generators,
)
from common.torch_utils import setup
from papers.qcsgm.config import Config, members
from papers.qcsgm.method import dsm_loss, qc_loss
from papers.qcsgm.networks import NCSNpp, make_network, make_score
from papers.qcsgm.task import SETTINGS, Data, pretrained


def train(cfg: Config) -> None:
    """L_Total = L_SM + lambda sigma^2 L_QC on a data set, or go on from the last checkpoint."""
    model, setting = cfg.model, SETTINGS[cfg.task]
    run = Run.open(cfg.out, cfg)
    device = setup(cfg.device, 0)
    steps, B = cfg.steps or setting.steps, cfg.batch or setting.batch
    lr = setting.lr if cfg.lr is None else cfg.lr
    after = setting.regularise_after if cfg.regularise_after < 0 else cfg.regularise_after
    stack = members(cfg)
    seeds = [seed for seed, _ in stack]
    lam = torch.tensor([lam for _, lam in stack], device=device)

    if model.exact:  # nothing to train
        run.keep()
        return run.finish(net={}, settings={})
    data = Data(cfg.task, device)
    net = make_network(cfg, seeds).to(device)
    score = make_score(cfg, net)
    parameters = [p for p in net.parameters() if p.requires_grad]
    # NCSN++ is no stack: its parameters have no leading axis of members
    clip = clip_grad_norm_per_seed if data.stacks else nn.utils.clip_grad_norm_
    optimiser = adam([{"params": parameters}], lr=lr)
    ema = Ema(parameters, setting.ema, warm_up=setting.ema > 0)
    draws = seed_generators(seeds, 1)  # data, noise levels, noise
    signs = seed_generators(seeds, 2)  # v alone, so that lambda = 0 is U
    settings = net.settings if isinstance(net, NCSNpp) else {}
    kept = run.keep(
        net=net,
        optimiser=optimiser,
        ema=ema,
        draws=draws,
        signs=signs,
        settings=dict(settings),  # restored in place: a copy, to be compared
    )
    if kept.settings != settings:
        raise UserError(
            f"the run in {cfg.out} has another NCSN++ than {pretrained(cfg.task)} now describes; "
            "put back its config.json or choose another --out"
        )

    def averaged() -> dict[str, Any]:
        with ema.swapped():
            return {"net": {name: value.clone() for name, value in net.state_dict().items()}}

    for step in run.steps(steps, then=averaged, drop=("optimiser", "ema", "draws", "signs")):
        if setting.warm_up:
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / setting.warm_up)
        x_0 = data.batch(draws, B)  # [S, B, D]
        t = setting.t_min + (1 - setting.t_min) * rand(draws, B, 1)
        sigma = noise_level(t, setting.sigma_min, setting.sigma_max).to(device)
        z = randn(draws, B, data.dim).to(device)
        x = x_0 + sigma * z

        if model.regulariser and step >= after:
            v = None
            if model.regulariser == "estimate":
                v = rademacher(signs, cfg.slices, B, data.dim).to(device)
            s, regulariser = qc_loss(score, x, sigma, v)
        else:
            s, regulariser = score(x, sigma), torch.zeros(len(stack), B, device=device)
        matching = setting.matching * dsm_loss(s, sigma, z).mean(-1)  # L_SM [S]
        regulariser = regulariser.mean(-1)  # sigma^2 L_QC [S]
        loss = matching + lam * regulariser

        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        norm = clip(parameters, cfg.clip)
        optimiser.step()
        ema.update()
        done = step + 1
        if done % 100 == 0 or done == steps:
            run.log(done, matching=matching, regulariser=regulariser, gradient_norm=norm)


if __name__ == "__main__":
    run_cli(train, Config)
