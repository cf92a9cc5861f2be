"""QSA (or AE, VAE) of all tasks of a sequence: what the planners of its seeds begin with.

Each task's spaces are learned of its own data alone and then frozen, as when the task arrives; that
it is done before the planners' training lets all methods share them.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from common.cli import run_cli
from common.control.continual import sequence
from common.run import Run
from common.stacked import adam, randint, seed_generators
from common.torch_utils import setup
from papers.vq_cd.config import AlignConfig, check_align
from papers.vq_cd.learning import ALIGNING, arrays_of, make_spaces
from papers.vq_cd.method import Paper
from papers.vq_cd.task import offline, sequence_of

LOG_EVERY = 200
REVIVE_EVERY, REVIVE_UNTIL = 50, 0.8  # updates; share of them after which codes stay


def rate(lr: float, progress: float) -> float:
    """Falls from ``lr`` to a tenth of it, by a cosine."""
    return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def train(cfg: AlignConfig) -> None:
    """Train, or go on from the last checkpoint."""
    check_align(cfg)
    run = Run.open(cfg.out, cfg)
    if run.finished:
        return
    device = setup(cfg.device, 0)
    sources = [offline(domain) for domain in sequence_of(cfg.task)]
    made = make_spaces(cfg, [source.dims for source in sources])
    spaces = nn.ModuleList(made).to(device)
    optimizer = adam([{"params": list(spaces.parameters())}], lr=cfg.lr)
    drawing = seed_generators(cfg.seed, ALIGNING, device)
    run.keep(spaces=spaces, optimizer=optimizer, drawing=drawing)
    loaded: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    for at in sequence(
        run.steps(cfg.steps * len(sources), drop=("optimizer",)), [cfg.steps] * len(sources)
    ):
        if at.task not in loaded:  # only this task's data, as when it arrives
            arrays = arrays_of(sources[at.task], Paper.horizon)
            steps = (arrays.states[arrays.training], arrays.actions[arrays.training])
            loaded = {at.task: (steps[0].to(device), steps[1].to(device))}
        for group in optimizer.param_groups:
            group["lr"] = rate(cfg.lr, at.step / cfg.steps)
        own = made[2 * at.task : 2 * at.task + 2]
        index = randint(drawing, len(loaded[at.task][0]), cfg.batch)
        losses, latents = [], []
        for space, values in zip(own, loaded[at.task], strict=True):
            loss, z = space.loss(values[index], drawing)
            losses.append(loss)
            latents.append(z)
        optimizer.zero_grad(set_to_none=True)  # of other tasks nothing has a gradient
        (losses[0] + losses[1]).sum().backward()
        optimizer.step()
        reviving = (at.step + 1) % REVIVE_EVERY == 0 and at.step < REVIVE_UNTIL * cfg.steps
        for space, z in zip(own, latents, strict=True):
            space.after_update()
            if reviving:
                space.revive(z, drawing)
        if (at.step + 1) % LOG_EVERY == 0:
            step = at.task * cfg.steps + at.step + 1
            run.log(step, loss=losses[0].tolist(), action_loss=losses[1].tolist())


if __name__ == "__main__":
    run_cli(train, AlignConfig)
