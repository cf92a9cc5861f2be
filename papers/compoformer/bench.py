"""What composition costs: an update with and without sources, their features kept or computed anew.

    python -m papers.compoformer.bench [--json FILE]

*Reloading* applies the masks of each source by copying the whole state and loading it (authors'
code); *computed anew* gives masked weights to the forward pass; *kept* asks the sources once for a
task's pool of windows. One thread, turns interleaved, medians of CPU time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import files
from common.cli import run_cli
from common.control.sequences import Windows, action_loss
from common.timing import alternately
from common.torch_utils import setup
from papers.compoformer.config import Config
from papers.compoformer.method import composed, mask_of
from papers.compoformer.network import Continual, views
from papers.compoformer.task import ACTION_DIM, OBS_DIM, STREAMS
from papers.compoformer.train import take_weights


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    width: int = Config.width  # of the transformer
    layers: int = Config.layers  # of the transformer
    batch: int = Config.batch  # windows
    sources: int = 4  # tasks that have been learned
    repeats: int = 15  # interleaved; medians are compared


def random_windows(cfg: BenchConfig) -> Windows:
    """Windows of noise."""
    length = Config.window
    return Windows(
        torch.rand(cfg.batch, length),
        torch.randn(cfg.batch, length, OBS_DIM),
        torch.rand(cfg.batch, length, ACTION_DIM) * 2 - 1,
        torch.arange(length).expand(cfg.batch, -1),
        torch.ones(cfg.batch, length, dtype=torch.bool),
    )


def prepared(cfg: BenchConfig) -> Continual:
    """CompoFormer-Prune after some tasks; sentences are noise."""
    config = Config("compo_prune", "ocw7", width=cfg.width, layers=cfg.layers)
    net = Continual(config, torch.randn(len(STREAMS["ocw7"].tasks), 384))
    for k in range(cfg.sources):
        take_weights(net, k, 0.5, False)
        net.grown[k] = True
    return net


@torch.no_grad()
def reloading(net: Continual, windows: Windows) -> Tensor:
    """Features of all sources by copies of the whole state. [S, B, T, d]"""
    found = []
    for k in net.sources(len(net.texts) - 1):
        before = copy.deepcopy(net.trunks[0].state_dict())
        mask = views(mask_of(net.owner, k), net.maskable())
        state = {n: v * mask[n] if n in mask else v.clone() for n, v in before.items()}
        net.trunks[0].load_state_dict(state)
        found.append(net.trunks[0](windows))
        net.trunks[0].load_state_dict(before)
    return torch.stack(found)


def update(net: Continual, windows: Windows, features: Tensor | None) -> None:
    """Forward and backward of a task's loss, on mixed features where there are any."""
    k = len(net.texts) - 1
    own = net.features(k, windows)
    net.zero_grad(set_to_none=True)
    if features is None:
        action_loss(torch.tanh(net.heads[k](own)), windows).backward()
        return
    weights = torch.full((len(features),), 1 / len(features))
    action_loss(net.fusions[k](composed(weights, features), own), windows).backward()


def bench(cfg: BenchConfig) -> None:
    """Print milliseconds of CPU time and what an update costs relative to one without sources."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    net, windows = prepared(cfg), random_windows(cfg)
    k = len(net.texts) - 1
    kept, _ = net.of_sources(k, windows)
    found = alternately(
        {
            "without sources": lambda: update(net, windows, None),
            "kept": lambda: update(net, windows, kept),
            "computed anew": lambda: update(net, windows, net.of_sources(k, windows)[0]),
            "reloading": lambda: update(net, windows, reloading(net, windows)),
        },
        cfg.repeats,
    )
    for name, milliseconds in found.items():
        ratio = milliseconds / found["without sources"]
        print(f"  {name:20s} {milliseconds:7.1f} ms  {ratio:5.2f} x")
    if cfg.json is not None:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
