"""What masks cost: an iteration of Prompt-DT, of HarmoDT, and HarmoDT as the authors' code does it.

    python -m papers.harmodt.bench [--json FILE]

The same batch and network. *Reloading* copies the whole state twice and loads it twice in every
iteration (authors' code); here the masked weights go into the forward pass as they are. *Scores* is
one update of all masks. One thread, turns interleaved, medians of CPU time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import files
from common.cli import run_cli
from common.control.decision_transformer import DecisionTransformer, adamw
from common.control.sequences import Windows, action_loss
from common.control.sparse import partial_step
from common.timing import alternately
from common.torch_utils import setup
from papers.harmodt.config import Config
from papers.harmodt.learning import Batch, gradients_of, make_net
from papers.harmodt.method import (
    agreement,
    descend,
    flat,
    harmony,
    initial_masks,
    maskable,
    updated_masks,
    views,
)
from papers.harmodt.task import ACTION_DIM, OBS_DIM


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    width: int = Config.width  # of the transformer
    layers: int = Config.layers  # of the transformer
    batch: int = Config.batch  # windows
    tasks: int = 6  # whose masks are moved
    repeats: int = 15  # interleaved; medians are compared


def random_batch(cfg: BenchConfig) -> Batch:
    """Windows and prompts of noise."""

    def some(length: int) -> Windows:
        return Windows(
            torch.rand(cfg.batch, length),
            torch.randn(cfg.batch, length, OBS_DIM),
            torch.rand(cfg.batch, length, ACTION_DIM) * 2 - 1,
            torch.arange(length).expand(cfg.batch, -1),
            torch.ones(cfg.batch, length, dtype=torch.bool),
        )

    return some(Config.window), some(Config.prompt)


def plain(net: DecisionTransformer, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Prompt-DT's iteration as PyTorch has it."""
    optimizer.zero_grad(set_to_none=True)
    action_loss(net(*batch), batch[0]).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), Config.clip)
    optimizer.step()


def masked(
    net: DecisionTransformer, optimizer: torch.optim.Optimizer, batch: Batch, mask: Tensor
) -> None:
    """HarmoDT's iteration (Eqs. 2 and 8)."""
    part = views(mask, maskable(net))
    _, gradients = gradients_of(net, part, batch, Config.clip)
    descend(net, optimizer, gradients, part)


def reloading(
    net: DecisionTransformer, optimizer: torch.optim.Optimizer, batch: Batch, mask: Tensor
) -> None:
    """The same with copies of the whole state."""
    theta = maskable(net)
    part = views(mask, theta)
    before = copy.deepcopy(net.state_dict())
    state = {n: v * part[n] if n in part else v.clone() for n, v in net.state_dict().items()}
    net.load_state_dict(state)
    optimizer.zero_grad(set_to_none=True)
    action_loss(net(*batch), batch[0]).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), Config.clip)
    partial_step(optimizer, [(theta[n], m) for n, m in part.items()])
    after = copy.deepcopy(net.state_dict())
    net.load_state_dict(
        {n: torch.where(part[n], v, before[n]) if n in part else v for n, v in after.items()}
    )


def scores(net: DecisionTransformer, batch: Batch, masks: Tensor) -> None:
    """An update of all masks (Eqs. 3 to 7)."""
    theta = maskable(net)
    found = [gradients_of(net, views(m, theta), batch, Config.clip)[1] for m in masks]
    gradients = torch.stack([flat(g, list(theta)) for g in found])
    score = harmony(gradients, flat(theta, list(theta)), "fisher", Config.lam)
    updated_masks(masks, score, agreement(gradients), round(Config.flip_share * masks.shape[1]))


def bench(cfg: BenchConfig) -> None:
    """Print milliseconds of CPU time and what an iteration costs relative to Prompt-DT's."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    config = Config(width=cfg.width, layers=cfg.layers)
    nets = [make_net(config).train() for _ in range(4)]
    optimizers = [adamw(net.parameters(), 1e-3) for net in nets]
    masks = initial_masks(maskable(nets[0]), Config.sparsity, cfg.tasks, torch.Generator())
    batch = random_batch(cfg)
    found = alternately(
        {
            "Prompt-DT": lambda: plain(nets[0], optimizers[0], batch),
            "HarmoDT": lambda: masked(nets[1], optimizers[1], batch, masks[0]),
            "HarmoDT, reloading": lambda: reloading(nets[2], optimizers[2], batch, masks[0]),
            "scores of all tasks": lambda: scores(nets[3], batch, masks),
        },
        cfg.repeats,
    )
    for name, milliseconds in found.items():
        ratio = milliseconds / found["Prompt-DT"]
        print(f"  {name:20s} {milliseconds:7.1f} ms  {ratio:5.2f} x")
    if cfg.json is not None:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
