"""What masks cost: an update without, with dense Adam (the paper's), and with sparse steps.

    python -m papers.vq_cd.bench [--json FILE]

*Masked steps* put back what is not the task's to move; *sparse steps* also zero moments there (the
paper's Table 9 has a sparse optimiser at two to four times a dense one's time). The same batch and
network, one seed; one thread, turns interleaved, medians of CPU time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common import files
from common.cli import run_cli
from common.control.denoisers import TemporalUNet
from common.control.sparse import masked, partial_step, sparse_step
from common.stacked import adam, randint, randn, seed_generators
from common.timing import alternately
from common.torch_utils import setup
from papers.vq_cd.config import Config
from papers.vq_cd.learning import run_with
from papers.vq_cd.method import Paper, draw_masks, maskable, noise_loss, schedule

CHANNELS = Paper.state_latents * Paper.code_dim


@dataclass
class BenchConfig:
    """What to measure."""

    json: Path | None = None  # write the numbers here as well
    width: int = Config.width  # of the U-Net
    batch: int = Config.batch  # windows
    tasks: int = 3  # that share the weights
    repeats: int = 15  # interleaved; medians are compared


class Side:
    """A network and its update.

    Args:
        cfg: sizes.
        kind: of the update.
    """

    def __init__(self, cfg: BenchConfig, kind: str) -> None:
        self.kind, self.cfg = kind, cfg
        self.net: nn.Module = TemporalUNet(seed_generators((0,), 1), CHANNELS, 2, cfg.width)
        weights = maskable(self.net)
        self.mask = draw_masks(weights, cfg.tasks, seed_generators((0,), 2))[0]
        self.pairs: list[tuple[Tensor, Tensor]] = [(w, self.mask[n]) for n, w in weights.items()]
        self.optimizer = adam([{"params": list(self.net.parameters())}], lr=1e-3)
        self.drawing, self.schedule = seed_generators((0,), 3), schedule()

    def __call__(self) -> None:
        """One update."""
        parameters = dict(self.net.named_parameters())
        denoise = self.net
        if self.kind != "no mask":
            denoise = run_with(self.net, {**parameters, **masked(parameters, self.mask)})
        x, noise = (randn(self.drawing, self.cfg.batch, Paper.horizon, CHANNELS) for _ in range(2))
        n = randint(self.drawing, len(self.schedule), self.cfg.batch)
        given = torch.zeros(1, self.cfg.batch, 2)
        loss = noise_loss(denoise, x, n, noise, given, self.schedule)
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        if self.kind == "masked steps":
            partial_step(self.optimizer, self.pairs)
        elif self.kind == "sparse steps":
            sparse_step(self.optimizer, self.pairs)
        else:
            self.optimizer.step()


def bench(cfg: BenchConfig) -> None:
    """Print milliseconds of CPU time and what an update costs relative to one without masks."""
    setup("cpu", 0)
    torch.set_num_threads(1)
    kinds = ("no mask", "dense Adam", "masked steps", "sparse steps")
    found = alternately({kind: Side(cfg, kind) for kind in kinds}, cfg.repeats)
    for name, milliseconds in found.items():
        print(f"  {name:14s} {milliseconds:7.1f} ms  {milliseconds / found['no mask']:5.2f} x")
    if cfg.json is not None:
        files.write_json(cfg.json, found)


if __name__ == "__main__":
    run_cli(bench, BenchConfig)
